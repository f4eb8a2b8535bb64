"""A gateway that is told to go takes no more work, although its lifespan goes on for its open requests."""

from __future__ import annotations

import asyncio

import pytest
from gateway_parts import running_gateway, service_of

from serve_app.gateway import app as application
from serve_app.local.issuer import DevIssuerServer
from serve_app.settings import Settings

JOBS = 20


async def test_who_is_told_to_go_claims_no_more_before_its_requests_have_ended(
    settings: Settings, authority: DevIssuerServer
) -> None:
    async with running_gateway(settings, authority) as leaving, running_gateway(settings, authority) as staying:
        service_of(leaving).shutdown.set()
        ids = await asyncio.gather(*(leaving.submit() for _ in range(JOBS)))
        jobs = await asyncio.gather(*map(leaving.ended, ids))
        assert {job["status"] for job in jobs} == {"COMPLETED"}
        assert leaving.model.tasks == []
        assert {task.job_id for task in staying.model.tasks} == set(ids)


async def test_what_hangs_at_the_end_holds_the_replica_up_for_a_bounded_time(
    settings: Settings, authority: DevIssuerServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A background task that takes no cancellation, a request's work and a close that never end: nobody waits for them
    longer than told, and what comes behind them is closed all the same."""
    monkeypatch.setattr(application, "SHUTDOWN_S", 0.3)
    monkeypatch.setattr(application, "CLOSE_S", 0.3)
    free, closed = asyncio.Event(), asyncio.Event()

    async def takes_no_cancellation() -> None:
        while not free.is_set():
            try:
                await free.wait()
            except asyncio.CancelledError:
                continue

    async def never_closes() -> None:
        await free.wait()

    async def closes() -> None:
        closed.set()

    async with asyncio.timeout(10):
        async with running_gateway(settings, authority) as gateway:
            service = service_of(gateway)
            service.supervisor.start("Stubborn", takes_no_cancellation)
            service.tasks.spawn(never_closes())
            monkeypatch.setattr(service.writer, "close", never_closes)
            monkeypatch.setattr(service.outcomes, "close", closes)
            await asyncio.sleep(0)  # both have begun
    assert closed.is_set()
    assert caplog.text.count("a part of this gateway did not end well") == 3
    free.set()
    await service.supervisor.end()
