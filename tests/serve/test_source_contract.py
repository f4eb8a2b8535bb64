"""What the source system's end-to-end test asks of a service, over HTTP alone.

Also a script against a running `make run`: BASE_URL, TOKEN_URL and IMAGE_URL name the service, the token endpoint and
a picture that the service may fetch (its host in IMAGE_URL_PRIVATE_HOSTS). Ends with 1 when a check fails.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx2
import pytest

if TYPE_CHECKING:
    from running_service import RunningService

ROUTES = ("/api/v1/inference", "/api/v1/jobs/status", "/api/v1/jobs/results")
UNKNOWN_ID = "2f0c1c1e-8a39-4d4e-9d0a-000000000000"
POLL_S = 0.5
COMPLETED_S = 60.0


@dataclass(frozen=True)
class Target:
    """Where the service, its tokens and a picture are."""

    base_url: str
    token_url: str
    image_url: str

    def get(self, path: str) -> httpx2.Response:
        return httpx2.get(self.base_url + path, timeout=30, trust_env=False)

    def post(self, path: str, token: str = "", **body: str) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx2.post(self.base_url + path, json=body, headers=headers, timeout=30, trust_env=False)

    def token(self, user: str) -> str:
        """As its clients get one: by another host name than the address they reach."""
        form = {
            "grant_type": "client_credentials",
            "scope": "openid",
            "client_id": user,
            "client_secret": "test-secret",
        }
        headers = {"Host": "mock-oidc:8080"}
        answer = httpx2.post(self.token_url, data=form, headers=headers, timeout=30, trust_env=False)
        answer.raise_for_status()
        return str(answer.json()["access_token"])


def gateway_is_healthy(target: Target) -> None:
    assert target.get("/__health").status_code == 200


def backend_is_healthy(target: Target) -> None:
    answer = target.get("/health")
    assert answer.status_code == 200
    assert answer.json()["model_loaded"] is True
    assert answer.json()["redis_connected"] is True


def version_lists_endpoints(target: Target) -> None:
    answer = target.get("/api/v1/version")
    assert answer.status_code == 200
    assert answer.json()["endpoints"]


def no_token_is_401(target: Target) -> None:
    assert [target.post(route, job_id=UNKNOWN_ID).status_code for route in ROUTES] == [401, 401, 401]


def garbage_token_is_refused(target: Target) -> None:
    for route in ROUTES:
        assert target.post(route, token="not.a.token", job_id=UNKNOWN_ID).status_code in (401, 403)


def image_url_becomes_a_result(target: Target) -> None:
    token = target.token("alice")
    submitted = target.post("/api/v1/inference", token, image_url=target.image_url)
    assert submitted.status_code == 200, submitted.text
    assert submitted.json()["status"] == "PENDING"
    job_id, deadline = submitted.json()["job_id"], time.monotonic() + COMPLETED_S
    while (status := target.post("/api/v1/jobs/status", token, job_id=job_id).json()["status"]) != "COMPLETED":
        assert status in ("PENDING", "PROCESSING"), status
        assert time.monotonic() < deadline, f"still {status}"
        time.sleep(POLL_S)
    answer = target.post("/api/v1/jobs/results", token, job_id=job_id).json()
    assert (answer["status"], answer["error"]) == ("COMPLETED", "")
    result = answer["result"]
    assert result["label"] in result["all_scores"]
    assert result["confidence"] == max(result["all_scores"].values())
    assert result["device_used"] in ("cpu", "cuda")


def unknown_job_is_not_found(target: Target) -> None:
    token = target.token("alice")
    for route in ROUTES[1:]:
        answer = target.post(route, token, job_id=UNKNOWN_ID)
        assert (answer.status_code, answer.json()["status"]) == (200, "NOT_FOUND")


CHECKS: tuple[Callable[[Target], None], ...] = (
    gateway_is_healthy,
    backend_is_healthy,
    version_lists_endpoints,
    no_token_is_401,
    garbage_token_is_refused,
    image_url_becomes_a_result,
    unknown_job_is_not_found,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_source_contract(check: Callable[[Target], None], service: RunningService, picture_url: str) -> None:
    check(Target(service.cluster.url, f"{service.stack.authority.url}/token", picture_url))


def main() -> int:
    """Every check against a running service; a line for each."""
    target = Target(
        os.environ.get("BASE_URL", "http://localhost:8080"),
        os.environ.get("TOKEN_URL", "http://localhost:18080/default/token"),
        os.environ["IMAGE_URL"],
    )
    failed = 0
    for check in CHECKS:
        try:
            check(target)
        except (AssertionError, httpx2.HTTPError) as error:
            failed += 1
            print(f"FAILED  {check.__name__}: {error!r}")
        else:
            print(f"ok      {check.__name__}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
