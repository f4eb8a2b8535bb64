"""Batches: many items under one handle, each of them a job of its own, or on its way to be one.

Every method raises TrackerUnavailable when Redis is away. A batch that is unknown, malformed or someone else's is the
same BatchUnknown.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis

from serve_app.connections import redis_errors
from serve_app.contracts import Failure, JobInput, Priority
from serve_app.errors import BatchNotEnded, BatchUnknown, ServiceError
from serve_app.jobs import limits
from serve_app.jobs.batches.records import (
    BatchPage,
    BatchView,
    Fetch,
    ItemStatus,
    NewBatch,
    read_batch,
    read_fetch,
    read_item,
)
from serve_app.jobs.idempotency import earlier, first_of
from serve_app.jobs.records import JOB_ID, PageEnd, of_newer_release, place_after, read_page_end
from serve_app.jobs.scripts import Scripts
from serve_app.jobs.tracker import refused
from serve_app.settings import Settings


class Batches:
    """An owner's batches. One per process and event loop, beside the tracker; safe to share between tasks."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._scripts = Scripts(redis, settings)

    async def accept(self, batch: NewBatch) -> str:
        """Accept a batch whole or not at all: its id, or that of the first with this idempotency key.

        Inputs must be stored: from now on they stay until their jobs end. Raises IdempotencyKeyReused, QueueFull,
        StoreFull, and StoreUnavailable when a stored input is gone already.
        """
        asked = batch.idempotency
        text = json.dumps([item.as_json() for item in batch.items])
        with redis_errors():
            reply = await self._scripts.run(
                "batch_accept",
                *(batch.id, batch.owner, batch.model, Priority.BULK, batch.traceparent or ""),
                *((asked.hash, asked.fingerprint) if asked else ("", "")),
                text,
            )
        if reply[0] == b"repeated":
            return first_of(batch.idempotency, reply[1:]).id
        if reply[0] not in (b"accepted", b"known"):
            raise refused(reply)
        return batch.id

    async def earlier(self, batch: NewBatch) -> str | None:
        """What `accept` would answer from memory, before anything is stored. Raises IdempotencyKeyReused."""
        first = await earlier(self._redis, batch.idempotency)
        return first.id if first else None

    async def accepted_at(self, batch: NewBatch) -> int:
        """When the first batch with this idempotency key was accepted. Raises BatchUnknown where none is remembered."""
        first = await earlier(self._redis, batch.idempotency)
        if first is None:
            raise _no_such_batch()
        return first.at

    async def read(
        self, batch_id: str, owner: str, *, first: int = 0, limit: int = 0, results: bool = False
    ) -> BatchView:
        """The batch, its counts, and up to `limit` of its items from the one with the index `first` on.

        Their results, which are the most of it, come along only where they are asked for, and then without the counts:
        those look at every item, and results are read piece by piece.
        """
        fields, counts, rows = await self._ask("batch_read", batch_id, owner, first, limit, int(results))
        return BatchView(
            batch=read_batch(batch_id, fields),
            counts=dict(zip(ItemStatus, counts, strict=True)) if counts else {},
            items=tuple(read_item(*row) for row in rows),
        )

    async def page(self, owner: str, *, limit: int, after: PageEnd | None = None) -> BatchPage:
        """Up to `limit` of the owner's batches, newest first. `after` is the `end` of the page before."""
        with redis_errors():
            at, entry, *rows = await self._scripts.run("batch_page", owner, *place_after(after), limit)
        return BatchPage(tuple(read_batch(row[0].decode(), row[1]) for row in rows), read_page_end(at, entry))

    async def cancel(self, batch_id: str, owner: str) -> None:
        """End every item that has not ended as CANCELLED, at once. A second time changes nothing."""
        await self._ask("batch_cancel", batch_id, owner)

    async def remove(self, batch_id: str, owner: str) -> None:
        """Forget a batch and its jobs. Raises BatchNotEnded."""
        await self._ask("batch_remove", batch_id, owner)

    async def claim_fetches(self, limit: int, without: Sequence[str] = ()) -> list[Fetch]:
        """Up to `limit` items whose URL is to be fetched, owner by owner, none of the owners `without`. Not ended in
        time, each is another's.

        None of a model whose queue is full or whose intake is stopped: what is fetched could be no job.
        """
        with redis_errors():
            return [read_fetch(*row) for row in await self._scripts.run("fetch_claim", limit, *without)]

    async def refuse(self, fetch: Fetch, failure: Failure) -> None:
        """End an item that can be no job; nothing happens to one that was decided before."""
        with redis_errors():
            await self._scripts.run("fetch_end", fetch.item, fetch.owner, failure.slug, _told(failure))

    async def fault(self, fetch: Fetch, failure: Failure) -> None:
        """Count a fault of the service itself; the item is taken again later, and after the last one it is refused."""
        with redis_errors():
            await self._scripts.run("fetch_fault", fetch.item, fetch.owner, failure.slug, _told(failure))

    async def give_back(self, fetch: Fetch) -> None:
        """Leave an item that is not decided to another, at once."""
        with redis_errors():
            await self._scripts.run("fetch_give_back", fetch.item, fetch.owner)

    async def admit(self, fetch: Fetch, job_id: str, stored: JobInput) -> bool:
        """Make a job of an item that was fetched; False when it was decided before, and the input is not needed.

        Raises QueueFull and StoreFull: the item is fetched again later.
        """
        facts = (job_id, json.dumps(fetch.params), stored.reference, stored.bytes, stored.pixels, stored.media_type)
        with redis_errors():
            reply = await self._scripts.run("fetch_end", fetch.item, fetch.owner, "", "", *facts)
        if reply[0] not in (b"done", b"known"):
            raise refused(reply)
        return bool(reply[0] == b"done")

    async def _ask(self, script: str, batch_id: str, owner: str, *arguments: int) -> Sequence[Any]:
        """What the script replies after `done`."""
        if not JOB_ID.fullmatch(batch_id):
            raise _no_such_batch()
        with redis_errors():
            reply: Sequence[Any] = await self._scripts.run(script, batch_id, owner, *arguments)
        if reply[0] != b"done":
            raise _refusal(reply[0])
        return reply[1:]


def _told(failure: Failure) -> bytes:
    return failure.detail[: limits.REASON_MAX_CHARACTERS].encode(errors="replace")


def _no_such_batch() -> BatchUnknown:
    return BatchUnknown("There is no batch with this id.")


def _refusal(word: bytes) -> ServiceError:
    if word == b"unended":
        return BatchNotEnded("The batch has items that have not ended. Cancel it first.", retry_after=1)
    return of_newer_release() if word == b"foreign" else _no_such_batch()
