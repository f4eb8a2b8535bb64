"""What only Serve's own proxy can break: the body's beginning, the request id, chunks, and a body's time."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from running_service import WORDS, RunningService
from service_client import BOUNDARY, HEAD, TAIL, Client, connected
from talk import talking

from serve_app.proxy import CONNECTION_MAX_AGE_S

PATH = "/api/v1/jobs"


def head_of(client: Client, size: int, *more: str) -> tuple[str, ...]:
    kind = f"Content-Type: multipart/form-data; boundary={BOUNDARY}"
    return f"Authorization: {client.headers['Authorization']}", kind, f"Content-Length: {size}", *more


async def test_a_bad_token_is_401_without_a_100(service: RunningService, client: Client, pictures: list[bytes]) -> None:
    body = HEAD + pictures[0] + TAIL
    good = head_of(client, len(body), "Expect: 100-continue", "Connection: close")
    url = service.cluster.url
    async with talking(url, "POST", PATH, "Authorization: Bearer none", *good[1:]) as talk:
        assert (await talk.head())[0] == 401
    async with talking(url, "POST", PATH, *good) as talk:
        assert (await talk.head())[0] == 100
        talk.writer.write(body)
        assert (await talk.head())[0] == 202


async def test_serve_echoes_the_id_that_body_and_log_have(service: RunningService, client: Client) -> None:
    unknown = f"{PATH}/2f0c1c1e-8a39-4d4e-9d0a-000000000000"
    for given in ("scan 42", "x" * 200, "{8E03978E}", "good-1"):
        answer = await client.http.get(unknown, headers={**client.headers, "X-Request-ID": given})
        told = answer.json()["request_id"]
        assert answer.headers.get_list("x-request-id") == [told]
        assert (told == given) == (given == "good-1")

        def logged(told: str = told) -> bool:
            return any(line["request_id"] == told for lines in service.request_lines().values() for line in lines)

        async with asyncio.timeout(10):
            while not await asyncio.to_thread(logged):  # noqa: ASYNC110  a file tells nobody that it grew
                await asyncio.sleep(0.1)


@pytest.mark.slow(reason="a sleeping model wakes")
async def test_an_http_1_0_client_gets_no_chunk_sizes(service: RunningService, client: Client) -> None:
    items = {"model": WORDS, "items": [{"params": {"text": "a"}}] * 2}
    batch = (await client.post("/api/v1/batches", json=items)).json()
    job_id = await client.submit_text("a b", WORDS)
    await client.wait([job_id])
    bearer = f"Authorization: {client.headers['Authorization']}"
    for path in (f"{PATH}/{job_id}/events", f"/api/v1/batches/{batch['batch_id']}/results?format=csv"):
        async with talking(service.cluster.url, "GET", path, bearer, version="1.0") as talk:
            status, fields = await talk.head()
            body = await talk.rest()
        assert (status, fields.get("transfer-encoding")) == (200, None)
        assert int(fields["content-length"]) == len(body)
        if path.endswith("events"):
            assert json.loads(body.decode().split("data: ")[1])["job_id"] == job_id


async def test_a_steady_upload_outlives_the_proxy_too(
    service: RunningService, client: Client, pictures: list[bytes]
) -> None:
    """What takes longer than a usual one keeps a place; the trials have one of 42 s."""
    picture = pictures[0] + bytes(200_000)
    body = HEAD + picture + TAIL
    async with connected(service, client.user) as other:
        head = head_of(other, len(body), "Connection: close")
        async with talking(service.cluster.url, "POST", PATH, *head) as talk:
            for at in range(0, len(body), 40_000):
                talk.writer.write(body[at : at + 40_000])
                await asyncio.sleep(0.4)
            assert (await talk.head())[0] == 202


@pytest.mark.slow(reason="two connections live as long as they may, ten seconds each")
async def test_a_busy_connection_ends_politely_before_its_pod_would(service: RunningService) -> None:
    for _ in range(2):
        async with talking(service.cluster.url, "GET", "/livez") as talk:
            began = time.monotonic()
            while True:
                status, fields = await talk.head()
                await talk.reader.readexactly(int(fields["content-length"]))
                assert status == 200
                if fields.get("connection") == "close":
                    break
                await asyncio.sleep(0.02)
                talk.writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            assert CONNECTION_MAX_AGE_S - 1 <= time.monotonic() - began <= CONNECTION_MAX_AGE_S + 2
            assert await talk.rest() == b"", "nothing comes after the answer that says so"
