"""A server that is away delays rows and nothing else."""

import asyncio
import os
import signal
import time

import psycopg
import pytest
from gateway_parts import running_gateway
from redis.asyncio import Redis
from usage_events import rows, running, until_settled, usage_event
from waiting import until

from serve_app.connections import GroupingRedis, connect_redis
from serve_app.keyspace import OUTBOX
from serve_app.local.issuer import DevIssuerServer
from serve_app.local.postgres import Postgres
from serve_app.local.valkey import Valkey
from serve_app.settings import Settings
from serve_app.usage.migrations import migrate
from serve_app.usage.outbox import TIMEOUT_S, Outbox
from serve_app.usage.writer import GROUP

REQUESTS = 1000
STOPPED_S = 60


async def test_postgres_away_loses_and_delays_nothing(
    redis: Redis, settings: Settings, postgres: Postgres, tables: str
) -> None:
    outbox = Outbox(redis, settings)
    slowest, numbers = 0.0, iter(range(1000))

    async def record(count: int) -> None:
        nonlocal slowest
        for _ in range(count):
            started = time.monotonic()
            await outbox.record(usage_event(event_id=f"e{next(numbers)}"))
            slowest = max(slowest, time.monotonic() - started)

    async with running(redis, settings) as writer:
        await record(100)
        await until_settled(redis)
        assert writer.trouble is None
        await asyncio.to_thread(postgres.kill)
        await record(100)
        await until(lambda: writer.trouble is not None)
        assert writer.trouble == "PostgreSQL cannot be reached or refuses"
        await record(100)
        assert (await outbox.stats()).waiting == 200
        await asyncio.to_thread(postgres.start)
        await record(100)
        await until_settled(redis)
    assert slowest < 1
    assert rows(tables, "SELECT count(*), count(DISTINCT event_id) FROM api_usage") == [(400, 400)]


async def test_redis_away_and_emptied_is_survived(
    redis: Redis, settings: Settings, tables: str, valkey: Valkey
) -> None:
    outbox = Outbox(redis, settings)
    async with running(redis, settings) as writer:
        await outbox.record(usage_event(event_id="before"))
        await until_settled(redis)
        await asyncio.to_thread(valkey.kill)
        assert await outbox.record(usage_event(event_id="meanwhile"))
        await until(lambda: writer.trouble == "Redis cannot be reached or refuses")
        await asyncio.to_thread(valkey.start)
        assert await outbox.record(usage_event(event_id="after"))
        await until(lambda: outbox.spooled == 0)
        await until_settled(redis)
        await redis.flushall()
        assert await outbox.record(usage_event(event_id="emptied"))
        await until_settled(redis)
    assert rows(tables, "SELECT event_id FROM api_usage ORDER BY id") == [
        *(("before",), ("meanwhile",), ("after",), ("emptied",)),
    ]


@pytest.mark.parametrize("is_silent", [False, True])
async def test_requests_of_a_redis_outage_are_rows_once_and_nobody_waits_for_them(
    settings: Settings, tables: str, valkey: Valkey, redis: Redis, is_silent: bool
) -> None:
    """A Redis that is gone refuses connections, one that stands still answers nothing."""
    client = connect_redis(settings, client=GroupingRedis)
    outbox = Outbox(client, settings)
    numbers = iter(range(10_000))

    async def record(count: int) -> float:
        started = time.monotonic()
        events = [usage_event(event_id=f"e{next(numbers)}") for _ in range(count)]
        assert all(await asyncio.gather(*(outbox.record(event) for event in events)))
        return time.monotonic() - started

    async with running(redis, settings):
        await record(50)
        if is_silent:
            os.kill(valkey.pid, signal.SIGSTOP)
        else:
            await asyncio.to_thread(valkey.kill)
        try:
            assert await record(250) < TIMEOUT_S + 1  # the first group finds it out
            assert await record(700) < 0.5
            assert outbox.spooled == 950
        finally:
            if is_silent:
                os.kill(valkey.pid, signal.SIGCONT)
            else:
                await asyncio.to_thread(valkey.start)
        await until(lambda: outbox.spooled == 0)
        assert await record(50) < 1
        await outbox.close()
        await until_settled(redis)
    await client.aclose()
    assert rows(tables, "SELECT count(*), count(DISTINCT event_id) FROM api_usage") == [(1050, 1050)]
    assert rows(tables, "SELECT count(*) FROM usage_gaps") == [(0,)]


async def test_a_request_refused_while_redis_is_away_is_counted_once_it_is_back(
    settings: Settings, authority: DevIssuerServer, tables: str, valkey: Valkey, redis: Redis
) -> None:
    async with running_gateway(settings, authority) as gateway:
        assert (await gateway.get("/api/v1/jobs")).status_code == 200
        await asyncio.to_thread(valkey.kill)
        answers = [await gateway.get("/api/v1/jobs") for _ in range(5)]
        assert [answer.json()["type"] for answer in answers] == ["/problems/tracker-unavailable"] * 5
        await asyncio.to_thread(valkey.start)

        async def is_counted() -> bool:
            counted = await asyncio.to_thread(rows, tables, "SELECT count(*) FROM api_usage WHERE status_code = 503")
            return counted == [(5,)]

        await until(is_counted)
    assert rows(tables, "SELECT count(*) FROM api_usage") == [(6,)]


@pytest.mark.fault(reason="PostgreSQL is stopped for a minute")
async def test_a_thousand_requests_while_postgresql_is_stopped_for_a_minute_are_a_thousand_rows(
    settings: Settings, authority: DevIssuerServer, tables: str, postgres: Postgres
) -> None:
    """Of two users, answered and refused ones, spread over the minute."""
    slowest = 0.0
    async with running_gateway(settings, authority, rate_reads_per_s=1000.0) as gateway:
        await asyncio.to_thread(postgres.kill)
        stopped = time.monotonic()
        try:
            for number in range(REQUESTS):
                began = time.monotonic()
                answer = await gateway.get("/api/v1/jobs" if number % 4 else "/api/v1/jobs/unknown", f"u{number % 2}")
                slowest = max(slowest, time.monotonic() - began)
                assert answer.status_code == (200 if number % 4 else 404)
                await asyncio.sleep(max(0.0, stopped + STOPPED_S * (number + 1) / REQUESTS - time.monotonic()))
        finally:
            await asyncio.to_thread(postgres.start)
        assert time.monotonic() - stopped >= STOPPED_S
        await until_settled(gateway.redis)
    counted = "SELECT count(*), count(DISTINCT event_id), count(DISTINCT principal_id) FROM api_usage"
    assert rows(tables, counted) == [(REQUESTS, REQUESTS, 2)]
    assert rows(tables, "SELECT count(*) FROM api_usage WHERE status_code = 404") == [(REQUESTS // 4,)]
    assert rows(tables, "SELECT sum(requests)::bigint FROM usage_hourly") == [(REQUESTS,)]
    assert rows(tables, "SELECT count(*) FROM usage_gaps") == [(0,)]
    assert slowest < 2


async def test_a_postgres_that_dies_in_the_middle_of_a_batch_gets_each_row_once(
    redis: Redis, settings: Settings, postgres: Postgres, tables: str
) -> None:
    """The writer hangs in its transaction behind another session's lock when the server goes."""
    outbox = Outbox(redis, settings)
    async with await psycopg.AsyncConnection.connect(tables) as other, running(redis, settings):
        await other.execute("LOCK TABLE api_usage IN ACCESS EXCLUSIVE MODE")
        for number in range(50):
            await outbox.record(usage_event(event_id=f"e{number}"))

        async def is_waiting() -> bool:
            found = await other.execute("SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'api_usage'::regclass")
            return await found.fetchone() is not None

        await until(is_waiting)
        assert (await redis.xpending(OUTBOX(), GROUP))["pending"] > 0
        await asyncio.to_thread(postgres.kill)
        assert await outbox.record(usage_event(event_id="last"))
        await asyncio.to_thread(postgres.start)
        await until_settled(redis)
        await other.close()
    assert rows(tables, "SELECT count(*), count(DISTINCT event_id) FROM api_usage") == [(51, 51)]


async def test_missing_tables_are_waited_for_and_named(redis: Redis, settings: Settings, database: str) -> None:
    async with running(redis, settings) as writer:
        await Outbox(redis, settings).record(usage_event(event_id="early"))
        await until(lambda: "semapi migrate" in (writer.trouble or ""))
        migrate(database)
        await until_settled(redis)
        assert writer.trouble is None
    assert rows(database, "SELECT event_id FROM api_usage") == [("early",)]


async def test_without_a_database_events_wait(redis: Redis, settings: Settings) -> None:
    async with running(redis, settings) as writer:
        await Outbox(redis, settings).record(usage_event())
        await until(lambda: writer.trouble is not None)
        assert (await Outbox(redis, settings).stats()).waiting == 1
