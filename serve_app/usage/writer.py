"""The reading end of the outbox: entries become rows in PostgreSQL, each exactly once, and are removed after the
commit.

Every gateway replica runs one writer; the consumer group distributes the entries. Entries that a writer took and did
not acknowledge are taken over by another. Storing twice is harmless (`ON CONFLICT DO NOTHING` on server-made ids), so
the order is always: take, commit, acknowledge.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any, Final, cast
from uuid import uuid4

import psycopg
from redis.asyncio import Redis
from redis.exceptions import RedisError

from serve_app.keyspace import OUTBOX, OUTBOX_DROPPED, OUTBOX_REFUSED, OUTBOX_TOTALS
from serve_app.lua import read_script
from serve_app.settings import Settings
from serve_app.usage.database import Database, Fields, Malformed, Row, as_refused, is_foreign, read_row

BATCH: Final = 500
WAIT_MS: Final = 1000
GATHER_S: Final = 0.2
"""Pause after a batch that was not full: at most five transactions a second, which leaves the processor to requests
while rows still appear within a second."""
ABANDONED_MS: Final = 30_000
"""An entry not acknowledged for this long is taken over; longer than any transaction may take."""
SWEEP_S: Final = 10.0
FORGOTTEN_MS: Final = 600_000
FIRST_PAUSE_S: Final = 0.2
LONGEST_PAUSE_S: Final = 15.0
GROUP: Final = "writers"
"""The consumer group of the outbox; every writer is one consumer of it."""
REFUSED_KEPT: Final = 1000
FOREIGN_KEPT_S: Final = 86_400
"""How long an entry of an unknown kind is left for a newer release's writer: longer than a rolling update lasts."""

Entries = Mapping[bytes, Fields]

_log = logging.getLogger(__name__)


class Writer:
    """Moves the outbox to PostgreSQL. No outage or refusal ends it."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._database = Database(settings.database_url.get_secret_value())
        self._name = uuid4().hex
        self._join_script = redis.register_script(read_script(__package__, "join"))
        self._acknowledge_script = redis.register_script(read_script(__package__, "acknowledge"))
        self._joined = False
        self._swept_at = float("-inf")
        self._failures = 0
        self.trouble: str | None = None
        """Why rows are delayed, in one sentence; None if they are not."""

    async def run(self) -> None:
        """Move entries until cancelled. Retries with pauses of up to 15 s while a server is down or full."""
        while True:
            try:
                full = await self._turn()
            except Exception as error:  # after any error the entries are still there for the next turn
                await self._step_back(error)
            else:
                self._note_success()
                if not full:
                    await asyncio.sleep(GATHER_S)

    async def close(self) -> None:
        """Close the PostgreSQL connection. Another writer takes over unacknowledged entries after 30 s."""
        await self._database.close()

    async def _turn(self) -> bool:
        """Move one batch; True if it was full. Connects to PostgreSQL first: entries are not taken without it."""
        await self._database.open()
        if not self._joined:
            entries = await self._rejoin()
        else:
            entries = await self._take_over() or _without_foreign(await self._read(">", WAIT_MS))
        if entries:
            await self._acknowledge(entries, await self._store(entries))
        return len(entries) >= BATCH

    async def _rejoin(self) -> Entries:
        """Join the group, creating it in a new or emptied Redis; returns what this writer took and did not
        acknowledge."""
        await self._join_script(keys=(OUTBOX(),), args=(GROUP, FORGOTTEN_MS))
        entries = _without_foreign(await self._read("0", None))
        self._joined = not entries
        return entries

    async def _read(self, after: str, wait_ms: int | None) -> Entries:
        reply = await self._redis.xreadgroup(GROUP, self._name, {OUTBOX(): after}, count=BATCH, block=wait_ms)
        streams = cast(list[tuple[bytes, list[tuple[bytes, Fields]]]], reply)
        return {entry_id: fields for _, entries in streams for entry_id, fields in entries}

    async def _take_over(self) -> Entries:
        """Every `SWEEP_S`: take over entries of dead writers."""
        now = asyncio.get_running_loop().time()
        if now - self._swept_at < SWEEP_S:
            return {}
        reply = await self._redis.xautoclaim(OUTBOX(), GROUP, self._name, ABANDONED_MS, count=BATCH)
        entries = dict(cast(list[tuple[bytes, Fields]], reply[1]))
        if not entries:
            self._swept_at = now
        return _without_foreign(entries)

    async def _store(self, entries: Entries) -> list[str]:
        """Commit the rows; returns the entries that can never be stored."""
        rows: dict[bytes, Row] = {}
        refused: dict[bytes, str] = {}
        for entry_id, fields in entries.items():
            if not fields:
                continue  # deleted by hand while pending: nothing to store, only to acknowledge
            try:
                rows[entry_id] = read_row(fields)
            except Malformed as error:
                refused[entry_id] = str(error)
        if rows:
            refused |= await self._database.store(rows)
        return [as_refused(entry_id, entries[entry_id], reason) for entry_id, reason in refused.items()]

    async def _acknowledge(self, entries: Entries, refused: list[str]) -> None:
        args: list[Any] = [GROUP, uuid4().hex, REFUSED_KEPT, len(entries), *entries, *refused]
        await self._acknowledge_script(keys=(OUTBOX(), OUTBOX_DROPPED(), OUTBOX_REFUSED(), OUTBOX_TOTALS()), args=args)
        if refused:
            _log.error(
                "set aside %d usage entries that can never be stored; see the list %s", len(refused), OUTBOX_REFUSED()
            )

    async def _step_back(self, error: Exception) -> None:
        """Drop every connection and wait. Logs once per trouble, not once per attempt."""
        self._joined = False
        trouble = _explain(error)
        if trouble != self.trouble:
            _log.warning("usage rows are delayed: %s", trouble, exc_info=error)
            self.trouble = trouble
        await self._database.close()
        pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(self._failures, 10))
        self._failures += 1
        await asyncio.sleep(pause)

    def _note_success(self) -> None:
        if self.trouble is not None:
            _log.info("usage rows flow again")
        self.trouble, self._failures = None, 0


def _without_foreign(entries: Entries) -> Entries:
    """Without entries left pending for a newer release, which takes them over like those of a dead writer."""
    since = (time.time() - FOREIGN_KEPT_S) * 1000
    return {
        entry_id: fields
        for entry_id, fields in entries.items()
        if not is_foreign(fields) or int(entry_id.partition(b"-")[0]) < since
    }


def _explain(error: Exception) -> str:
    """One sentence for health pages, without addresses, passwords or user data."""
    if isinstance(error, psycopg.errors.UndefinedTable | psycopg.errors.UndefinedColumn):
        return "PostgreSQL lacks tables of this version; run `semapi migrate`"
    if isinstance(error, psycopg.Error | TimeoutError):
        return "PostgreSQL cannot be reached or refuses"
    if isinstance(error, RedisError):
        return "Redis cannot be reached or refuses"
    return f"unexpected {type(error).__name__}"
