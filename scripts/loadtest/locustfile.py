"""Load profiles for Locust, which is no dependency: `pip install locust` into an environment of its own.

Two ways to put load on a service, chosen by name on the command line:

    locust -f scripts/loadtest/locustfile.py --headless -t 30s -u 4 Closed    so many scientists who wait for answers
    locust -f scripts/loadtest/locustfile.py --headless -t 30s -u 1 Open      so many pictures a second, come what may

A closed load slows down with the service and hides how long people would wait; an open one keeps coming, as a
microscope does. TOKEN is an access token; without it the development issuer at TOKEN_URL makes one for each user.
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
UNDER_WAY_MAX = 500
"""Pictures of one `Open` user that may be under way: the service is overrun when there are more."""
TIMEOUT_S = 30
JOB_TIMEOUT_S = 60
POLL_S = 0.5

numbers = itertools.count(1)


class Scientist(HttpUser):
    """Sends pictures and waits for what they show; each job is a figure of its own, named `job`."""

    abstract = True
    host = "http://localhost:8080"

    def on_start(self) -> None:
        """Sign in."""
        token = os.environ.get("TOKEN") or development_token(f"locust-{next(numbers)}")
        self.client.headers["Authorization"] = f"Bearer {token}"

    def classify(self) -> None:
        """One picture, from its upload to the end of its job."""
        began = time.monotonic()
        answer = self.client.post("/api/v1/jobs", files={"image": next(PICTURES)}, timeout=TIMEOUT_S)
        if answer.status_code != 202:
            return  # Locust has counted it
        status = self.wait_for(f"/api/v1/jobs/{answer.json()['job_id']}")
        record("job", time.monotonic() - began, None if status == "COMPLETED" else f"the job ended {status}")

    def wait_for(self, path: str) -> str:
        """The status that the job ended with, or the last one seen."""
        status, deadline = "unknown", time.monotonic() + JOB_TIMEOUT_S
        while time.monotonic() < deadline:
            answer = self.client.get(path, name="/api/v1/jobs/{job_id}", timeout=TIMEOUT_S)
            if answer.status_code == 200:
                status = str(answer.json()["status"])
            if status in ("COMPLETED", "FAILED", "CANCELLED"):
                break
            time.sleep(POLL_S)  # gevent's: others go on
        return status


class Closed(Scientist):
    """The next picture when the last one is answered."""

    wait_time = constant(0)

    @task
    def work(self) -> None:
        """One picture after the other."""
        self.classify()


class Open(Scientist):
    """A picture every 1/RATE seconds, whether or not the ones before are answered."""

    wait_time = constant_throughput(RATE)

    def on_start(self) -> None:
        """Sign in, with room for what is under way."""
        super().on_start()
        self.under_way = Pool(UNDER_WAY_MAX)

    @task
    def arrive(self) -> None:
        """One more picture, or a failure named `arrival` when too many are under way."""
        if self.under_way.free_count() > 0:
            self.under_way.spawn(self.classify)
        else:
            record("arrival", 0, f"{UNDER_WAY_MAX} pictures are under way")

    def on_stop(self) -> None:
        """What is under way is no figure any more."""
        self.under_way.kill()


def record(name: str, seconds: float, fault: str | None) -> None:
    """A figure of our own among Locust's."""
    figure = {"request_type": "JOB", "name": name, "response_time": seconds * 1000, "response_length": 0, "context": {}}
    events.request.fire(**figure, exception=RuntimeError(fault) if fault else None)


def development_token(user: str) -> str:
    """A token of the development issuer."""
    form = {"grant_type": "client_credentials", "client_id": user, "client_secret": "locust", "scope": "openid"}
    answer = requests.post(TOKEN_URL, data=form, timeout=TIMEOUT_S)
    answer.raise_for_status()
    return str(answer.json()["access_token"])
