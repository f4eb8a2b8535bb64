"""The hourly sums are what the rows say, whoever inserted them and in whatever order."""

import asyncio
import json
import random
from pathlib import Path

import psycopg
import pytest
from usage_events import NOW_MS, rows

from serve_app.usage.database import Database, read_row
from serve_app.usage.migrations import read_migrations

HOUR_MS = 3_600_000
SQL = Path(__file__).resolve().parents[2] / "serve_app" / "usage" / "sql"
REQUESTS = """
    SELECT date_trunc('hour', timestamp, 'UTC'), principal_id, username, group_name, endpoint_type, status_code,
        url_path, model, count(*), coalesce(sum(request_bytes), 0)::bigint, min(timestamp), max(timestamp)
    FROM api_usage GROUP BY 1, 2, 3, 4, 5, 6, 7, 8 ORDER BY 1, 2, 3, 4, 5, 6, 7, 8
"""
REQUEST_SUMS = """
    SELECT hour, principal_id, username, group_name, endpoint_type, status_code, url_path, model, requests,
        request_bytes, first_at, last_at FROM usage_hourly ORDER BY 1, 2, 3, 4, 5, 6, 7, 8
"""
LATENCIES = "SELECT usage_latency_bucket(latency_ms), count(*) FROM api_usage GROUP BY 1 ORDER BY 1"
LATENCY_SUMS = "SELECT bucket, sum(requests)::bigint FROM usage_latency_hourly GROUP BY 1 ORDER BY 1"
OUTCOMES = """
    SELECT date_trunc('hour', completed_at, 'UTC'), owner, model, status, dead, count(*),
        coalesce(sum(extract(epoch FROM completed_at - started_at) * 1000), 0)::bigint
    FROM job_outcomes GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5
"""
OUTCOME_SUMS = "SELECT * FROM outcomes_hourly ORDER BY 1, 2, 3, 4, 5"


def entry(number: int, chance: random.Random) -> dict[bytes, bytes]:
    """A usage or outcome event, with few values so that many share a sum."""
    at = NOW_MS + chance.randrange(3) * HOUR_MS + chance.randrange(HOUR_MS)
    person = chance.choice("abc")
    usage: dict[str, object] = {"event_id": f"e{number}", "timestamp": at, "username": person, "endpoint_type": "other"}
    usage |= {"status_code": chance.choice((200, 429, 500)), "url_path": "/x" * chance.choice((1, 3000))}
    usage |= {"latency_ms": chance.expovariate(0.1), "request_bytes": number, "principal_id": f"id {person}"}
    usage |= {"group": chance.choice(("", "g")), "model": "", "job_id": "", "request_id": ""}
    outcome = {"kind": "outcome", "job_id": f"j{number}", "run": 1, "owner": f"id {person}", "model": "sem"}
    outcome |= {"status": chance.choice(("COMPLETED", "FAILED")), "dead": chance.choice((0, 1)), "deliveries": 1}
    outcome |= {"slug": "", "detail": "", "result": "", "submitted_at": at, "completed_at": at + 5}
    outcome |= {"started_at": chance.choice((0, at))}
    fields = chance.choice(({"kind": "usage", "event": json.dumps(usage)}, outcome))
    return {name.encode(): str(value).encode() for name, value in fields.items()}


async def store(url: str, entries: list[dict[bytes, bytes]], size: int = 50) -> None:
    database = Database(url)
    try:
        for start in range(0, len(entries), size):
            batch = entries[start : start + size]
            assert await database.store({str(n).encode(): read_row(fields) for n, fields in enumerate(batch)}) == {}
    finally:
        await database.close()


def assert_sums_are_exact(url: str) -> None:
    assert rows(url, REQUEST_SUMS) == rows(url, REQUESTS) != []
    assert rows(url, LATENCY_SUMS) == rows(url, LATENCIES)
    assert rows(url, OUTCOME_SUMS) == rows(url, OUTCOMES) != []


async def test_four_writers_at_once_neither_deadlock_nor_miscount(tables: str) -> None:
    chance = random.Random(1)
    entries = [entry(number, chance) for number in range(2000)]
    # The group hands each writer entries of its own; what they share are the sums.
    await asyncio.gather(*(store(tables, entries[writer::4]) for writer in range(4)))
    await store(tables, entries[:300])  # written again after a lost acknowledgement
    assert rows(tables, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == [(0,)]
    stored = "SELECT (SELECT count(*) FROM api_usage) + (SELECT count(*) FROM job_outcomes)"
    assert rows(tables, stored) == [(2000,)]
    assert_sums_are_exact(tables)


async def test_rows_that_were_there_before_are_summed_too(database: str) -> None:
    rollups = next(migration for migration in read_migrations() if migration.name.endswith("_usage_rollups.sql"))
    with psycopg.connect(database) as connection:
        for migration in read_migrations():
            if migration.name < rollups.name:
                connection.execute(migration.sql)
    chance = random.Random(2)
    await store(database, [entry(number, chance) for number in range(500)])
    with psycopg.connect(database) as connection:
        connection.execute(rollups.sql)
    assert_sums_are_exact(database)
    await store(database, [entry(number, chance) for number in range(500, 600)])
    assert_sums_are_exact(database)


async def test_sums_follow_a_batch_that_is_rolled_back(tables: str) -> None:
    chance = random.Random(3)
    good = [entry(number, chance) for number in range(20)]
    bad = {b"kind": b"usage", b"event": b'{"event_id": "bad", "status_code": "many"}'}
    writer = Database(tables)
    batch = {str(number).encode(): read_row(fields) for number, fields in enumerate([*good[1:], bad])}
    assert len(await writer.store(batch)) == 1
    await writer.close()
    assert_sums_are_exact(tables)


@pytest.mark.parametrize("latency", ["0", "-1", "'infinity'", "'NaN'", "1e300", "1e-300", "'-infinity'"])
def test_every_latency_has_a_bucket(tables: str, latency: str) -> None:
    [(bucket,)] = rows(tables, f"SELECT usage_latency_bucket({latency})")
    assert -50 <= bucket <= 200
