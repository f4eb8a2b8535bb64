"""A hostile input ends as its own failure: it harms neither the replica nor any other input."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from serve_app.errors import ImageTooCostly, ImageUndecodable, ModelRejected, ModelUnready
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
    assert {type(result) for result in results} == {ModelUnready}
    assert await run(pool, hostile.echo, "again") == "again"


async def test_who_stops_waiting_frees_the_worker(pool: DecodePool):
    waiting = [asyncio.create_task(run(pool, hostile.loop)) for _ in range(6)]
    await asyncio.sleep(0)
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    assert await run(pool, hostile.echo, "free") == "free"
