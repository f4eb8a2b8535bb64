"""The writing end of the outbox: takes usage events, grouped across concurrent requests, and reports its statistics."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import Final

from redis.asyncio import Redis

from serve_app.connections import end_tasks, redis_errors, tracker_unreachable
from serve_app.contracts import UsageEvent
from serve_app.keyspace import OUTBOX, OUTBOX_DROPPED, OUTBOX_TOTALS
from serve_app.lua import read_script
from serve_app.settings import Settings
from serve_app.texts import sanitize_name, sanitize_text

GROUP_MAX: Final = 200
"""Most events of one script call."""
WAITING_MAX: Final = 10_000
"""Most events not yet sent; more mean that Redis does not answer, and go into the spool."""
SPOOL_MAX: Final = 50_000
SPOOL_MAX_BYTES: Final = 32 * 1024 * 1024
"""Most bytes that a gateway keeps while Redis is down. 50,000 events are 14 minutes of 60 requests a second."""
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 2.0
"""Pause between two attempts to drain the spool."""
TIMEOUT_S: Final = 2.0
"""Deadline of a group: a response is held back for at most this long until its usage event is recorded."""
_ID_LIMIT: Final = 200
_PATH_LIMIT: Final = 2000
_TYPE_LIMIT: Final = 50
"""Characters of the column `endpoint_type`."""
_log = logging.getLogger(__name__)
_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class OutboxStats:
    """The state of the outbox for metrics and health. `dropped` and `refused` count since Redis was set up."""

    waiting: int
    lag_s: float
    """Age of the oldest entry in seconds; 0 if nothing waits."""
    dropped: int
    refused: int


class Outbox:
    """Holds usage events in the job Redis until they are in PostgreSQL.

    While Redis is down up to `SPOOL_MAX` events wait in this process instead, in the spool. Callers do not wait then:
    after one group without a reply, events go straight to the spool until it is drained. Sending an event twice is
    harmless, because its id makes it one row. Events that do not fit in the spool are counted, and become a gap in the
    report. Spooled events are lost if the process ends before Redis is back.
    """

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._limit = settings.outbox_max
        self._redis = redis
        self._record = redis.register_script(read_script(__package__, "record"))
        self._waiting: list[_Recorded] = []
        self._sender: asyncio.Task[None] | None = None
        self._spool = _Spool()
        self._drainer: asyncio.Task[None] | None = None

    @property
    def spooled(self) -> int:
        """Events that wait in this process while Redis is down."""
        return len(self._spool.texts)

    async def record(self, event: UsageEvent) -> bool:
        """Record one event; False if the outbox is full and the event was only counted.

        Accepts any text: names and ids are sanitized. Events of concurrent callers are sent together, and an event is
        recorded even if its caller is cancelled. Raises `TrackerUnavailable` if Redis is down and the spool is full.
        """
        recorded = _Recorded(_as_json(event), asyncio.get_running_loop().create_future())
        if self._drainer is not None or len(self._waiting) >= WAITING_MAX:
            self._keep([recorded])
            return await recorded.stored
        self._waiting.append(recorded)
        if self._sender is None:
            self._sender = asyncio.create_task(self._send())
        return await recorded.stored

    async def close(self) -> None:
        """Return when all recorded events are in Redis or could not be sent. The spool is tried once."""
        if self._sender is not None:
            await self._sender
        if self._drainer is not None:
            await end_tasks([self._drainer])
            await self._drain_once()
        if lost := self.spooled + self._spool.missed:
            _log.error("%d usage events are lost: Redis could not be reached until this gateway ended", lost)

    async def _send(self) -> None:
        try:
            while self._waiting:
                group, self._waiting = self._waiting[:GROUP_MAX], self._waiting[GROUP_MAX:]
                try:
                    stored = await self._put([recorded.text for recorded in group])
                except Exception as error:  # no error may lose these events
                    _log.warning("usage events wait in this gateway: Redis does not take them", exc_info=error)
                    waiting, self._waiting = group + self._waiting, []
                    self._keep(waiting)
                else:
                    for place, recorded in enumerate(group):
                        recorded.answer(place < stored)
        finally:
            self._sender = None

    async def _put(self, texts: list[str], gap: _Gap | None = None) -> int:
        """How many events, counted from the first, Redis stored; the others and those of the gap were counted."""
        missed = (gap.missed, gap.since_ms, gap.until_ms) if gap else (0, 0, 0)
        async with asyncio.timeout(TIMEOUT_S):
            return int(
                await self._record(
                    keys=(OUTBOX(), OUTBOX_DROPPED(), OUTBOX_TOTALS()), args=(self._limit, *missed, *texts)
                )
            )

    def _keep(self, group: list[_Recorded]) -> None:
        """Put events into the spool and start draining it."""
        for recorded in group:
            if self._spool.add(recorded.text):
                recorded.answer(True)
            else:
                recorded.fail(tracker_unreachable())
        if self._drainer is None:
            self._drainer = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        pause = FIRST_PAUSE_S
        try:
            while self._spool.texts or self._spool.missed:
                await asyncio.sleep(pause)
                pause = FIRST_PAUSE_S if await self._drain_once() else min(2 * pause, LONGEST_PAUSE_S)
            _log.info("usage events flow again")
        finally:
            self._drainer = None

    async def _drain_once(self) -> bool:
        """Send the spool to Redis, group by group; False if Redis does not take one."""
        spool = self._spool
        while spool.texts or spool.missed:
            group, gap = list(islice(spool.texts, GROUP_MAX)), spool.gap
            try:
                await self._put(group, gap)
            except Exception:  # logged once, when the events were spooled
                return False
            spool.forget(len(group), gap)
        return True

    async def stats(self) -> OutboxStats:
        """The current statistics, in one round trip. Raises `TrackerUnavailable` if Redis is down."""
        with redis_errors():
            async with self._redis.pipeline(transaction=False) as pipeline:
                pipeline.xlen(OUTBOX())
                pipeline.xrange(OUTBOX(), count=1)
                pipeline.time()
                pipeline.hmget(OUTBOX_TOTALS(), ["dropped", "refused"])
                waiting, oldest, (seconds, microseconds), (dropped, refused) = await pipeline.execute()
        lag_s = 0.0
        if oldest:
            written_ms = int(oldest[0][0].split(b"-")[0])
            lag_s = max(0.0, seconds + microseconds / 1e6 - written_ms / 1000)
        return OutboxStats(waiting, lag_s, int(dropped or 0), int(refused or 0))


@dataclass(frozen=True, slots=True)
class _Gap:
    """Events that were counted and not kept: how many, and in which span of time."""

    missed: int
    since_ms: int
    until_ms: int


class _Spool:
    """Events in order of arrival, bounded in number and bytes, and the gap of those that did not fit."""

    def __init__(self) -> None:
        self.texts: deque[str] = deque()
        self.gap: _Gap | None = None
        self._bytes = 0

    @property
    def missed(self) -> int:
        return self.gap.missed if self.gap else 0

    def add(self, text: str) -> bool:
        """Keep an event; False if it did not fit and was counted."""
        size = len(text.encode())
        if len(self.texts) >= SPOOL_MAX or self._bytes + size > SPOOL_MAX_BYTES:
            now = int(time.time() * 1000)
            self.gap = _Gap(self.missed + 1, self.gap.since_ms if self.gap else now, now)
            return False
        self.texts.append(text)
        self._bytes += size
        return True

    def forget(self, number: int, gap: _Gap | None) -> None:
        """Drop the first events and the gap, which are now in Redis. More events may have been missed since `gap` was
        sent."""
        for _ in range(number):
            self._bytes -= len(self.texts.popleft().encode())
        if gap and self.gap:
            more = self.gap.missed - gap.missed
            self.gap = _Gap(more, gap.until_ms, self.gap.until_ms) if more else None


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


def _as_json(event: UsageEvent) -> str:
    """The entry, with the field names of `UsageEvent`."""
    values = {
        "event_id": sanitize_text(event.event_id, _ID_LIMIT),
        "timestamp": event.timestamp,
        "principal_id": sanitize_text(event.principal_id, _ID_LIMIT),
        "username": sanitize_name(event.username),
        "group": sanitize_name(event.group) if event.group else "",
        "endpoint_type": sanitize_text(event.endpoint_type, _TYPE_LIMIT),
        "status_code": event.status_code,
        "url_path": sanitize_text(event.url_path, _PATH_LIMIT),
        "latency_ms": event.latency_ms,
        "request_bytes": event.request_bytes,
        "job_id": sanitize_text(event.job_id, _ID_LIMIT),
        "model": sanitize_text(event.model, _ID_LIMIT),
        "request_id": sanitize_text(event.request_id, _ID_LIMIT),
    }
    return _encode(values)
