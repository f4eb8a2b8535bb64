"""Recording usage costs one round trip, takes any text, is bounded, and never takes job outcomes with it."""

import asyncio
from contextlib import suppress
from unittest.mock import ANY

import pytest
from job_help import configured
from pydantic import SecretStr
from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError
from usage_events import NOW_MS, end_job, rows, running, until_settled, usage_event
from waiting import until

from serve_app.connections import connect_redis
from serve_app.errors import TrackerUnavailable
from serve_app.keyspace import OUTBOX
from serve_app.settings import Settings
from serve_app.usage import outbox as outbox_module
from serve_app.usage.outbox import Outbox


async def test_an_event_is_one_command(redis: Redis, settings: Settings) -> None:
    outbox = Outbox(redis, settings)
    await outbox.record(usage_event())
    await redis.config_resetstat()
    for _ in range(20):
        assert await outbox.record(usage_event())
    stats = await redis.info("commandstats")
    sent = {name: stat["calls"] for name, stat in stats.items() if name not in ("cmdstat_xlen", "cmdstat_xadd")}
    assert sent.pop("cmdstat_evalsha") == 20
    assert set(sent) <= {"cmdstat_config|resetstat", "cmdstat_info"}


async def test_events_of_concurrent_callers_travel_together(redis: Redis, settings: Settings) -> None:
    outbox = Outbox(redis, settings)
    await outbox.record(usage_event())
    await redis.config_resetstat()
    assert await asyncio.gather(*(outbox.record(usage_event()) for _ in range(150))) == [True] * 150
    assert (await redis.info("commandstats"))["cmdstat_evalsha"]["calls"] == 1
    assert await redis.xlen(OUTBOX()) == 151


async def test_together_each_is_told_its_own_lot(redis: Redis, settings: Settings) -> None:
    outbox = Outbox(redis, settings.model_copy(update={"outbox_max": 3}))
    assert await asyncio.gather(*(outbox.record(usage_event()) for _ in range(5))) == [True] * 3 + [False] * 2
    assert (await outbox.stats()).dropped == 2


async def test_who_is_cancelled_while_waiting_has_recorded(redis: Redis, settings: Settings) -> None:
    outbox = Outbox(redis, settings)
    callers = [asyncio.create_task(outbox.record(usage_event())) for _ in range(3)]
    await asyncio.sleep(0)  # each has begun, none has an answer
    callers[1].cancel()
    assert await asyncio.gather(*callers, return_exceptions=True) == [True, ANY, True]
    assert callers[1].cancelled()
    assert await redis.xlen(OUTBOX()) == 3


async def test_figures_tell_what_waits_and_for_how_long(redis: Redis, settings: Settings) -> None:
    outbox = Outbox(redis, settings)
    empty = await outbox.stats()
    assert (empty.waiting, empty.lag_s, empty.dropped, empty.refused) == (0, 0.0, 0, 0)
    seconds, _ = await redis.time()
    await redis.xadd(OUTBOX(), {"kind": "usage"}, id=f"{(seconds - 60) * 1000}-0")
    await outbox.record(usage_event())
    stats = await outbox.stats()
    assert stats.waiting == 2
    assert 59 < stats.lag_s < 90


async def test_a_redis_that_is_away_is_said_in_our_words(settings: Settings) -> None:
    away = connect_redis(settings.model_copy(update={"redis_url": SecretStr("redis://127.0.0.1:1/0")}))
    with pytest.raises(TrackerUnavailable):
        await Outbox(away, settings).stats()
    await away.aclose()


@pytest.mark.parametrize("bound", ["SPOOL_MAX", "SPOOL_MAX_BYTES"])
async def test_a_full_spool_counts_what_it_misses_and_the_count_becomes_a_gap(
    redis: Redis, settings: Settings, tables: str, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    """Redis answers with an error here instead of none: a key of another kind stands where the outbox belongs."""
    monkeypatch.setattr(outbox_module, bound, 10 if bound == "SPOOL_MAX" else 4000)
    outbox = Outbox(redis, settings)
    await redis.set(OUTBOX(), "no stream")
    kept = 0
    for number in range(25):
        with suppress(TrackerUnavailable):
            kept += await outbox.record(usage_event(event_id=f"e{number}"))
    assert 0 < outbox.spooled == kept < 25
    await redis.delete(OUTBOX())
    await until(lambda: outbox.stats(), fits=lambda found: outbox.spooled == 0 and found.dropped > 0)
    assert (await outbox.stats()).dropped == 25 - kept
    assert await outbox.record(usage_event(event_id="after"))
    async with running(redis, settings):
        await until(lambda: rows(tables, "SELECT 1 FROM usage_gaps"))
        await until_settled(redis)
    assert rows(tables, "SELECT missing, since <= until, since > now() - interval '1 minute' FROM usage_gaps") == [
        (25 - kept, True, True)
    ]
    assert rows(tables, "SELECT count(*) FROM api_usage") == [(kept + 1,)]


async def test_a_gateway_that_ends_tries_the_spool_once_more_and_tells_what_is_lost(
    redis: Redis, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    for is_back in (True, False):
        await redis.flushall()
        caplog.clear()
        outbox = Outbox(redis, settings)
        await redis.set(OUTBOX(), "no stream")
        assert await asyncio.gather(*(outbox.record(usage_event()) for _ in range(300))) == [True] * 300
        if is_back:
            await redis.delete(OUTBOX())
        await outbox.close()
        if is_back:
            assert await redis.xlen(OUTBOX()) == 300
        assert ("300 usage events are lost" in caplog.text) is not is_back


async def test_full_memory_does_not_stop_the_bookkeeping(redis: Redis, settings: Settings, tables: str) -> None:
    outbox = Outbox(redis, settings)
    async with running(redis, settings), configured(redis, "maxmemory", 1):
        with pytest.raises(OutOfMemoryError):
            await redis.set("image", "x")
        assert await outbox.record(usage_event(event_id="e1"))
        await until_settled(redis)
    assert rows(tables, "SELECT event_id FROM api_usage") == [("e1",)]


async def test_a_full_outbox_counts_usage_and_still_takes_outcomes(
    redis: Redis, settings: Settings, tables: str
) -> None:
    outbox = Outbox(redis, settings.model_copy(update={"outbox_max": 10}))
    stored = [await outbox.record(usage_event(event_id=f"e{number}")) for number in range(25)]
    assert stored == [True] * 10 + [False] * 15
    await end_job(redis, "j1")
    assert await redis.xlen(OUTBOX()) == 11
    assert (await outbox.stats()).dropped == 15

    async with running(redis, settings):
        await until(lambda: rows(tables, "SELECT 1 FROM usage_gaps"))
        await until_settled(redis)
        assert await outbox.record(usage_event(event_id="after"))
        await until_settled(redis)

    gaps = rows(tables, "SELECT missing, since <= until, until > now() - interval '1 minute' FROM usage_gaps")
    assert gaps == [(15, True, True)]
    assert rows(tables, "SELECT count(*) FROM api_usage") == [(11,)]
    assert rows(tables, "SELECT job_id FROM job_outcomes") == [("j1",)]
    assert (await outbox.stats()).dropped == 15


async def test_every_field_reaches_its_column(redis: Redis, settings: Settings, tables: str) -> None:
    await Outbox(redis, settings).record(usage_event(event_id="full"))
    await Outbox(redis, settings).record(usage_event(event_id="bare", group="", job_id="", model=""))
    async with running(redis, settings):
        await until_settled(redis)
    query = """
        SELECT event_id, extract(epoch FROM timestamp) * 1000, username, service_name, endpoint_type, status_code,
            url_path, latency_ms, request_bytes, job_id, model, request_id, principal_id, group_name
        FROM api_usage ORDER BY event_id
    """
    common = (NOW_MS, "ada", "sem-image-classifier", "inference", 202, "/api/v1/jobs", 1.25, 65536)
    assert rows(tables, query) == [
        ("bare", *common, None, None, "r1", "p1", None),
        ("full", *common, "j1", "sem", "r1", "p1", "microscopy"),
    ]
