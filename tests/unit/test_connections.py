"""Tasks that use Redis end when they are told to, although a send may lose a cancellation."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from serve_app.connections import end_tasks


async def test_a_task_that_lost_its_cancellation_is_cancelled_again() -> None:
    async def works_for_ever() -> None:
        with suppress(asyncio.CancelledError):  # what asyncio.wait_for does before Python 3.12
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    task = asyncio.create_task(works_for_ever())
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await end_tasks([task])
    assert task.cancelled()


async def test_a_task_that_failed_has_ended() -> None:
    async def fails() -> None:
        raise ValueError

    task = asyncio.create_task(fails())
    async with asyncio.timeout(5):
        await end_tasks([task])
    assert task.done()
