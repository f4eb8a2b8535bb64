"""Connections outlive a lost packet. Tasks that use Redis end when they are cancelled, although a send may lose a
cancellation."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from pydantic import SecretStr
from redis.asyncio import BlockingConnectionPool

from serve_app.connections import COMMAND_TIMEOUT_S, CONNECT_TIMEOUT_S, connect_redis, end_tasks
from serve_app.settings import Settings

SYN_AGAIN_S = 1.0
"""After this time TCP sends a lost SYN again: the initial retransmission timeout of RFC 6298."""


def test_a_connection_outlives_a_lost_packet_and_fails_before_its_command() -> None:
    pool = connect_redis(Settings(redis_url=SecretStr("redis://nowhere.example"))).connection_pool
    assert isinstance(pool, BlockingConnectionPool)
    assert pool.connection_kwargs["socket_connect_timeout"] == CONNECT_TIMEOUT_S
    assert SYN_AGAIN_S + 0.5 <= CONNECT_TIMEOUT_S <= COMMAND_TIMEOUT_S - 0.5


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
