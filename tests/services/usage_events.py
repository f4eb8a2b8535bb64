"""Events and waits that the tests of usage share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import psycopg
from redis.asyncio import Redis
from waiting import until

from serve_app.connections import end_tasks
from serve_app.contracts import UsageEvent
from serve_app.keyspace import OUTBOX
from serve_app.settings import Settings
from serve_app.usage.writer import Writer

NOW_MS = 1_800_000_000_000


def usage_event(**changes: Any) -> UsageEvent:
    values: dict[str, Any] = {
        "event_id": uuid4().hex,
        "timestamp": NOW_MS,
        "principal_id": "p1",
        "username": "ada",
        "group": "microscopy",
        "endpoint_type": "inference",
        "status_code": 202,
        "url_path": "/api/v1/jobs",
        "latency_ms": 1.25,
        "request_bytes": 65536,
        "job_id": "j1",
        "model": "sem",
        "request_id": "r1",
    }
    return UsageEvent(**(values | changes))


async def end_job(redis: Redis, job_id: str, **changes: str) -> None:
    """Put an outcome event into the outbox as the scripts that end a job do."""
    values = {
        "job_id": job_id,
        "run": "1",
        "owner": "p1",
        "model": "sem",
        "status": "COMPLETED",
        "dead": "0",
        "slug": "",
        "detail": "",
        "result": '{"label": "Tips"}',
        "deliveries": "1",
        "submitted_at": str(NOW_MS),
        "started_at": str(NOW_MS + 10),
        "completed_at": str(NOW_MS + 20),
    }
    await redis.xadd(OUTBOX(), {"kind": "outcome", **values, **changes})  # type: ignore[dict-item]


@asynccontextmanager
async def running(redis: Redis, settings: Settings) -> AsyncIterator[Writer]:
    writer = Writer(redis, settings)
    task = asyncio.create_task(writer.run())
    try:
        yield writer
    finally:
        await end_tasks([task])
        await writer.close()


async def until_settled(redis: Redis) -> None:
    """Wait until everything in the outbox is in PostgreSQL or set aside."""
    await until(lambda: redis.xlen(OUTBOX()), fits=lambda found: int(found) == 0)


def rows(database: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(database) as connection:
        return connection.execute(query).fetchall()  # type: ignore[arg-type]
