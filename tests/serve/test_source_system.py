"""What the source system's end-to-end test and its stress test ask of a service, over HTTP alone."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx2
import pytest
from loadtest.stress import Stress, read_plan
from running_service import RunningService

ROUTES = ("/api/v1/inference", "/api/v1/jobs/status", "/api/v1/jobs/results")
UNKNOWN = {"job_id": "2f0c1c1e-8a39-4d4e-9d0a-000000000000"}
REQUESTS = 30
"""What its stress test sends by default."""
POLL_S = 0.5
COMPLETED_S = 60.0


@pytest.fixture
def http(service: RunningService) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=service.cluster.url, timeout=30, trust_env=False) as client:
        yield client


@pytest.fixture
def token_url(service: RunningService) -> str:
    return f"{service.stack.issuer.url}/token"


@pytest.fixture
def alice(http: httpx2.Client, token_url: str) -> dict[str, str]:
    """A token as its clients get one: by another host name than the address they reach."""
    form = {"grant_type": "client_credentials", "scope": "openid", "client_id": "alice", "client_secret": "test-secret"}
    answer = http.post(token_url, data=form, headers={"Host": "mock-oidc:8080"}).raise_for_status()
    return {"Authorization": f"Bearer {answer.json()['access_token']}"}


def test_gateway_and_backend_are_healthy_and_the_version_lists_endpoints(http: httpx2.Client) -> None:
    assert http.get("/__health").status_code == 200
    health = http.get("/health")
    assert health.status_code == 200
    assert health.json()["model_loaded"] is True
    assert health.json()["redis_connected"] is True
    version = http.get("/api/v1/version")
    assert version.status_code == 200
    assert version.json()["endpoints"]


@pytest.mark.parametrize(("headers", "refusals"), [({}, {401}), ({"Authorization": "Bearer not.a.token"}, {401, 403})])
def test_without_a_good_token_every_route_refuses(
    http: httpx2.Client, headers: dict[str, str], refusals: set[int]
) -> None:
    assert {http.post(route, json=UNKNOWN, headers=headers).status_code for route in ROUTES} <= refusals


def test_an_image_url_becomes_a_result(http: httpx2.Client, alice: dict[str, str], picture_url: str) -> None:
    submit, status, results = ROUTES
    submitted = http.post(submit, json={"image_url": picture_url}, headers=alice)
    assert submitted.status_code == 200, submitted.text
    assert submitted.json()["status"] == "PENDING"
    job, deadline = {"job_id": submitted.json()["job_id"]}, time.monotonic() + COMPLETED_S
    while (found := http.post(status, json=job, headers=alice).json()["status"]) != "COMPLETED":
        assert found in ("PENDING", "PROCESSING"), found
        assert time.monotonic() < deadline, f"still {found}"
        time.sleep(POLL_S)
    answer = http.post(results, json=job, headers=alice).json()
    assert (answer["status"], answer["error"]) == ("COMPLETED", "")
    result = answer["result"]
    assert result["label"] in result["all_scores"]
    assert result["confidence"] == max(result["all_scores"].values())
    assert result["device_used"] in ("cpu", "cuda")


def test_an_unknown_job_is_not_found(http: httpx2.Client, alice: dict[str, str]) -> None:
    for route in ROUTES[1:]:
        answer = http.post(route, json=UNKNOWN, headers=alice)
        assert (answer.status_code, answer.json()["status"]) == (200, "NOT_FOUND")


async def test_its_stress_test_runs_green(service: RunningService, token_url: str, picture_url: str) -> None:
    """`--poll` with everything else as it is by default: users take turns, endpoints come by chance."""
    options = ["--base-url", service.cluster.url, "--mock-token-url", token_url, "--image-url", picture_url, "--poll"]
    tally = await Stress(read_plan(options)).run()
    assert (len(tally.latencies), tally.failed) == (REQUESTS, 0), tally.report()
    # That script takes any end of a job for a success; we do not.
    assert set(tally.counts["job status"]) == {"COMPLETED"}, tally.report()
