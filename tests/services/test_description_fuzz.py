"""Requests made up from the description, good and bad: no 5xx, no answer that the description does not have.

`make fuzz` sends 200 to each route; without FUZZ_EXAMPLES it is fewer, so that the whole suite stays short.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator
from functools import cache
from typing import Any, Final

import hypothesis
import pytest
import pytest_asyncio
import requests
import schemathesis
from described import DOCUMENT
from gateway_parts import DETECTOR, IMAGES_API, Running, as_admin, listening, running_gateway
from good_requests import USER, GoodRequests
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
from schemathesis.specs.openapi.schemas import OpenApiSchema
from servers import copied_database, empty_redis

from serve_app.local.issuer import DevIssuerServer
from serve_app.local.postgres import Postgres
from serve_app.local.valkey import Valkey
from serve_app.models.registry import ModelConfig, card

SEM_CLASSIFIER: Final = "serve_app.models.sem_classifier:SemClassifier"
EXAMPLES: Final = int(os.environ.get("FUZZ_EXAMPLES", "5"))
GOOD_SHARE: Final = 0.3
SHARE_FROM: Final = 50
"""From so many requests on the share is held to GOOD_SHARE; of fewer, at least one must be good."""
CARDS: Final = [
    card(ModelConfig(name=name, implementation=implementation, min_replicas=0))
    for name, implementation in (("sem-classifier", SEM_CLASSIFIER), ("words", "tests.toy_model:WordStatistics"))
] + [DETECTOR]
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
    suppress_health_check=list(hypothesis.HealthCheck),
)

WALKS: Final = hypothesis.settings(
    QUICK, max_examples=max(EXAMPLES, 20), stateful_step_count=8, derandomize=True
)  # fewer do not come to every link, nor do those of every seed

# The gateway under test draws jitter in the loop beside, which the fuzzer takes for a draw of its own.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Do not use the `random` module"),
    pytest.mark.asyncio(loop_scope="module"),
]


class Known:
    """A gateway, and requests to it that pass."""

    def __init__(self, gateway: Running, url: str) -> None:
        self.url, self.gateway, self.good = url, gateway, GoodRequests(gateway)
        self.session = requests.Session()
        self.headers = gateway.bearer(USER, realm_access={"roles": ["sem-admin"]})

    def call(self, case: Case) -> Any:
        """Send it, and hold the answer to the description."""
        made_up = {name: value for name, value in (case.headers or {}).items() if name.lower() != "authorization"}
        case.headers = {**made_up, **self.headers}
        answer = case.call(base_url=self.url, session=self.session, allow_redirects=False, timeout=20)
        case.validate_response(answer, checks=HELD)
        return answer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def only(valkey: Valkey, postgres: Postgres, template: str, authority: DevIssuerServer) -> AsyncIterator[Known]:
    """The gateway of all routes, on a socket, without limits that a flood would meet."""
    plenty: dict[str, Any] = {
        "predict_model": "sem-classifier",
        "rate_reads_per_s": 1e5,
        "rate_submits_per_s": 1e5,
        "quota_submits_per_day": 0,
    }
    house = {"rate_house_reads_per_s": 1e5, "rate_house_submits_per_s": 1e5}
    with copied_database(postgres, template) as database_url, empty_redis(valkey, database_url) as settings:
        async with (
            running_gateway(settings, authority, **(IMAGES_API | {"cards": CARDS}), **plenty, **house) as gateway,
            listening(gateway.application) as url,
        ):
            there = Known(gateway, url)
            with there.session:
                yield there


@pytest_asyncio.fixture(loop_scope="module")
async def there(only: Known) -> AsyncIterator[Known]:
    """The gateway before a route: nothing made up so far stops, blocks or limits what comes."""
    only.good = GoodRequests(only.gateway)
    yield only
    for name, key in (("stops", "stop"), ("blocks", "principal_id"), ("overrides", "principal_id")):
        path = f"/api/v1/admin/{name}"
        for found in (await as_admin(only.gateway, "GET", path)).json()[name]:
            assert (await as_admin(only.gateway, "DELETE", f"{path}/{found[key]}")).is_success


@cache
def schema() -> OpenApiSchema:
    return schemathesis.openapi.from_dict(DOCUMENT)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
async def test_a_route_answers_as_described(method: str, path: str, there: Known) -> None:
    statuses = await asyncio.to_thread(_fuzz, there, method, path)
    # 2xx; 3xx counts only where the description knows nothing better.
    best = min(int(status[0]) for status in DOCUMENT["paths"][path][method.lower()]["responses"])
    good = sum(count for status, count in statuses.items() if status // 100 == best)
    assert sum(statuses.values()) >= EXAMPLES
    few = sum(statuses.values()) < SHARE_FROM
    assert good >= (1 if few else GOOD_SHARE * sum(statuses.values())), statuses


def _fuzz(there: Known, method: str, path: str) -> Counter[int]:
    operation = schema()[path][method]
    made_up = [operation.as_strategy(GenerationMode.POSITIVE)]
    if operation.body or operation.path_parameters or operation.query:
        made_up.append(operation.as_strategy(GenerationMode.NEGATIVE))
    statuses: Counter[int] = Counter()
    turns = iter(range(10**9))

    @QUICK
    @hypothesis.given(case=strategies.one_of(made_up))
    def send(case: Case) -> None:
        if next(turns) % 2:
            there.good.improve(case)
        statuses[there.call(case).status_code] += 1

    send()
    return statuses


@pytest.mark.slow(reason="20 walks over the links")
async def test_links_lead_from_a_submit_to_its_job(there: Known) -> None:
    followed: Counter[tuple[str, int]] = Counter()
    await asyncio.to_thread(_follow, there, followed)
    reads = {name for name, status in followed if status == 200}
    assert {"GET /api/v1/jobs/{job_id}", "POST /api/v1/jobs/status", "POST /api/v1/jobs/results"} <= reads, followed


def _follow(there: Known, followed: Counter[tuple[str, int]]) -> None:
    jobs = schema().include(path_regex="^/api/v1/(jobs|inference)")

    class Links(jobs.as_state_machine()):  # type: ignore[misc]
        def before_call(self, case: Case) -> None:
            if case.path in ("/api/v1/jobs", "/api/v1/inference"):
                there.good.improve(case)

        def get_call_kwargs(self, case: Case) -> dict[str, Any]:
            return {"base_url": there.url, "headers": there.headers, "allow_redirects": False, "timeout": 20}

        def validate_response(self, response: Any, case: Case, **_: Any) -> None:
            case.validate_response(response, checks=HELD)
            followed[f"{case.method} {case.path}", response.status_code] += 1

    run_state_machine_as_test(Links, settings=WALKS)
