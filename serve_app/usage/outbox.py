"""The writing end of the outbox: usage events in, those of concurrent requests together; and what metrics say of it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Final

from redis.asyncio import Redis

from serve_app.connections import redis_errors
from serve_app.contracts import UsageEvent
from serve_app.errors import TrackerUnavailable
from serve_app.lua import read_script
from serve_app.settings import Settings
from serve_app.usage.keys import DROPPED, OUTBOX, TOTALS
from serve_app.usage.storable import storable, storable_name

GROUP_MAX: Final = 200
"""Events of one call of the script."""
WAITING_MAX: Final = 10_000
"""Events not yet sent; more would be those of a Redis that does not answer."""
TIMEOUT_S: Final = 2.0
"""Most time that a group may take: so long an answer is held back for the sake of its usage event."""
_ID_LIMIT: Final = 200
_PATH_LIMIT: Final = 2000
_TYPE_LIMIT: Final = 50
"""Characters of the column `endpoint_type`."""
_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


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
        self._record = redis.register_script(read_script(__package__, "record"))
        self._waiting: list[_Recorded] = []
        self._sender: asyncio.Task[None] | None = None

    async def record(self, event: UsageEvent) -> bool:
        """Put one event in; False when the outbox is full and the event was counted instead.

        Any text is taken: names and ids are made storable. Events of concurrent callers travel together, and who is
        cancelled while waiting has recorded all the same. Raises `TrackerUnavailable` when Redis is away.
        """
        if len(self._waiting) >= WAITING_MAX:
            raise _away()
        recorded = _Recorded(_as_json(event), asyncio.get_running_loop().create_future())
        self._waiting.append(recorded)
        if self._sender is None:
            self._sender = asyncio.create_task(self._send())
        return await recorded.stored

    async def close(self) -> None:
        """Return when everything recorded so far is in Redis, or could not be put there."""
        if self._sender is not None:
            await self._sender

    async def _send(self) -> None:
        try:
            while self._waiting:
                group, self._waiting = self._waiting[:GROUP_MAX], self._waiting[GROUP_MAX:]
                await self._send_group(group)
        finally:
            self._sender = None

    async def _send_group(self, group: list[_Recorded]) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                with redis_errors():
                    texts = [recorded.text for recorded in group]
                    stored = await self._record(keys=(OUTBOX, DROPPED, TOTALS), args=(self._limit, *texts))
        except Exception as error:  # whatever it was, the callers have to know
            failure = _away() if isinstance(error, TimeoutError) else error
            for recorded in group:
                recorded.fail(failure)
        else:
            for place, recorded in enumerate(group):
                recorded.answer(place < stored)

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


@dataclass(frozen=True, slots=True)
class _Recorded:
    text: str
    stored: asyncio.Future[bool]

    def answer(self, stored: bool) -> None:
        if not self.stored.done():
            self.stored.set_result(stored)

    def fail(self, error: Exception) -> None:
        if not self.stored.done():
            self.stored.set_exception(error)


def _away() -> TrackerUnavailable:
    return TrackerUnavailable("The job tracker is away. Try again in a moment.", retry_after=2)


def _as_json(event: UsageEvent) -> str:
    """The names of `UsageEvent` are the entry's."""
    values = {
        "event_id": storable(event.event_id, _ID_LIMIT),
        "timestamp": event.timestamp,
        "principal_id": storable(event.principal_id, _ID_LIMIT),
        "username": storable_name(event.username),
        "group": storable_name(event.group) if event.group else "",
        "endpoint_type": storable(event.endpoint_type, _TYPE_LIMIT),
        "status_code": event.status_code,
        "url_path": storable(event.url_path, _PATH_LIMIT),
        "latency_ms": event.latency_ms,
        "request_bytes": event.request_bytes,
        "job_id": storable(event.job_id, _ID_LIMIT),
        "model": storable(event.model, _ID_LIMIT),
        "request_id": storable(event.request_id, _ID_LIMIT),
    }
    return _encode(values)
