"""The writing end of the outbox: one usage event in, one round trip, bounded; and what metrics say of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from redis.asyncio import Redis

from serve_app.connections import redis_errors
from serve_app.contracts import UsageEvent
from serve_app.settings import Settings
from serve_app.usage.keys import DROPPED, OUTBOX, TOTALS
from serve_app.usage.scripts import read_script
from serve_app.usage.storable import storable, storable_name

_ID_LIMIT: Final = 200
_PATH_LIMIT: Final = 2000
_TYPE_LIMIT: Final = 50
"""Characters of the column `endpoint_type`."""


@dataclass(frozen=True, slots=True)
class OutboxFigures:
    """The state of the outbox for metrics and health. `dropped` and `refused` count since this Redis was new."""

    waiting: int
    lag_s: float
    """Age of the oldest entry in seconds; 0 when nothing waits."""
    dropped: int
    refused: int


class Outbox:
    """Where usage events wait for PostgreSQL, in the job Redis."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._limit = settings.outbox_max
        self._record = redis.register_script(read_script("record"))

    async def record(self, event: UsageEvent) -> bool:
        """Put one event in; False when the outbox is full and the event was counted instead.

        Any text is taken: names and ids are made storable. Raises `TrackerUnavailable` when Redis is away.
        """
        with redis_errors():
            stored = await self._record(keys=(OUTBOX, DROPPED, TOTALS), args=(self._limit, *_pairs(event)))
        return bool(stored)

    async def figures(self) -> OutboxFigures:
        """The outbox as it is now, in one round trip. Raises `TrackerUnavailable` when Redis is away."""
        with redis_errors():
            async with self._redis.pipeline(transaction=False) as pipeline:
                pipeline.xlen(OUTBOX)
                pipeline.xrange(OUTBOX, count=1)
                pipeline.time()
                pipeline.hmget(TOTALS, ["dropped", "refused"])
                waiting, oldest, (seconds, microseconds), (dropped, refused) = await pipeline.execute()
        lag_s = 0.0
        if oldest:
            written_ms = int(oldest[0][0].split(b"-")[0])
            lag_s = max(0.0, seconds + microseconds / 1e6 - written_ms / 1000)
        return OutboxFigures(waiting, lag_s, int(dropped or 0), int(refused or 0))


def _pairs(event: UsageEvent) -> Iterator[str | int | float]:
    """Field, value, field, value: the names of `UsageEvent` are the entry's."""
    yield from ("event_id", storable(event.event_id, _ID_LIMIT))
    yield from ("timestamp", event.timestamp)
    yield from ("principal_id", storable(event.principal_id, _ID_LIMIT))
    yield from ("username", storable_name(event.username))
    yield from ("group", storable_name(event.group) if event.group else "")
    yield from ("endpoint_type", storable(event.endpoint_type, _TYPE_LIMIT))
    yield from ("status_code", event.status_code)
    yield from ("url_path", storable(event.url_path, _PATH_LIMIT))
    yield from ("latency_ms", event.latency_ms)
    yield from ("request_bytes", event.request_bytes)
    yield from ("job_id", storable(event.job_id, _ID_LIMIT))
    yield from ("model", storable(event.model, _ID_LIMIT))
    yield from ("request_id", storable(event.request_id, _ID_LIMIT))
