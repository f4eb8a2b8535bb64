"""Faults of the gateway's own parts: what was done is answered and audited, and nothing is called what it is not."""

from __future__ import annotations

from dataclasses import replace

import httpx2
import pytest
from gateway_parts import Running, as_admin, audit_lines, id_of, running_gateway, service_of, until
from pydantic import field_validator
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from serve_app.contracts import UsageEvent
from serve_app.gateway.context import Call
from serve_app.gateway.endpoint import Endpoint
from serve_app.gateway.routes.table import ROUTES
from serve_app.local.issuer import DevIssuerServer
from serve_app.models.registry import ModelConfig, card
from serve_app.settings import Settings
from serve_app.usage.outbox import Outbox
from tests.toy_model import Text, WordStatistics

WORDS = {"model": "words", "params": {"text": "one two"}}


@pytest.fixture
async def gateway(gateway: Running) -> Running:
    gateway.model.open.clear()
    return gateway


@pytest.fixture
def broken_outbox(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recording meets a defect, which no kind of `ServiceError` tells of."""

    async def record(self: Outbox, event: UsageEvent) -> bool:
        raise ValueError("a defect")

    monkeypatch.setattr(Outbox, "record", record)


@pytest.mark.usefixtures("broken_outbox")
async def test_an_accepted_job_is_answered_202_whatever_becomes_of_its_usage_event(
    gateway: Running, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await gateway.post("/api/v1/jobs", json=WORDS)
    assert answer.status_code == 202, answer.text
    assert (await gateway.get(f"/api/v1/jobs/{answer.json()['job_id']}")).status_code == 200
    assert len([record for record in caplog.records if "is lost: ValueError('a defect')" in record.message]) == 2


@pytest.mark.usefixtures("own_keys")
async def test_events_that_the_outbox_cannot_take_now_change_no_answer_and_come_later(gateway: Running) -> None:
    await gateway.redis.set("outbox", "not a stream: every event meets WRONGTYPE")
    assert (await gateway.post("/api/v1/jobs", json=WORDS)).status_code == 202
    await gateway.redis.delete("outbox")
    await until(lambda: gateway.usage(), fits=lambda found: [event["status_code"] for event in found] == [202])


@pytest.mark.usefixtures("broken_outbox")
async def test_no_audit_line_is_missing_where_the_usage_event_is(
    gateway: Running, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await gateway.get("/api/v1/admin/limits")).status_code == 403
    answer = await as_admin(gateway, "DELETE", f"/api/v1/admin/blocks/{id_of(gateway, 'bob')}")
    assert answer.status_code == 404
    told = [(line["event"], line["status"], line["outcome"]) for line in audit_lines(caplog)]
    assert told == [("refused", 403, "admin-required"), ("acted", 404, "decision-unknown")]


class Waiting(WordStatistics):
    """A model whose parameters are checked by something that gives up."""

    class Params(Text):
        @field_validator("text")
        @classmethod
        def slow(cls, text: str) -> str:
            raise TimeoutError("a pool of connections")


async def test_a_timeout_of_something_else_is_not_the_requests_deadline(
    settings: Settings, authority: DevIssuerServer, caplog: pytest.LogCaptureFixture
) -> None:
    waiting = card(ModelConfig(name="waiting", implementation=f"{__name__}:Waiting"))
    async with running_gateway(settings, authority, cards=(waiting,)) as gateway:
        answer = await gateway.post("/api/v1/jobs", json={"params": {"text": "x"}})
        assert (answer.status_code, answer.json()["type"]) == (500, "/problems/internal-error")
        assert "a pool of connections" in caplog.text


async def test_an_answer_that_is_there_is_sent_also_where_waiting_for_more_fails(gateway: Running) -> None:
    async def breaks(call: Call, response: Response) -> Response:
        raise ValueError("a defect")

    [submit] = [route for route in ROUTES if (route.method, route.path) == ("POST", "/api/v1/jobs")]
    parts = service_of(gateway)
    endpoint = Endpoint(replace(submit, after=breaks), parts.services, parts.parts)
    transport = httpx2.ASGITransport(Starlette(routes=[Route("/api/v1/jobs", endpoint)]))
    async with httpx2.AsyncClient(transport=transport, base_url="http://gateway") as client:
        answer = await client.post("/api/v1/jobs", headers=gateway.bearer(), json=WORDS)
    assert answer.status_code == 202
    assert [event["status_code"] for event in await gateway.usage()] == [202]
