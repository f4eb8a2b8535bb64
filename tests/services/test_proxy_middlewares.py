"""What runs in Serve's proxy, before the real gateway on a real socket. With Serve itself: serve/test_http_edges.py."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from gateway_parts import PICTURE, Running, listening, running_gateway
from starlette.types import ASGIApp, Receive, Scope, Send
from talk import Talk, talking

from serve_app import proxy
from serve_app.local.issuer import DevIssuerServer
from serve_app.proxy import BodyWanted, BoundedConnections, middlewares
from serve_app.settings import Settings

BODY = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n' + PICTURE + b"\r\n--b--\r\n"
LENGTH = [(b"content-length", b"5")]
UNKNOWN = "/api/v1/jobs/2f0c1c1e-8a39-4d4e-9d0a-000000000000"


def eager(application: ASGIApp) -> ASGIApp:
    """Asks for the body at once, as Serve's proxy does, whoever wants it."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        arrived: asyncio.Queue[object] = asyncio.Queue()

        async def ask() -> None:
            while True:
                message = await receive()
                arrived.put_nowait(message)
                if message["type"] == "http.disconnect":
                    return

        asking = asyncio.create_task(ask())
        try:
            await application(scope, arrived.get, send)  # type: ignore[arg-type]
        finally:
            asking.cancel()

    return serve


@asynccontextmanager
async def proxied(gateway: Running) -> AsyncIterator[str]:
    application: ASGIApp = eager(BodyWanted(gateway.application))
    for one in middlewares():
        application = one.cls(application)  # type: ignore[call-arg]
    async with listening(application) as url:  # type: ignore[arg-type]
        yield url


def submit_head(token: str) -> tuple[str, ...]:
    kind = "Content-Type: multipart/form-data; boundary=b"
    return f"Authorization: Bearer {token}", kind, f"Content-Length: {len(BODY)}", "Expect: 100-continue"


@pytest.fixture
async def gateway(settings: Settings, authority: DevIssuerServer) -> AsyncIterator[Running]:
    async with running_gateway(settings, authority) as running:
        yield running


async def test_a_bad_token_is_401_before_the_body_is_asked_for(gateway: Running) -> None:
    async with proxied(gateway) as url, talking(url, "POST", "/api/v1/jobs", *submit_head("none")) as talk:
        status, fields = await talk.head()
        assert (status, fields["connection"]) == (401, "close")
        assert json.loads(await talk.rest())["type"] == "/problems/token-invalid"


@pytest.mark.parametrize(
    ("change", "status"),
    [("Content-Length: 60000000", 413), ("Content-Type: text/plain", 415), ("Idempotency-Key: ", 400)],
)
async def test_what_the_head_alone_refuses_needs_no_body(gateway: Running, change: str, status: int) -> None:
    token = gateway.bearer()["Authorization"].removeprefix("Bearer ")
    lines = [line for line in submit_head(token) if line.partition(":")[0] != change.partition(":")[0]]
    async with proxied(gateway) as url, talking(url, "POST", "/api/v1/jobs", *lines, change) as talk:
        assert (await talk.head())[0] == status


async def test_who_may_send_is_told_to_continue(gateway: Running) -> None:
    token = gateway.bearer()["Authorization"].removeprefix("Bearer ")
    async with proxied(gateway) as url, talking(url, "POST", "/api/v1/jobs", *submit_head(token)) as talk:
        assert (await talk.head())[0] == 100
        talk.writer.write(BODY)
        status, fields = await talk.head()
        assert (status, fields.get("connection")) == (202, None)


async def test_a_user_over_the_limit_is_not_told_to_continue(settings: Settings, authority: DevIssuerServer) -> None:
    async with (
        running_gateway(settings, authority, rate_submits_per_s=0.01) as gateway,
        proxied(gateway) as url,
    ):
        token = gateway.bearer()["Authorization"].removeprefix("Bearer ")
        statuses = []
        for _ in range(3):
            async with talking(url, "POST", "/api/v1/jobs", *submit_head(token)) as talk:
                statuses.append((await talk.head())[0])
                if statuses[-1] == 100:
                    talk.writer.write(BODY)
                    await talk.head()
        assert statuses == [100, 429, 429]


@pytest.mark.parametrize("given", ["scan 42", "run#7/\xce\xb1", "x" * 200, "{8E03978E-40D5-43DD-BC93}", "good-1", ""])
async def test_there_is_one_request_id_in_head_body_and_log(
    gateway: Running, caplog: pytest.LogCaptureFixture, given: str
) -> None:
    async with proxied(gateway) as url:
        lines = (f"X-Request-ID: {given}", f"Authorization: {gateway.bearer()['Authorization']}", "Connection: close")
        async with talking(url, "GET", UNKNOWN, *lines) as talk:
            status, fields = await talk.head()
            told = json.loads(await talk.rest())["request_id"]
    assert status == 404
    assert fields["x-request-id"] == told
    assert (told == given) == (given == "good-1")
    assert f'"request_id":"{told}"' in caplog.text


async def test_of_many_request_ids_the_first_counts_and_one_is_left(gateway: Running) -> None:
    async with proxied(gateway) as url:
        ids = ("X-Request-ID: one", "x-request-id: two")
        async with talking(url, "GET", "/livez", *ids, "Connection: close") as talk:
            assert (await talk.head())[1]["x-request-id"] == "one"


async def test_an_http_1_0_client_gets_no_chunk_sizes(gateway: Running) -> None:
    bearer = f"Authorization: {gateway.bearer()['Authorization']}"
    job_id = await gateway.submit()
    items = {"model": "words", "items": [{"params": {"text": "a"}}] * 3}
    batch_id = (await gateway.post("/api/v1/batches", json=items)).json()["batch_id"]
    gateway.model.open.clear()
    waiting = await gateway.submit()
    answers = {}
    async with listening(gateway.application) as url:
        for path in (
            f"/api/v1/jobs/{job_id}/events",
            f"/api/v1/jobs/{waiting}/events",
            f"/api/v1/batches/{batch_id}/results?format=csv",
            f"/api/v1/batches/{batch_id}/results",
            "/livez",
        ):
            async with talking(url, "GET", path, bearer, version="1.0") as talk:
                status, fields = await talk.head()
                body = await talk.rest()
                assert (status, fields.get("transfer-encoding")) == (200, None), path
                assert int(fields["content-length"]) == len(body)
                answers[path] = body.decode()
    ended, waits, table, lines, _ = answers.values()
    for text, job in ((ended, job_id), (waits, waiting)):
        assert text.startswith("retry: 1000\n\nevent: job\nid: ")
        assert json.loads(text.split("data: ")[1])["job_id"] == job
        assert text.endswith("\n\n")
    assert [line.split(",")[0] for line in table.splitlines()[1:]] == ["0", "1", "2"]
    assert [json.loads(line)["index"] for line in lines.splitlines()] == [0, 1, 2]
    gateway.model.open.set()


async def status_of(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the status that the query says, as one whole body."""
    await send({"type": "http.response.start", "status": int(scope["query_string"] or 200), "headers": LENGTH})
    await send({"type": "http.response.body", "body": b"whole"})


async def asked(talk: Talk, path: str = "/") -> bool:
    """Send a request on a kept connection and read the whole answer: whether it says that the connection closes."""
    talk.writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return await answered(talk)


async def answered(talk: Talk) -> bool:
    _, fields = await talk.head()
    assert await talk.reader.readexactly(5) == b"whole"
    return fields.get("connection") == "close"


async def test_a_busy_connection_is_closed_by_its_age_after_a_whole_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "CONNECTION_MAX_AGE_S", 0.5)
    async with listening(BoundedConnections(status_of)) as url:  # type: ignore[arg-type]
        for _ in range(2):
            async with talking(url, "GET", "/") as talk:
                began = time.monotonic()
                closes = await answered(talk)
                assert not closes, "a young connection is kept"
                while not closes:
                    assert time.monotonic() - began < 5
                    closes = await asked(talk)
                assert time.monotonic() - began >= 0.4
                assert await talk.rest() == b""


async def test_a_proxy_that_drains_closes_every_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening(BoundedConnections(status_of)) as url:  # type: ignore[arg-type]
        async with talking(url, "GET", "/") as young, talking(url, "GET", "/-/healthz?503") as probe:
            assert not await answered(young)
            assert await answered(probe)
            assert await asked(young)
            assert await young.rest() == b""
        async with talking(url, "GET", "/-/healthz?200") as probe, talking(url, "GET", "/") as young:
            assert not await answered(probe), "it serves again"
            assert not await answered(young)


async def test_what_is_remembered_of_connections_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "CONNECTIONS_MAX", 3)
    bounded = BoundedConnections(status_of)
    async with listening(bounded) as url:  # type: ignore[arg-type]
        for _ in range(5):
            async with talking(url, "GET", "/") as talk:
                await answered(talk)
    assert len(bounded._begun) == 3
    monkeypatch.setattr(proxy, "FORGET_S", 0.0)
    async with listening(bounded) as url, talking(url, "GET", "/") as talk:  # type: ignore[arg-type]
        await answered(talk)
    assert len(bounded._begun) == 1
