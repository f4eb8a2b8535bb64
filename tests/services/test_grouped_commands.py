"""Commands that travel together: each caller gets its own reply, and one caller's trouble is nobody else's."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import SecretStr
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from serve_app.connections import COMMAND_TIMEOUT_S, GROUP_MAX, GROUPS_AT_ONCE, GroupingRedis, connect_redis
from serve_app.local.valkey import Valkey
from serve_app.settings import Settings

pytestmark = pytest.mark.usefixtures("own_keys")


@pytest.fixture
async def grouping(settings: Settings) -> AsyncIterator[GroupingRedis]:
    client = connect_redis(settings, client=GroupingRedis)
    assert isinstance(client, GroupingRedis)
    yield client
    await client.aclose()


async def test_every_caller_gets_its_own_reply(grouping: GroupingRedis) -> None:
    large = b"x" * 200_000
    await asyncio.gather(*(grouping.set(f"key-{n}", large if n % 50 == 0 else str(n)) for n in range(500)))
    replies = await asyncio.gather(*(grouping.get(f"key-{n}") for n in range(500)))
    assert replies == [large if n % 50 == 0 else str(n).encode() for n in range(500)]


async def test_commands_share_a_write(grouping: GroupingRedis, valkey: Valkey) -> None:
    await grouping.ping()
    before = (await grouping.info("stats"))["total_reads_processed"]
    await asyncio.gather(*(grouping.incr("counter") for _ in range(100)))
    after = (await grouping.info("stats"))["total_reads_processed"]
    assert await grouping.get("counter") == b"100"
    assert after - before < 20


async def test_an_error_is_its_callers_alone(grouping: GroupingRedis) -> None:
    await grouping.set("text", "no number")
    replies = await asyncio.gather(
        grouping.set("a", "1"), grouping.incr("text"), grouping.get("a"), return_exceptions=True
    )
    assert replies[0] is True
    assert isinstance(replies[1], ResponseError)
    assert replies[2] == b"1"


async def test_a_caller_that_goes_away_leaves_the_others_alone(grouping: GroupingRedis) -> None:
    leaving = [asyncio.ensure_future(grouping.get(f"gone-{n}")) for n in range(20)]
    staying = [asyncio.ensure_future(grouping.set(f"kept-{n}", n)) for n in range(20)]
    await asyncio.sleep(0)
    for task in leaving:
        task.cancel()
    assert all(await asyncio.gather(*staying))
    assert await grouping.get("kept-19") == b"19"


class AllAtOnce(GroupingRedis):
    """Its groups are answered in one and the same moment."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.under_way: asyncio.Queue[None] = asyncio.Queue()
        self.answered = asyncio.Event()

    async def _exchange(self, connection: AbstractConnection, group: list[Any]) -> None:
        self.under_way.put_nowait(None)
        await self.answered.wait()
        for command in group:
            command.answer(b"", {})


async def test_a_command_asked_for_the_moment_the_last_groups_end_is_sent(settings: Settings) -> None:
    client = connect_redis(settings, client=AllAtOnce)
    assert isinstance(client, AllAtOnce)

    async def ask_again() -> None:
        await client.get("first")
        await client.get("second")

    async with asyncio.timeout(10):
        callers = [asyncio.create_task(ask_again())]
        for _ in range(1, GROUPS_AT_ONCE):
            await client.under_way.get()  # its group is on its way before the next command comes
            callers.append(asyncio.create_task(client.get("other")))
        await client.under_way.get()
        client.answered.set()
        await asyncio.gather(*callers)
    await client.aclose()


async def test_a_server_that_never_answers_fails_a_long_row_of_groups_in_time(settings: Settings) -> None:
    class Silent(GroupingRedis):
        async def _exchange(self, connection: AbstractConnection, group: list[Any]) -> None:
            await asyncio.Event().wait()

    client = connect_redis(settings, client=Silent)
    async with asyncio.timeout(COMMAND_TIMEOUT_S * 2):
        replies = await asyncio.gather(*(client.get(f"key-{n}") for n in range(20)), return_exceptions=True)
    assert all(isinstance(reply, RedisTimeoutError) for reply in replies)
    await client.aclose()


async def test_what_cannot_be_sent_is_its_callers_fault_alone(grouping: GroupingRedis) -> None:
    replies = await asyncio.gather(grouping.set("a", "1"), grouping.get("\ud800"), return_exceptions=True)
    assert replies[0] is True
    assert isinstance(replies[1], UnicodeEncodeError)


async def test_a_server_that_dies_fails_its_callers_and_serves_the_next(own_valkey: Valkey) -> None:
    client = connect_redis(Settings(redis_url=SecretStr(own_valkey.url)), client=GroupingRedis)
    try:
        await client.set("kept", "1")
        own_valkey.kill()
        outcomes = await asyncio.gather(*(client.get("kept") for _ in range(20)), return_exceptions=True)
        assert all(isinstance(outcome, RedisConnectionError) for outcome in outcomes)
        own_valkey.start()
        assert await client.get("kept") == b"1"
    finally:
        await client.aclose()


async def test_a_server_that_falls_silent_is_waited_for_once_and_used_again_when_it_answers(own_valkey: Valkey) -> None:
    client = connect_redis(Settings(redis_url=SecretStr(own_valkey.url)), client=GroupingRedis)
    try:
        await client.set("kept", "1")
        os.kill(own_valkey.pid, signal.SIGSTOP)
        first = [asyncio.create_task(client.get("kept")) for _ in range(2 * GROUP_MAX * GROUPS_AT_ONCE)]
        begun = time.monotonic()
        replies = await asyncio.gather(*first, return_exceptions=True)
        assert all(isinstance(reply, RedisTimeoutError) for reply in replies)
        assert time.monotonic() - begun < 2 * COMMAND_TIMEOUT_S
        begun = time.monotonic()
        for large in (b"", b"x" * 200_000):
            with pytest.raises(RedisTimeoutError):
                await client.set("other", large)
        assert time.monotonic() - begun < COMMAND_TIMEOUT_S
        os.kill(own_valkey.pid, signal.SIGCONT)
        async with asyncio.timeout(10):
            while await asyncio.gather(client.get("kept"), return_exceptions=True) != [b"1"]:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    finally:
        await client.aclose()
        os.kill(own_valkey.pid, signal.SIGCONT)


async def test_a_client_may_be_closed_while_its_server_is_silent(own_valkey: Valkey) -> None:
    client = connect_redis(Settings(redis_url=SecretStr(own_valkey.url)), client=GroupingRedis)
    others = asyncio.all_tasks()
    os.kill(own_valkey.pid, signal.SIGSTOP)
    try:
        with pytest.raises(RedisTimeoutError):
            await client.get("kept")
        await client.aclose()
        assert asyncio.all_tasks() <= others
    finally:
        os.kill(own_valkey.pid, signal.SIGCONT)


async def test_who_waits_for_a_reply_when_the_client_is_closed_is_told_so(own_valkey: Valkey) -> None:
    """Those under way and those that have not been sent: nobody waits for ever."""
    client = connect_redis(Settings(redis_url=SecretStr(own_valkey.url)), client=GroupingRedis)
    assert isinstance(client, GroupingRedis)
    await client.ping()
    os.kill(own_valkey.pid, signal.SIGSTOP)
    try:
        replies = [client.begin("PING") for _ in range(GROUP_MAX)]
        await asyncio.sleep(0)  # the first group is on its way
        replies += [client.begin("PING") for _ in range(3 * GROUP_MAX)]
        async with asyncio.timeout(COMMAND_TIMEOUT_S / 2):
            await client.aclose()
            told = await asyncio.gather(*replies, return_exceptions=True)
        assert {type(error) for error in told} == {RedisConnectionError}
    finally:
        os.kill(own_valkey.pid, signal.SIGCONT)
