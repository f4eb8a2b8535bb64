"""Every event is one row, whoever wrote it, died over it or sat beside it."""

import asyncio
import json
import re
import time
from typing import cast

import psycopg
import pytest
from redis.asyncio import Redis
from usage_events import end_job, rows, running, until_settled, usage_event
from waiting import until

from serve_app.keyspace import OUTBOX, OUTBOX_REFUSED
from serve_app.lua import read_script
from serve_app.settings import Settings
from serve_app.usage import writer as writer_module
from serve_app.usage.database import INSERTS, Database, read_row
from serve_app.usage.outbox import Outbox
from serve_app.usage.writer import FOREIGN_KEPT_S, GROUP

CONSUMER_GONE = "gone"


async def test_a_row_appears_soon_after_its_event(redis: Redis, settings: Settings, tables: str) -> None:
    async with running(redis, settings):
        await until_settled(redis)
        for number in range(3):
            await Outbox(redis, settings).record(usage_event(event_id=f"e{number}"))
            await until_settled(redis)
    assert rows(tables, "SELECT count(*) FROM api_usage") == [(3,)]


async def test_two_writers_store_each_event_once(redis: Redis, settings: Settings, tables: str) -> None:
    outbox = Outbox(redis, settings)
    events = [usage_event(event_id=f"e{number}") for number in range(1500)]
    async with running(redis, settings), running(redis, settings):
        for start in range(0, len(events), 50):
            twice = events[start : start + 50] * 2
            await asyncio.gather(*(outbox.record(event) for event in twice))
        for number in range(200):
            await end_job(redis, f"j{number % 100}")
        await until_settled(redis)
        consumers = await redis.xinfo_consumers(OUTBOX(), GROUP)
    assert len(consumers) == 2
    assert rows(tables, "SELECT count(*), count(DISTINCT event_id) FROM api_usage") == [(1500, 1500)]
    assert rows(tables, "SELECT count(*), count(DISTINCT job_id) FROM job_outcomes") == [(100, 100)]


@pytest.mark.parametrize("committed", [True, False])
async def test_what_a_killed_writer_had_taken_is_stored_once(
    redis: Redis, settings: Settings, tables: str, committed: bool
) -> None:
    for number in range(20):
        await Outbox(redis, settings).record(usage_event(event_id=f"e{number}"))
    await redis.xgroup_create(OUTBOX(), GROUP, id="0")
    [[_, entries]] = await redis.xreadgroup(GROUP, CONSUMER_GONE, {OUTBOX(): ">"}, count=500)
    if committed:
        gone = Database(tables)
        assert await gone.store({entry_id: read_row(fields) for entry_id, fields in entries}) == {}
        await gone.close()
        assert rows(tables, "SELECT count(*) FROM api_usage") == [(20,)]
    ids = [entry_id for entry_id, _ in entries]
    await redis.xclaim(OUTBOX(), GROUP, CONSUMER_GONE, 0, ids, idle=60_000, justid=True)

    async with running(redis, settings):
        await until_settled(redis)
        assert (await redis.xpending(OUTBOX(), GROUP))["pending"] == 0
    assert rows(tables, "SELECT count(*), count(DISTINCT event_id) FROM api_usage") == [(20, 20)]


async def test_what_a_living_writer_holds_is_left_to_it(redis: Redis, settings: Settings, tables: str) -> None:
    await Outbox(redis, settings).record(usage_event(event_id="held"))
    await redis.xgroup_create(OUTBOX(), GROUP, id="0")
    await redis.xreadgroup(GROUP, "busy", {OUTBOX(): ">"})
    async with running(redis, settings):
        await Outbox(redis, settings).record(usage_event(event_id="free"))
        await until(lambda: redis.xlen(OUTBOX()), fits=lambda found: int(found) == 1)
    assert rows(tables, "SELECT event_id FROM api_usage") == [("free",)]
    assert (await redis.xpending(OUTBOX(), GROUP))["consumers"] == [{"name": b"busy", "pending": 1}]


async def test_bad_entries_are_set_aside_and_499_good_neighbours_are_stored(
    redis: Redis, settings: Settings, tables: str
) -> None:
    outbox = Outbox(redis, settings)
    days_ago = int((time.time() - FOREIGN_KEPT_S) * 1000) - 1
    await redis.xadd(OUTBOX(), {"kind": "telemetry"}, id=f"{days_ago}-0")
    for number in range(200):
        await outbox.record(usage_event(event_id=f"e{number}"))
    bad_events = (
        b'{"event_id": "x1", "status_code": "many"}',
        b'{"event_id": "x2", "username": "\xff"}',
        b'{"event_id": "x3", "username": "nul\\u0000", "endpoint_type": "inference"}',
        b'{"event_id": "x4", "latency_ms": NaN}',
    )
    for event in bad_events:
        await redis.xadd(OUTBOX(), {"kind": "usage", "event": event})
    await end_job(redis, "x5", result="{not json")
    await end_job(redis, "x6", result="[" * 30_000 + "]" * 30_000)
    await end_job(redis, "x7", status="LOST")
    await end_job(redis, "x8", deliveries="9" * 40)
    await end_job(redis, "x9", completed_at="")
    for number in range(299):
        await end_job(redis, f"j{number}")
    async with running(redis, settings):
        await until_settled(redis)

    assert rows(tables, "SELECT count(*) FROM api_usage") == [(200,)]
    assert rows(tables, "SELECT count(*) FROM job_outcomes") == [(299,)]
    refused = [json.loads(entry) for entry in await redis.lrange(OUTBOX_REFUSED(), 0, -1)]
    names = {match[0] if (match := re.search(r"x\d", str(entry["fields"]))) else None for entry in refused}
    assert names == {"x1", "x2", "x3", "x4", None, "x5", "x6", "x7", "x8", "x9"}
    assert all(entry["reason"] for entry in refused)
    assert (await outbox.stats()).refused == 10


async def test_entries_of_a_newer_release_are_left_for_its_writer(
    redis: Redis, settings: Settings, tables: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "ABANDONED_MS", 0)
    monkeypatch.setattr(writer_module, "SWEEP_S", 0.0)
    await redis.xadd(OUTBOX(), {"kind": "survey", "event_id": "s1"})
    await Outbox(redis, settings).record(usage_event(event_id="e1"))

    async def only_the_newer_is_left() -> bool:
        return int(await redis.xlen(OUTBOX())) == 1

    async with running(redis, settings) as older:  # starts anew after the first has taken both
        await until(only_the_newer_is_left)
        assert older.trouble is None
        await Outbox(redis, settings).record(usage_event(event_id="e2"))
        await until(only_the_newer_is_left)
        with psycopg.connect(tables, autocommit=True) as connection:
            connection.execute("CREATE TABLE survey (event_id text PRIMARY KEY)")
        insert = "INSERT INTO survey SELECT event_id FROM json_to_recordset(%s::json) AS event (event_id text)"
        monkeypatch.setitem(cast(dict[str, str], INSERTS), "survey", insert)
        async with running(redis, settings):
            await until_settled(redis)
    assert rows(tables, "SELECT event_id FROM survey") == [("s1",)]
    assert rows(tables, "SELECT event_id FROM api_usage ORDER BY 1") == [("e1",), ("e2",)]
    assert await redis.llen(OUTBOX_REFUSED()) == 0


async def test_the_list_of_refused_entries_is_bounded(redis: Redis, settings: Settings, tables: str) -> None:
    async with redis.pipeline(transaction=False) as pipeline:
        for number in range(1200):
            pipeline.xadd(OUTBOX(), {"kind": "usage", "number": number})
        await pipeline.execute()
    async with running(redis, settings):
        await until_settled(redis)
    assert await redis.llen(OUTBOX_REFUSED()) == 1000
    newest = json.loads((await redis.lrange(OUTBOX_REFUSED(), 0, 0))[0])
    assert newest["fields"]["number"] == "1199"
    assert (await Outbox(redis, settings).stats()).refused == 1200


async def test_outcomes_keep_result_reason_and_every_run(redis: Redis, settings: Settings, tables: str) -> None:
    await end_job(redis, "done")
    failed = {"status": "FAILED", "slug": "job-dead", "detail": "given up\0", "result": "", "dead": "1"}
    await end_job(redis, "retried", started_at="0", deliveries="3", **failed)
    await end_job(redis, "retried", run="2")
    async with running(redis, settings):
        await until_settled(redis)
    query = """
        SELECT job_id, run, status, dead, slug, detail, result, deliveries, started_at - submitted_at < interval '1 s'
        FROM job_outcomes ORDER BY job_id, run
    """
    assert rows(tables, query) == [
        ("done", 1, "COMPLETED", False, None, None, {"label": "Tips"}, 1, True),
        ("retried", 1, "FAILED", True, "job-dead", "given up", None, 3, None),
        ("retried", 2, "COMPLETED", False, None, None, {"label": "Tips"}, 1, True),
    ]


async def test_names_of_writers_long_gone_are_forgotten(redis: Redis, settings: Settings) -> None:
    await Outbox(redis, settings).record(usage_event())
    await redis.xgroup_create(OUTBOX(), GROUP, id="0")
    await redis.xreadgroup(GROUP, "holds an entry", {OUTBOX(): ">"})
    await redis.xgroup_createconsumer(OUTBOX(), GROUP, "holds none")
    join = redis.register_script(read_script("serve_app.usage", "join"))
    await join(keys=[OUTBOX()], args=[GROUP, 600_000])
    assert len(await redis.xinfo_consumers(OUTBOX(), GROUP)) == 2
    await join(keys=[OUTBOX()], args=[GROUP, -1])
    assert [consumer["name"] for consumer in await redis.xinfo_consumers(OUTBOX(), GROUP)] == [b"holds an entry"]
