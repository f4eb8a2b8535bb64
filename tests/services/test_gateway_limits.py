"""What the gateway does when it is full, when it is slow, and when Redis is away."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator

import pytest
from gateway_parts import FORM, HEAD, IMAGE_MODEL, PICTURE, UNKNOWN_ID, Running, running_gateway, stuck, until
from job_help import configured
from pydantic import SecretStr, field_validator

from serve_app.connections import COMMAND_TIMEOUT_S
from serve_app.gateway.auth import LEEWAY_S
from serve_app.local.issuer import DevIssuerServer
from serve_app.local.valkey import Valkey
from serve_app.models.registry import ModelConfig, card
from serve_app.settings import MIB, Settings
from tests.toy_model import Text, WordStatistics


@pytest.mark.gateway(queue_max_jobs=2)
async def test_a_full_queue_refuses_and_keeps_nothing(gateway: Running) -> None:
    gateway.model.open.clear()
    for _ in range(2):
        await gateway.submit()
    before = await gateway.keys()
    answer = await gateway.post("/api/v1/jobs", files={"image": ("a.png", PICTURE)})
    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/queue-full")
    assert int(answer.headers["retry-after"]) > 0
    assert {key for key in await gateway.keys() if key.startswith("blob")} <= before
    assert [event["status_code"] for event in await gateway.usage()] == [202, 202, 503]


@pytest.mark.gateway(image_store_share=0.0001)
async def test_a_full_store_refuses_and_keeps_nothing(gateway: Running) -> None:
    answer = await gateway.post("/api/v1/jobs", files={"image": ("a.png", PICTURE)})
    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/store-full")
    assert await gateway.keys() == set()


@pytest.mark.gateway(upload_bytes_in_flight=2 * MIB)
async def test_uploads_under_way_are_bounded_and_give_their_share_back(gateway: Running) -> None:
    going_on, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield HEAD + PICTURE + bytes(MIB)
        going_on.set()
        await go_on.wait()
        yield b"\r\n--b--\r\n"

    headers = {**FORM, **gateway.bearer()}
    first = asyncio.create_task(gateway.client.post("/api/v1/jobs", headers=headers, content=slow()))
    await going_on.wait()
    refused = await gateway.post("/api/v1/jobs", files={"image": ("a.png", PICTURE + bytes(MIB))})
    assert (refused.status_code, refused.json()["type"]) == (503, "/problems/store-full")
    assert refused.headers["retry-after"]
    go_on.set()
    assert (await first).status_code == 202
    for _ in range(3):
        again = await gateway.post("/api/v1/jobs", files={"image": ("a.png", PICTURE + bytes(MIB))})
        assert again.status_code == 202


@pytest.mark.gateway(image_max_bytes=MIB)
async def test_a_body_without_length_is_counted_while_it_arrives(gateway: Running) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        yield HEAD
        while True:
            sent += MIB // 4
            yield bytes(MIB // 4)

    headers = {**FORM, **gateway.bearer()}
    answer = await gateway.client.post("/api/v1/jobs", headers=headers, content=endless())
    assert (answer.status_code, answer.json()["type"]) == (413, "/problems/body-too-large")
    assert sent <= 3 * MIB


@pytest.mark.gateway(read_timeout_s=0.3)
async def test_a_body_that_does_not_end_meets_the_deadline(gateway: Running) -> None:
    headers = {"Content-Type": "application/json", **gateway.bearer()}
    answer = await gateway.client.post("/api/v1/jobs/status", headers=headers, content=stuck(b'{"job_id":'))
    assert (answer.status_code, answer.json()["type"]) == (504, "/problems/deadline-exceeded")
    (event,) = await until(gateway.usage)
    assert event["status_code"] == 504


async def test_a_client_that_goes_away_is_counted(gateway: Running) -> None:
    arriving = asyncio.Event()
    headers = {**FORM, **gateway.bearer()}
    request = asyncio.create_task(
        gateway.client.post("/api/v1/jobs", headers=headers, content=stuck(arriving=arriving))
    )
    await arriving.wait()
    request.cancel()
    (event,) = await until(gateway.usage)
    assert (event["status_code"], event["job_id"], event["username"]) == (499, "", "ada")
    assert await gateway.keys() == set()


class Defective(WordStatistics):
    """A model whose parameters cannot even be checked."""

    class Params(Text):
        @field_validator("text")
        @classmethod
        def broken(cls, text: str) -> str:
            raise RuntimeError(f"secret path of the inside: {text}")


async def test_a_defect_shows_nothing_of_the_inside(
    settings: Settings, authority: DevIssuerServer, caplog: pytest.LogCaptureFixture
) -> None:
    defective = card(ModelConfig(name="defective", implementation=f"{__name__}:Defective"))
    async with running_gateway(settings, authority, cards=(defective,)) as gateway:
        answer = await gateway.post("/api/v1/jobs", json={"params": {"text": "x"}})
        assert (answer.status_code, answer.json()["type"]) == (500, "/problems/internal-error")
        assert "secret" not in answer.text
        assert answer.json()["request_id"] in caplog.text  # the log has both, to find one by the other
        assert "secret" in caplog.text
        assert await gateway.keys() == set()


async def test_an_issuer_that_was_never_reached_is_503(settings: Settings, authority: DevIssuerServer) -> None:
    issuer = "http://127.0.0.1:9/default"
    async with running_gateway(settings, authority, oidc_issuers=(issuer,)) as gateway:
        answer = await gateway.client.get("/api/v1/models", headers=gateway.bearer(iss=issuer))
        assert (answer.status_code, answer.json()["type"]) == (503, "/problems/keys-unavailable")
        assert answer.headers["retry-after"]
        assert await gateway.usage() == []


async def test_an_expired_token_is_refused_although_it_was_verified_before(gateway: Running) -> None:
    ends_soon = gateway.bearer(exp=int(time.time()) - LEEWAY_S + 2)
    path = f"/api/v1/jobs/{UNKNOWN_ID}"
    assert (await gateway.client.get(path, headers=ends_soon)).status_code == 404

    async def refused() -> bool:
        answer = await gateway.client.get(path, headers=ends_soon)
        return answer.status_code == 401 and "expired" in answer.json()["detail"]

    await until(refused)


@pytest.mark.gateway(cards=(IMAGE_MODEL,))
async def test_a_redis_that_takes_no_writes_is_503_and_costs_no_job(gateway: Running) -> None:
    """As with a full disk; here for want of replicas, which a test can switch."""
    gateway.model.open.clear()
    running = await gateway.submit()
    await until(lambda: gateway.model.tasks)
    async with configured(gateway.redis, "min-replicas-to-write", 1):
        for path in ("/api/v1/jobs", "/api/v1/inference"):
            answer = await gateway.post(path, files={"image": ("a.png", PICTURE)})
            assert (answer.status_code, answer.json()["type"]) == (503, "/problems/tracker-unavailable")
            assert answer.headers["retry-after"]
        assert (await gateway.get(f"/api/v1/jobs/{running}")).status_code == 200
        gateway.model.open.set()  # the result comes while it cannot be kept

        async def told() -> bool:
            ready = await gateway.get("/readyz?verbose")
            return ready.status_code == 503 and "tracker: " in ready.json()["models"][IMAGE_MODEL.name]

        await until(told)
    job = await gateway.ended(running)
    assert (job["status"], job["deliveries"]) == ("COMPLETED", 1)


@pytest.mark.parametrize("hangs", [False, True])
async def test_redis_away_is_503_at_once_and_comes_back_without_a_restart(
    own_valkey: Valkey, settings: Settings, authority: DevIssuerServer, hangs: bool
) -> None:
    """A Redis that is gone refuses connections; one that stands still is known as away after its deadline."""
    settings = settings.model_copy(update={"redis_url": SecretStr(own_valkey.url)})
    async with running_gateway(settings, authority, cards=(IMAGE_MODEL,)) as gateway:
        kept = await gateway.submit()
        await gateway.ended(kept)
        if hangs:
            os.kill(own_valkey.pid, signal.SIGSTOP)
        else:
            own_valkey.kill()
        try:
            began = time.monotonic()
            answer = await gateway.post("/api/v1/jobs", files={"image": ("a.png", PICTURE)})
            assert (answer.status_code, answer.json()["type"]) == (503, "/problems/tracker-unavailable")
            assert answer.headers["retry-after"]
            assert time.monotonic() - began < 2 * COMMAND_TIMEOUT_S
            await _all_answer_503_at_once(gateway, kept)
            assert (await gateway.client.get("/livez")).status_code == 200
        finally:
            if hangs:
                os.kill(own_valkey.pid, signal.SIGCONT)
            else:
                own_valkey.start()
        await until(lambda: gateway.get(f"/api/v1/jobs/{kept}"), fits=lambda found: found.status_code == 200)
        assert (await gateway.ended(await gateway.submit()))["status"] == "COMPLETED"
        await until(lambda: gateway.client.get("/readyz"), fits=lambda found: found.status_code == 200)


async def _all_answer_503_at_once(gateway: Running, job_id: str) -> None:
    for method, path, body in (
        ("POST", "/api/v1/jobs", {"files": {"image": ("a.png", PICTURE)}}),
        ("POST", "/api/v1/inference", {"files": {"image": ("a.png", PICTURE)}}),
        ("POST", "/api/v1/jobs/status", {"json": {"job_id": job_id}}),
        ("POST", "/api/v1/jobs/results", {"json": {"job_id": job_id}}),
        ("GET", f"/api/v1/jobs/{job_id}", {}),
        ("GET", "/api/v1/models", {}),
    ):
        started = time.monotonic()
        answer = await gateway.client.request(method, path, headers=gateway.bearer(), **body)
        assert (answer.status_code, answer.json()["type"]) == (503, "/problems/tracker-unavailable"), path
        assert answer.headers["retry-after"]
        assert time.monotonic() - started < COMMAND_TIMEOUT_S, path
    health = await gateway.client.get("/health")
    assert (health.status_code, health.json()["status"], health.json()["redis_connected"]) == (503, "degraded", False)
    ready = await gateway.client.get("/readyz?verbose")
    assert (ready.status_code, ready.json()["tracker"]) == (503, "away")
