"""Requests made up from the description, good and bad: no 5xx, no answer that the description does not have.

`make fuzz` sends 200 to each route; without FUZZ_EXAMPLES it is fewer, so that the whole suite stays short.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import hypothesis
import pytest
import requests
import schemathesis
from described import DOCUMENT
from gateway_parts import PICTURE, Running, listening, running_gateway
from hypothesis import strategies
from hypothesis.stateful import run_state_machine_as_test
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from serve_app.local.authority import Authority
from serve_app.models.registry import ModelConfig, card
from serve_app.settings import Settings
from serve_app.usage.migrations import migrate

SEM_CLASSIFIER: Final = "serve_app.models.sem_classifier:SemClassifier"
EXAMPLES: Final = int(os.environ.get("FUZZ_EXAMPLES", "20"))
GOOD_SHARE: Final = 0.3
NOBODY: Final = "0" * 32
CARDS: Final = [
    card(ModelConfig(name=name, implementation=implementation, min_replicas=0))
    for name, implementation in (("sem-classifier", SEM_CLASSIFIER), ("words", "tests.toy_model:WordStatistics"))
]
"""Models that may sleep: the service is healthy without replicas of them."""
OPERATIONS: Final = [(method, path) for path, methods in DOCUMENT["paths"].items() for method in methods]
HELD: Final = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
QUICK: Final = hypothesis.settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(hypothesis.HealthCheck),
)
DECISION: Final = {"principal_id": NOBODY, "name": "nobody", "reason": "A test.", "submits_per_s": 5}


class Known:
    """What good requests name, and how they are made."""

    def __init__(self, gateway: Running, url: str, job_id: str, cancelled_id: str) -> None:
        self.url, self.cancelled_id = url, cancelled_id
        self.headers = gateway.bearer("root", realm_access={"roles": ["sem-admin"]})
        self.names = {"job_id": job_id, "principal_id": NOBODY, "slug": "job-unknown", "name": "mask.png"}

    def make_good(self, case: Case) -> None:
        """Put what is there into a made-up request, and leave all else as it is."""
        case.path_parameters = {name: self.names[name] for name in case.path_parameters or {}}
        case.query, case.headers = {}, {}
        if case.path.endswith("/cancel"):
            case.path_parameters = {"job_id": self.cancelled_id}
        if case.media_type == "multipart/form-data":
            case.body = {"image": PICTURE}
        elif "overrides" in case.path or "blocks" in case.path:
            self._decide(case)
        elif case.path in ("/api/v1/jobs", "/api/v1/inference"):
            case.body = {"model": "words", "params": {"text": "a b"}}
        elif case.media_type == "application/json":
            case.body = {"job_id": self.names["job_id"]}

    def _decide(self, case: Case) -> None:
        sort = case.path.split("/")[4]
        decision = {**DECISION} if sort == "overrides" else {k: v for k, v in DECISION.items() if k != "submits_per_s"}
        if case.method == "DELETE":
            requests.post(f"{self.url}/api/v1/admin/{sort}", json=decision, headers=self.headers, timeout=10)
        elif case.method == "POST":
            case.body = decision

    def call(self, case: Case) -> Any:
        """Send it, and hold the answer to the description."""
        made_up = {name: value for name, value in (case.headers or {}).items() if name.lower() != "authorization"}
        case.headers = {**made_up, **self.headers}
        answer = case.call(base_url=self.url, allow_redirects=False, timeout=20)
        case.validate_response(answer, checks=HELD)
        return answer


@asynccontextmanager
async def known(settings: Settings, authority: Authority) -> AsyncIterator[Known]:
    """A gateway on a socket, without limits that a flood would meet; in it a job that has ended, one cancelled."""
    plenty = {"rate_reads_per_s": 1e5, "rate_submits_per_s": 1e5, "quota_submits_per_day": 0}
    house = {"rate_house_reads_per_s": 1e5, "rate_house_submits_per_s": 1e5}
    async with (
        running_gateway(settings, authority, cards=CARDS, **plenty, **house) as gateway,
        listening(gateway.application) as url,
    ):
        job_id = await gateway.completed_with_file("root")
        gateway.model.open.clear()
        cancelled_id = await gateway.submit("root")
        assert (await gateway.post(f"/api/v1/jobs/{cancelled_id}/cancel", "root")).status_code == 200
        gateway.model.open.set()
        yield Known(gateway, url, job_id, cancelled_id)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
async def test_a_route_answers_as_described(
    method: str, path: str, settings: Settings, database: str, authority: Authority
) -> None:
    migrate(database)
    async with known(settings, authority) as there:
        statuses = await asyncio.to_thread(_fuzz, there, method, path)
    good = sum(count for status, count in statuses.items() if status < 400)
    assert sum(statuses.values()) >= EXAMPLES
    assert good >= GOOD_SHARE * sum(statuses.values()), statuses


def _fuzz(there: Known, method: str, path: str) -> Counter[int]:
    operation = schemathesis.openapi.from_dict(DOCUMENT)[path][method]
    made_up = [operation.as_strategy(GenerationMode.POSITIVE)]
    if operation.body or operation.path_parameters or operation.query:
        made_up.append(operation.as_strategy(GenerationMode.NEGATIVE))
    statuses: Counter[int] = Counter()
    turns = iter(range(10**9))

    @QUICK
    @hypothesis.given(case=strategies.one_of(made_up))
    def send(case: Case) -> None:
        if next(turns) % 2:
            there.make_good(case)
        statuses[there.call(case).status_code] += 1

    send()
    return statuses


async def test_links_lead_from_a_submit_to_its_job(settings: Settings, database: str, authority: Authority) -> None:
    migrate(database)
    followed: Counter[tuple[str, int]] = Counter()
    async with known(settings, authority) as there:
        await asyncio.to_thread(_follow, there, followed)
    reads = {name for name, status in followed if status == 200}
    assert {"GET /api/v1/jobs/{job_id}", "POST /api/v1/jobs/status", "POST /api/v1/jobs/results"} <= reads, followed


def _follow(there: Known, followed: Counter[tuple[str, int]]) -> None:
    class Links(schemathesis.openapi.from_dict(DOCUMENT).as_state_machine()):  # type: ignore[misc]
        def before_call(self, case: Case) -> None:
            if case.path in ("/api/v1/jobs", "/api/v1/inference"):
                there.make_good(case)

        def get_call_kwargs(self, case: Case) -> dict[str, Any]:
            return {"base_url": there.url, "headers": there.headers, "allow_redirects": False, "timeout": 20}

        def validate_response(self, response: Any, case: Case, **_: Any) -> None:
            case.validate_response(response, checks=HELD)
            followed[f"{case.method} {case.path}", response.status_code] += 1

    run_state_machine_as_test(Links, settings=hypothesis.settings(QUICK, stateful_step_count=8))
