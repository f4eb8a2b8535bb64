"""The line of every request: who asked what and what became of it, and nothing of what was sent."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator

import pytest
from gateway_parts import PICTURE, Running

from serve_app.contracts import Json

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
FIELDS = {
    "time",
    "request_id",
    "principal_id",
    "tenant_id",
    "tenant_mismatch",
    "method",
    "route",
    "status_code",
    "latency_ms",
    "payload_size",
    "job_id",
    "model",
    "trace_id",
}


@pytest.fixture(autouse=True)
def all_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "serve_app.request")


def lines(caplog: pytest.LogCaptureFixture) -> list[Json]:
    return [json.loads(record.message) for record in caplog.records if record.name == "serve_app.request"]


async def test_a_request_has_one_line(gateway: Running, caplog: pytest.LogCaptureFixture) -> None:
    headers = {
        **gateway.bearer("ada", groups=["sem-lab"]),
        "X-Request-ID": "mine-1",
        "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01",
    }
    answer = await gateway.client.post("/api/v1/jobs", headers=headers, files={"image": ("a.png", PICTURE)})
    [line] = lines(caplog)
    assert line.keys() == FIELDS
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    assert re.fullmatch("[0-9a-f]{32}", line["principal_id"])
    assert line["payload_size"] > len(PICTURE)
    assert line["latency_ms"] > 0
    assert {name: line[name] for name in FIELDS - {"time", "principal_id", "payload_size", "latency_ms"}} == {
        "request_id": "mine-1",
        "tenant_id": "sem-lab",
        "tenant_mismatch": False,
        "method": "POST",
        "route": "/api/v1/jobs",
        "status_code": 202,
        "job_id": answer.json()["job_id"],
        "model": "sem-classifier",
        "trace_id": TRACE,
    }
    [event] = await gateway.usage()
    assert (event["request_id"], event["principal_id"]) == (line["request_id"], line["principal_id"])


async def test_every_request_has_a_line_whatever_its_answer(gateway: Running, caplog: pytest.LogCaptureFixture) -> None:
    job_id = await gateway.submit()
    await gateway.get(f"/api/v1/jobs/{job_id}")
    await gateway.get("/api/v1/jobs/unknown")
    await gateway.client.get("/api/v1/jobs/unknown")
    await gateway.client.put("/api/v1/jobs/unknown")
    await gateway.client.get("/secret/place?password=1")
    await gateway.client.get("/livez")
    found = lines(caplog)
    assert [(line["method"], line["route"], line["status_code"]) for line in found] == [
        ("POST", "/api/v1/jobs", 202),
        ("GET", "/api/v1/jobs/{job_id}", 200),
        ("GET", "/api/v1/jobs/{job_id}", 404),
        ("GET", "/api/v1/jobs/{job_id}", 401),
        ("PUT", "/api/v1/jobs/{job_id}", 405),
        ("GET", None, 404),
        ("GET", "/livez", 200),
    ]
    assert [line["job_id"] for line in found] == [job_id, job_id, *[None] * 5]
    assert [line["principal_id"] is None for line in found] == [False] * 3 + [True] * 4


async def test_a_line_and_its_answer_name_the_same_request(gateway: Running, caplog: pytest.LogCaptureFixture) -> None:
    for path in ("/livez", "/nowhere", "/api/v1/jobs", "/api/v1/models"):
        answer = await gateway.client.get(path)
        assert answer.headers["x-request-id"] == lines(caplog)[-1]["request_id"], path


async def test_the_tenant_comes_from_the_token_and_the_header_is_only_compared(
    gateway: Running, caplog: pytest.LogCaptureFixture
) -> None:
    ours = gateway.bearer("ada", groups=["sem-lab"])
    for headers in (
        ours,
        {**ours, "X-Tenant-ID": "sem-lab"},
        {**ours, "X-Tenant-ID": "bank"},
        {**gateway.bearer("bob"), "X-Tenant-ID": "bank"},
        {"X-Tenant-ID": "bank"},
    ):
        await gateway.client.get("/api/v1/models", headers=headers)
    assert [(line["tenant_id"], line["tenant_mismatch"]) for line in lines(caplog)] == [
        ("sem-lab", False),
        ("sem-lab", False),
        ("sem-lab", True),
        (None, True),
        (None, False),
    ]
    assert "bank" not in caplog.text


async def test_nothing_that_was_sent_is_in_the_log(gateway: Running, caplog: pytest.LogCaptureFixture) -> None:
    headers = {**gateway.bearer("ada", groups=["a\nb" + "c" * 999]), "X-Request-ID": "a b", "traceparent": "00-xyz"}
    hostile = {**headers, "User-Agent": "agent-sesame", "Cookie": "crumb-sesame"}
    body = {"image_url": "http://user:word-sesame@127.0.0.1/place-sesame"}
    await gateway.client.post("/api/v1/jobs?query-sesame", headers=hostile, json=body)
    await gateway.client.post("/api/v1/jobs", headers=hostile, files={"image": ("file-sesame.png", PICTURE)})
    await gateway.client.post("/path-sesame/%0a", headers=hostile, content=b"body-sesame")
    first, second, third = lines(caplog)
    assert [line["status_code"] for line in (first, second, third)] == [422, 202, 404]
    assert first["tenant_id"] == "ab" + "c" * 248
    assert first["trace_id"] is None
    assert re.fullmatch("[0-9a-f]{32}", third["request_id"])
    for sent in ("sesame", headers["Authorization"][7:], "00-xyz", "a b"):
        assert sent not in caplog.text


async def test_a_client_that_goes_away_has_a_line(gateway: Running, caplog: pytest.LogCaptureFixture) -> None:
    arriving = asyncio.Event()

    async def stuck() -> AsyncIterator[bytes]:
        yield b'{"job_id":'
        arriving.set()
        await asyncio.Event().wait()

    headers = {"Content-Type": "application/json", **gateway.bearer()}
    request = asyncio.create_task(gateway.client.post("/api/v1/jobs/status", headers=headers, content=stuck()))
    await arriving.wait()
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    [line] = lines(caplog)
    assert (line["status_code"], line["route"]) == (499, "/api/v1/jobs/status")
    assert line["payload_size"] == len(b'{"job_id":')
