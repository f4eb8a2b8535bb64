"""A hostile input ends as its own failure: it harms neither the replica nor any other input."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio
from pebble import ProcessFuture, ProcessPool

from serve_app.errors import ImageTooCostly, ImageUndecodable, ModelRejected, ModelUnready, ReplicaLost
from serve_app.models import pool as pool_module
from serve_app.models.pool import DecodePool
from serve_app.settings import Settings
from tests.services import hostile

DEADLINE_S = 1.0


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncIterator[DecodePool]:
    settings = Settings(decode_workers=2, decode_timeout_s=DEADLINE_S, decode_memory_mib=256)
    made = DecodePool(settings, "tests.services.hostile")
    await made.start()
    yield made
    await made.close()


async def run(pool: DecodePool, function: Callable[..., object], *args: object) -> object:
    async with pool.slot():
        return await pool.run(function, *args)


@pytest.mark.parametrize(
    ("attack", "expected"),
    [
        (hostile.leave, ImageUndecodable),
        (hostile.crash, ImageUndecodable),
        (hostile.swell, ImageTooCostly),
        (hostile.loop, ImageTooCostly),
        (hostile.die_as_the_system_kills, ImageTooCostly),
    ],
)
async def test_an_attack_fails_alone(pool: DecodePool, attack: Callable[[], object], expected: type[Exception]):
    neighbours = [run(pool, hostile.echo, number) for number in range(20)]
    results = await asyncio.gather(run(pool, attack), *neighbours, return_exceptions=True)
    assert type(results[0]) is expected
    assert results[1:] == list(range(20))
    assert await run(pool, hostile.echo, "after") == "after"


async def test_a_worker_that_something_else_killed_costs_no_input(pool: DecodePool, tmp_path: Path):
    assert await run(pool, hostile.die_once, str(tmp_path / "died")) == "survived"


async def test_workers_are_light_and_of_lower_priority(pool: DecodePool):
    said = await run(pool, hostile.about)
    assert isinstance(said, dict)
    assert said["nice"] == min(os.getpriority(os.PRIO_PROCESS, 0) + 5, 19)
    assert said["heavy"] == []


async def test_an_error_of_ours_comes_back_whole(pool: DecodePool):
    with pytest.raises(ImageUndecodable) as caught:
        await run(pool, hostile.refuse, "cut off")
    assert caught.value.detail == "cut off"


@pytest.mark.parametrize("function", [hostile.divide, hostile.raise_what_cannot_travel])
async def test_any_other_exception_is_the_input_s_own(pool: DecodePool, function: Callable[[], object]):
    with pytest.raises(ModelRejected, match=r"could not be prepared"):
        await run(pool, function)


async def test_a_broken_pool_is_replaced(pool: DecodePool):
    results = await asyncio.gather(*(run(pool, hostile.Trap) for _ in range(3)), return_exceptions=True)
    assert {type(result) for result in results} == {ReplicaLost}
    assert await run(pool, hostile.echo, "again") == "again"


async def test_who_stops_waiting_frees_the_worker(pool: DecodePool):
    waiting = [asyncio.create_task(run(pool, hostile.loop)) for _ in range(6)]
    await asyncio.sleep(0)
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    assert await run(pool, hostile.echo, "free") == "free"


async def test_a_call_given_at_the_moment_the_pool_breaks_ends_and_so_do_its_neighbours(
    pool: DecodePool, monkeypatch: pytest.MonkeyPatch
):
    """pebble takes the call after its threads have looked for one the last time: nothing of it ends this future."""
    schedule = ProcessPool.schedule

    def schedule_and_break(self: ProcessPool, *args: Any, **options: Any) -> ProcessFuture[Any]:
        self.stop()
        self._context.task_queue.put(None)
        self._task_scheduler_loop.join()
        monkeypatch.setattr(ProcessPool, "schedule", schedule)
        return schedule_unchecked(self, *args, **options)

    def schedule_unchecked(self: ProcessPool, *args: Any, **options: Any) -> ProcessFuture[Any]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ProcessPool, "_check_pool_status", lambda self: None)
            return schedule(self, *args, **options)

    neighbour = asyncio.create_task(run(pool, hostile.loop))
    await asyncio.sleep(0)  # it is given first
    monkeypatch.setattr(ProcessPool, "schedule", schedule_and_break)
    async with asyncio.timeout(DEADLINE_S + 5):
        results = await asyncio.gather(run(pool, hostile.echo, "lost"), neighbour, return_exceptions=True)
        assert [type(result) for result in results] == [ReplicaLost, ReplicaLost]
        assert await asyncio.gather(*(run(pool, hostile.echo, n) for n in range(9))) == list(range(9))


async def test_a_pool_that_gives_no_answer_is_replaced_and_the_slot_given_back(
    pool: DecodePool, monkeypatch: pytest.MonkeyPatch
):
    """A worker that is killed while it holds the lock of the pool's pipe stops all others, and pebble sees no fault."""
    monkeypatch.setattr(pool, "_patience_s", 2.0)
    results = await asyncio.gather(
        *(run(pool, hostile.die_with_the_lock), *(run(pool, hostile.echo, n) for n in range(8))), return_exceptions=True
    )
    assert ReplicaLost in {type(result) for result in results}
    assert await asyncio.gather(*(run(pool, hostile.echo, n) for n in range(9))) == list(range(9))


async def test_pools_that_broke_or_stood_still_leave_no_process(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pool_module, "END_TIMEOUT_S", 1.0)
    before = set(psutil.Process().children(recursive=True))
    made = DecodePool(Settings(decode_workers=2, decode_timeout_s=DEADLINE_S), "tests.services.hostile")
    await made.start()
    monkeypatch.setattr(made, "_patience_s", 2.0)
    for attack in (hostile.Trap, hostile.die_with_the_lock, hostile.Trap):
        await asyncio.gather(*(run(made, attack) for _ in range(3)), return_exceptions=True)
        assert await run(made, hostile.echo, "next") == "next"
    await made.close()
    assert set(psutil.Process().children(recursive=True)) <= before


async def test_a_pool_that_is_closed_ends_its_calls_and_starts_no_new_workers():
    made = DecodePool(Settings(decode_workers=1, decode_timeout_s=60), "tests.services.hostile")
    await made.start()
    running = asyncio.create_task(run(made, hostile.loop))
    await asyncio.sleep(0)  # it is given to the pool
    began = time.monotonic()
    await made.close()
    with pytest.raises(ModelUnready):
        await running
    with pytest.raises(ModelUnready):
        await run(made, hostile.echo, "late")
    assert time.monotonic() - began < pool_module.END_TIMEOUT_S
