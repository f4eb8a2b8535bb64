"""The source system's stress test, as its description tells it, over HTTP alone.

Also a script against a running `make run`: BASE_URL, TOKEN_URL and IMAGE_URL name the service, the token endpoint and
a picture that the service may fetch (its host in IMAGE_URL_PRIVATE_HOSTS). Ends with 1 when a request fails.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx2

if TYPE_CHECKING:
    from running_service import RunningService

PATHS = {"inference": "/api/v1/inference", "status": "/api/v1/jobs/status", "results": "/api/v1/jobs/results"}
USERS = ("alice", "bob", "charlie")
REQUESTS = 30
CONCURRENCY = 5
TIMEOUT_S = 30.0
POLL_S = 0.5
POLL_TIMEOUT_S = 60.0
ENDED = ("COMPLETED", "FAILED", "NOT_FOUND")


@dataclass(frozen=True)
class Answer:
    """What one request met; `status` 0 stands for an exception. `job` is how a polled job ended."""

    endpoint: str
    user: str
    status: int
    seconds: float
    job: str = ""

    @property
    def ok(self) -> bool:
        return 0 < self.status < 400


def token(token_url: str, user: str) -> str:
    """As the source system's script gets one: by another host name than the address it reaches."""
    form = {"grant_type": "client_credentials", "scope": "openid", "client_id": user, "client_secret": "test-secret"}
    answer = httpx2.post(token_url, data=form, headers={"Host": "mock-oidc:8080"}, timeout=TIMEOUT_S, trust_env=False)
    answer.raise_for_status()
    return str(answer.json()["access_token"])


def post(base_url: str, endpoint: str, bearer: str, body: dict[str, str]) -> httpx2.Response:
    headers = {"Authorization": f"Bearer {bearer}"}
    return httpx2.post(base_url + PATHS[endpoint], json=body, headers=headers, timeout=TIMEOUT_S, trust_env=False)


def poll(base_url: str, bearer: str, job_id: str) -> str:
    deadline = time.monotonic() + POLL_TIMEOUT_S
    while time.monotonic() < deadline:
        status = str(post(base_url, "status", bearer, {"job_id": job_id}).json()["status"])
        if status in ENDED:
            return status
        time.sleep(POLL_S)
    return "POLL_TIMEOUT"


def ask(base_url: str, image_url: str, user: str, bearer: str, endpoint: str) -> Answer:
    body = {"image_url": image_url} if endpoint == "inference" else {"job_id": str(uuid.uuid4())}
    began = time.monotonic()
    try:
        answer = post(base_url, endpoint, bearer, body)
        submitted = endpoint == "inference" and answer.status_code < 400
        job = poll(base_url, bearer, answer.json()["job_id"]) if submitted else ""
        return Answer(endpoint, user, answer.status_code, time.monotonic() - began, job)
    except (httpx2.HTTPError, ValueError, KeyError):
        return Answer(endpoint, user, 0, time.monotonic() - began)


def stress(base_url: str, token_url: str, image_url: str) -> list[Answer]:
    """`--mode mixed --poll` with everything else as it is by default: users in turns, endpoints by chance."""
    tokens = {user: token(token_url, user) for user in USERS}
    turns = [(USERS[number % len(USERS)], random.choice(list(PATHS))) for number in range(REQUESTS)]
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        asked = [pool.submit(ask, base_url, image_url, user, tokens[user], endpoint) for user, endpoint in turns]
        return [one.result() for one in asked]


def report(answers: list[Answer]) -> str:
    failed = [answer for answer in answers if not answer.ok]
    seconds = [answer.seconds for answer in answers]
    lines = [
        "Stress test complete",
        f"Total requests: {len(answers)}",
        f"Success: {len(answers) - len(failed)}",
        f"Failed: {len(failed)}",
        f"Latency min/s: {min(seconds):.3f}",
        f"Latency p50/s: {statistics.median(seconds):.3f}",
        f"Latency max/s: {max(seconds):.3f}",
        f"By endpoint: {Counter(answer.endpoint for answer in answers)}",
        f"By status: {Counter(answer.job or answer.status for answer in answers)}",
        f"By user: {Counter(answer.user for answer in answers)}",
    ]
    return "\n".join([*lines, *(f"  failed: {answer}" for answer in failed[:8])])


def test_the_source_systems_stress_test_runs_green(service: RunningService, picture_url: str) -> None:
    answers = stress(service.cluster.url, f"{service.stack.authority.url}/token", picture_url)
    assert len(answers) == REQUESTS
    assert all(answer.ok for answer in answers), report(answers)
    # That script takes any end of a job for a success; we do not.
    assert {answer.job for answer in answers if answer.endpoint == "inference"} == {"COMPLETED"}, report(answers)


def main() -> int:
    """The same against a service that runs already."""
    answers = stress(
        os.environ.get("BASE_URL", "http://localhost:8080"),
        os.environ.get("TOKEN_URL", "http://localhost:18080/default/token"),
        os.environ["IMAGE_URL"],
    )
    print(report(answers))
    return 0 if all(answer.ok for answer in answers) else 1


if __name__ == "__main__":
    sys.exit(main())
