"""Load profiles for Locust, which is no dependency: `pip install locust` into an environment of its own.

    locust -f scripts/loadtest/locustfile.py --headless -t 30s -u 4 Closed    4 users who wait for each answer
    locust -f scripts/loadtest/locustfile.py --headless -t 30s -u 1 Open      RATE pictures a second, at any latency

A closed load slows down with the service and hides how long users would wait; an open one does not. TOKEN is an access
token; without it the development issuer at TOKEN_URL makes one for each user.
"""

import itertools
import os
import time
from pathlib import Path

import requests
from gevent.pool import Pool
from locust import HttpUser, constant, constant_throughput, events, task

SAMPLES = Path(__file__).resolve().parents[2] / "serve_app" / "samples"
PICTURES = itertools.cycle([(path.name, path.read_bytes()) for path in sorted(SAMPLES.glob("*.jpg"))])
TOKEN_URL = os.environ.get("TOKEN_URL", "http://localhost:18080/default/token")
RATE = float(os.environ.get("RATE", "5"))
"""Pictures a second of one `Open` user."""
IN_FLIGHT_MAX = 500
"""Pictures in flight of one `Open` user; with more the service is overloaded."""
TIMEOUT_S = 30
JOB_TIMEOUT_S = 60
POLL_S = 0.5

numbers = itertools.count(1)


class Scientist(HttpUser):
    """Sends pictures and waits for their jobs, which Locust's table shows as `job`."""

    abstract = True
    host = "http://localhost:8080"

    def on_start(self) -> None:
        """Get a token."""
        token = os.environ.get("TOKEN")
        if not token:
            form = {"grant_type": "client_credentials", "client_id": f"locust-{next(numbers)}", "scope": "openid"}
            answer = requests.post(TOKEN_URL, data={**form, "client_secret": "locust"}, timeout=TIMEOUT_S)
            answer.raise_for_status()
            token = answer.json()["access_token"]
        self.client.headers["Authorization"] = f"Bearer {token}"

    def classify(self) -> None:
        """One picture, from its upload to the end of its job."""
        began = time.monotonic()
        answer = self.client.post("/api/v1/jobs", files={"image": next(PICTURES)}, timeout=TIMEOUT_S)
        if answer.status_code != 202:
            return  # Locust has counted it
        path, status = f"/api/v1/jobs/{answer.json()['job_id']}", "unknown"
        while status not in ("COMPLETED", "FAILED", "CANCELLED") and time.monotonic() - began < JOB_TIMEOUT_S:
            answer = self.client.get(path, name="/api/v1/jobs/{job_id}", timeout=TIMEOUT_S)
            if answer.status_code == 200:
                status = str(answer.json()["status"])
            if status not in ("COMPLETED", "FAILED", "CANCELLED"):
                time.sleep(POLL_S)
        record("job", time.monotonic() - began, None if status == "COMPLETED" else f"the job ended {status}")


class Closed(Scientist):
    """Sends the next picture when the last job has ended."""

    wait_time = constant(0)

    @task
    def work(self) -> None:
        """One picture."""
        self.classify()


class Open(Scientist):
    """Sends a picture every 1/RATE seconds, whether or not the earlier jobs have ended."""

    wait_time = constant_throughput(RATE)

    def on_start(self) -> None:
        """Get a token, and a pool for the pictures in flight."""
        super().on_start()
        self.in_flight = Pool(IN_FLIGHT_MAX)

    @task
    def arrive(self) -> None:
        """One more picture, or a failure named `arrival` when too many are in flight."""
        if self.in_flight.free_count() > 0:
            self.in_flight.spawn(self.classify)
        else:
            record("arrival", 0, f"{IN_FLIGHT_MAX} pictures are in flight")

    def on_stop(self) -> None:
        """Drop the pictures in flight; they are not counted."""
        self.in_flight.kill()


def record(name: str, seconds: float, failure: str | None) -> None:
    """Add a row to Locust's table."""
    row = {"request_type": "JOB", "name": name, "response_time": seconds * 1000, "response_length": 0, "context": {}}
    events.request.fire(**row, exception=RuntimeError(failure) if failure else None)
