"""A steady upload gets in however long it takes; one that stalls, or many of one user, keep nobody else out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from gateway_parts import END, FORM, HEAD, PICTURE, Running, running_gateway, service_of, stuck, until

from serve_app.gateway import uploads
from serve_app.local.issuer import DevIssuerServer
from serve_app.settings import MIB, Settings


async def steadily(size: int, piece: int, pause_s: float) -> AsyncIterator[bytes]:
    """A form of `size` bytes more than its picture."""
    yield HEAD + PICTURE
    for _ in range(0, size, piece):
        await asyncio.sleep(pause_s)
        yield bytes(piece)
    yield b"\r\n" + END


@pytest.mark.gateway(submit_timeout_s=0.5, upload_min_bytes_per_s=20_000)
@pytest.mark.parametrize("path", ["/api/v1/jobs", "/api/v1/inference", "/api/v1/batches"])
async def test_a_steady_upload_may_take_longer_than_the_deadline_of_the_work(gateway: Running, path: str) -> None:
    begun = time.monotonic()
    body = steadily(40_000, 2_000, 0.05)  # some 40 kB a second
    answer = await gateway.client.post(path, headers={**FORM, **gateway.bearer()}, content=body)
    assert answer.status_code in (200, 202), answer.text
    assert time.monotonic() - begun > 2 * 0.5


@pytest.mark.gateway(submit_timeout_s=0.4, upload_min_bytes_per_s=20_000)
async def test_one_that_comes_too_slowly_is_told_the_rate(gateway: Running) -> None:
    begun = time.monotonic()
    body = steadily(100_000, 100, 0.05)
    answer = await gateway.client.post("/api/v1/jobs", headers={**FORM, **gateway.bearer()}, content=body)
    assert (answer.status_code, answer.json()["type"]) == (504, "/problems/deadline-exceeded")
    assert "20,000 bytes a second" in answer.json()["detail"]
    assert time.monotonic() - begun < 3
    assert service_of(gateway).budget.held == 0
    assert await gateway.keys() == set()


@pytest.mark.gateway(upload_timeout_s=0.6, upload_min_bytes_per_s=1)
async def test_no_body_takes_longer_than_the_total(gateway: Running) -> None:
    body = steadily(1_000_000, 1_000, 0.05)
    answer = await gateway.client.post("/api/v1/jobs", headers={**FORM, **gateway.bearer()}, content=body)
    assert (answer.status_code, answer.json()["type"]) == (504, "/problems/deadline-exceeded")
    assert "within 0.6" in answer.json()["detail"]


@pytest.mark.gateway(submit_timeout_s=0.6)
async def test_the_work_has_its_whole_deadline_after_the_body(gateway: Running) -> None:
    service = service_of(gateway)
    usual, taken = service.store.check_intake, 0.0

    async def slow_check() -> None:
        nonlocal taken
        await asyncio.sleep(0.4)
        taken += 0.4
        await usual()

    service.store.check_intake = slow_check  # type: ignore[method-assign]
    body = steadily(10_000, 1_000, 0.04)
    answer = await gateway.client.post("/api/v1/jobs", headers={**FORM, **gateway.bearer()}, content=body)
    assert (answer.status_code, taken) == (202, 0.4)


@asynccontextmanager
async def stalled(
    gateway: Running, user: str, count: int, sent: bytes, declared: int = 50 * MIB
) -> AsyncIterator[None]:
    """So many uploads of one user that declare much, send something, and send nothing more."""
    arrived, hold = asyncio.Semaphore(0), asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield sent
        arrived.release()
        await hold.wait()

    headers = {**FORM, **gateway.bearer(user), "Content-Length": str(declared)}
    post = gateway.client.post
    tasks: list[asyncio.Task[object]] = [
        asyncio.create_task(post("/api/v1/jobs", headers=headers, content=body())) for _ in range(count)
    ]
    try:
        async with asyncio.timeout(10):
            for _ in range(count):
                await arrived.acquire()
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_who_declares_much_and_sends_little_keeps_nobody_out(gateway: Running) -> None:
    async with stalled(gateway, "ada", 8, HEAD):
        uploading = service_of(gateway).budget
        assert uploading.held_by.total() == uploading.held < MIB
        await gateway.submit("bob", PICTURE + bytes(40 * MIB))
        await gateway.submit("ada")


@pytest.mark.gateway(upload_bytes_in_flight=10 * MIB, image_max_bytes=3 * MIB, batch_max_bytes=MIB)
async def test_who_sends_much_and_stops_holds_their_share_alone(gateway: Running, settings: Settings) -> None:
    assert service_of(gateway).settings.upload_bytes_per_user == 5 * MIB
    async with stalled(gateway, "ada", 2, HEAD + bytes(2 * MIB), declared=2 * MIB + 1000):
        refused = await gateway.post("/api/v1/jobs", "ada", files={"image": ("a.png", PICTURE + bytes(2 * MIB))})
        assert (refused.status_code, refused.json()["type"]) == (503, "/problems/store-full")
        assert refused.json()["detail"].startswith("You have")
        await gateway.submit("bob", PICTURE + bytes(2 * MIB))


async def test_slow_bodies_of_one_user_leave_places_to_the_others(
    settings: Settings, authority: DevIssuerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "SLOW_AFTER_S", 0.05)
    async with running_gateway(settings, authority) as gateway:
        places = service_of(gateway).slow_uploads
        hold = asyncio.Event()

        async def slowly() -> AsyncIterator[bytes]:
            yield HEAD + PICTURE
            while not hold.is_set():
                await asyncio.sleep(0.1)
                yield b"\0"
            yield b"\r\n" + END

        def post(user: str) -> asyncio.Task[object]:
            headers = {**FORM, **gateway.bearer(user)}
            return asyncio.create_task(gateway.client.post("/api/v1/jobs", headers=headers, content=slowly()))

        most = uploads.SLOW_MAX_PER_USER
        mine = [post("ada") for _ in range(most + 2)]
        await until(lambda: places.taken.total() == most and sum(task.done() for task in mine) == 2)
        other = post("bob")
        await until(lambda: places.taken.total() == most + 1)
        await gateway.submit("ada")  # what is not slow needs no place
        hold.set()
        answers = await asyncio.gather(*mine, other)
        assert sorted(answer.status_code for answer in answers) == [202] * (most + 1) + [503] * 2  # type: ignore[attr-defined]
        assert places.taken.total() == 0


async def test_bodies_that_stop_coming_take_the_places_of_slow_ones(
    settings: Settings, authority: DevIssuerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "SLOW_AFTER_S", 0.05)
    async with running_gateway(settings, authority) as gateway, stalled(gateway, "ada", 2, HEAD):
        places = service_of(gateway).slow_uploads
        await until(lambda: places.taken.total() == 2)
        monkeypatch.setattr(places, "_limit_per_user", 2)
        refused = await gateway.client.post("/api/v1/jobs", headers={**FORM, **gateway.bearer()}, content=stuck())
        assert (refused.status_code, refused.json()["type"]) == (503, "/problems/store-full")
        assert "slow uploads" in refused.json()["detail"]
        assert places.taken.total() == 2
        await gateway.submit("ada")


async def test_what_came_fast_at_first_buys_no_long_silence(
    settings: Settings, authority: DevIssuerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "SILENCE_S", 0.3)
    async with running_gateway(settings, authority) as gateway:
        begun, body = time.monotonic(), stuck(HEAD + bytes(20 * MIB))
        answer = await gateway.client.post("/api/v1/jobs", headers={**FORM, **gateway.bearer()}, content=body)
        assert (answer.status_code, answer.json()["type"]) == (504, "/problems/deadline-exceeded")
        assert "without a pause of 0.3" in answer.json()["detail"]
        assert time.monotonic() - begun < 5
        assert service_of(gateway).budget.held == 0
