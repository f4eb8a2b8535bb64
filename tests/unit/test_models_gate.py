"""Many run together or one suspect alone, in every order of arrival and departure."""

import asyncio
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.models.forward import ExclusiveGate


class Visitor(NamedTuple):
    alone: bool
    arrives: int
    stays: int
    cancelled: bool


turns = st.integers(0, 4)
visitors = st.builds(Visitor, st.booleans(), turns, turns, st.booleans())


@given(st.lists(visitors, max_size=12), turns)
def test_a_suspect_is_alone_and_nobody_waits_for_ever(arrivals: list[Visitor], cancelled_after: int):
    asyncio.run(scenario(arrivals, cancelled_after))


async def scenario(arrivals: list[Visitor], cancelled_after: int) -> None:
    lock = ExclusiveGate()
    inside: list[bool] = []

    async def visit(visitor: Visitor) -> bool:
        await some_turns(visitor.arrives)
        async with lock.exclusive() if visitor.alone else lock.shared():
            inside.append(visitor.alone)
            try:
                for _ in range(visitor.stays + 1):
                    assert len(inside) == 1 or not any(inside)
                    await asyncio.sleep(0)
            finally:
                inside.remove(visitor.alone)
        return True

    visits = [asyncio.create_task(visit(visitor)) for visitor in arrivals]
    await some_turns(cancelled_after)
    for task, visitor in zip(visits, arrivals, strict=True):
        if visitor.cancelled:
            task.cancel()
    await some_turns(200)
    assert all(task.done() for task in visits)
    for task, visitor in zip(visits, arrivals, strict=True):
        assert visitor.cancelled or task.result()
    async with lock.exclusive():
        assert not inside


async def some_turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_waiting_suspect_holds_later_ones_back():
    lock, order = ExclusiveGate(), []
    leave = asyncio.Event()

    async def first() -> None:
        async with lock.shared():
            await leave.wait()
            order.append("first")

    async def suspect() -> None:
        async with lock.exclusive():
            order.append("suspect")

    async def later() -> None:
        async with lock.shared():
            order.append("later")

    tasks = []
    for visitor in (first, suspect, later):
        tasks.append(asyncio.create_task(visitor()))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    leave.set()
    await asyncio.gather(*tasks)
    assert order == ["first", "suspect", "later"]


async def test_a_failure_inside_lets_the_next_one_in():
    lock = ExclusiveGate()
    for side in (lock.exclusive, lock.shared):
        with pytest.raises(ValueError, match="inside"):
            async with side():
                raise ValueError("inside")
    async with asyncio.timeout(1), lock.exclusive():
        pass
