"""Background tasks are kept up: whatever ends one, it is begun again with a pause, and one that cannot be is named."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from waiting import until

from serve_app.errors import ReplicaLost
from serve_app.gateway import supervisor as module
from serve_app.gateway.supervisor import ENDS_MAX, ShutdownSignal, Supervisor


@pytest.fixture
def shutdown() -> ShutdownSignal:
    return ShutdownSignal()


@pytest.fixture
async def supervisor(shutdown: ShutdownSignal, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Supervisor]:
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.001)
    supervisor = Supervisor(shutdown)
    yield supervisor
    await supervisor.end()


class Ending:
    """A task that ends in this way so many times, then goes on."""

    def __init__(self, end: Callable[[], Awaitable[None]], times: int) -> None:
        self.end, self.times = end, times
        self.runs = 0
        self.goes_on = asyncio.Event()

    async def run(self) -> None:
        self.runs += 1
        if self.runs <= self.times:
            await self.end()
            return
        self.goes_on.set()
        await asyncio.Event().wait()


async def fail() -> None:
    raise ValueError("a defect")


async def come_back() -> None:
    return


async def lose_a_future() -> None:
    """As when somebody cancels what the task awaits, and not the task."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


@pytest.mark.parametrize("end", [fail, come_back, lose_a_future])
async def test_whatever_ends_a_task_it_is_begun_again(
    supervisor: Supervisor, end: Callable[[], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    task = Ending(end, times=2)
    supervisor.start("Keeper", task.run)
    async with asyncio.timeout(10):
        await task.goes_on.wait()
    assert task.runs == 3
    assert supervisor.states == {"Keeper": "ready"}
    supervisor.check()
    assert [record.levelname for record in caplog.records if "Keeper ended" in record.message] == ["CRITICAL"] * 2


async def test_a_task_that_cannot_be_kept_up_is_named_and_fails_the_replica(supervisor: Supervisor) -> None:
    broken, well = Ending(fail, times=10**6), Ending(fail, times=0)
    supervisor.start("Keeper", broken.run)
    supervisor.start("Rates", well.run)
    await until(lambda: broken.runs > ENDS_MAX)
    assert supervisor.states == {"Keeper": "failing: ValueError('a defect')", "Rates": "ready"}
    with pytest.raises(ReplicaLost, match=r"Keeper \(ValueError\('a defect'\)\)"):
        supervisor.check()


async def test_a_task_that_runs_steadily_again_is_well(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    task = Ending(fail, times=ENDS_MAX)
    supervisor.start("Keeper", task.run)
    async with asyncio.timeout(10):
        await task.goes_on.wait()
    assert supervisor.states["Keeper"].startswith("failing")
    monkeypatch.setattr(module, "STEADY_S", 0.0)
    assert supervisor.states == {"Keeper": "ready"}
    supervisor.check()


async def test_the_pause_between_two_runs_grows_and_is_bounded(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "LONGEST_PAUSE_S", 0.004)
    task = Ending(fail, times=5)
    supervisor.start("Keeper", task.run)
    async with asyncio.timeout(10):
        await task.goes_on.wait()
    pauses = [float(record.message.split(" in ")[1].split()[0]) for record in caplog.records]
    assert pauses == [0.001, 0.002, 0.004, 0.004, 0.004]


async def test_when_the_replica_goes_a_task_that_returns_has_done_its_part(
    supervisor: Supervisor, shutdown: ShutdownSignal
) -> None:
    begun = Ending(shutdown.wait, times=10**6)
    supervisor.start("Leaving", begun.run)
    await until(lambda: begun.runs == 1)
    shutdown.set()
    await until(lambda: all(task.done() for task in supervisor._tasks))
    assert begun.runs == 1
