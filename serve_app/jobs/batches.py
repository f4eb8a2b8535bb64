"""Batches in Redis: many items under one id, each of them a job or about to become one.

Every method raises TrackerUnavailable when Redis is down. An id that is unknown, malformed or another owner's raises
BatchUnknown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from serve_app.connections import redis_errors
from serve_app.contracts import Failure, JobInput, Json, Priority
from serve_app.errors import BatchNotEnded, BatchUnknown, ServiceError
from serve_app.jobs.records import (
    JOB_ID,
    Idempotency,
    PageEnd,
    decode_pairs,
    of_newer_release,
    page_start,
    read_page_end,
    sentence,
)
from serve_app.jobs.store import JobStore, check_repeated, refusal


class ItemStatus(StrEnum):
    """The states of an item: before it becomes a job, the states of its job, and that of an item that never became a
    job."""

    FETCHING = "FETCHING"
    PENDING = "PENDING"
    PROCESSING = "PROCESSING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    REFUSED = "REFUSED"


@dataclass(frozen=True, slots=True)
class NewItem:
    """One item of a batch to be accepted: exactly one of a job, a URL and a refusal is set."""

    name: str
    params: Json
    job_id: str = ""
    """The item becomes this job at once, with or without an input."""
    input: JobInput | None = None
    url: str = ""
    """The item becomes a job once this URL has been fetched."""
    refusal: Failure | None = None

    def as_json(self) -> Json:
        """The item in the form that batch_accept.lua reads."""
        shown: Json = {"name": self.name}
        if self.refusal:
            return {**shown, "slug": self.refusal.slug, "detail": self.refusal.detail}
        params = json.dumps(self.params, allow_nan=False)
        if self.url:
            return {**shown, "url": self.url, "params": params}
        stored = self.input or JobInput("", 0, 0, "")
        job = {"id": self.job_id, "params": params, "reference": stored.reference, "media_type": stored.media_type}
        return {**shown, "job": {**job, "bytes": str(stored.bytes), "pixels": str(stored.pixels)}}


@dataclass(frozen=True, slots=True)
class NewBatch:
    """A batch to be accepted. The caller makes `id`, a new UUID."""

    id: str
    owner: str
    model: str
    items: tuple[NewItem, ...] = ()
    traceparent: str | None = None
    idempotency: Idempotency | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a batch in its current state."""

    index: int
    name: str
    status: ItemStatus
    job_id: str | None
    result: Json | None
    """None also if it was not read."""
    failure: Failure | None
    recorded: bool
    """False: the record of the job has expired, and its result with it."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch in its current state, without its items."""

    id: str
    model: str
    submitted_at: int
    completed_at: int | None
    """When its last item ended."""
    size: int
    open: int
    """Items that have not ended."""


@dataclass(frozen=True, slots=True)
class BatchView:
    """A batch with its counts and some of its items, read in one step."""

    batch: Batch
    counts: Mapping[ItemStatus, int]
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class BatchPage:
    """Some of an owner's batches, newest first."""

    batches: tuple[Batch, ...]
    end: PageEnd | None
    """The next page starts after this batch; None on the last page."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """An item whose URL the claimer has to fetch."""

    item: str
    """`batch/index`."""
    owner: str
    model: str
    url: str
    params: Json
    traceparent: str | None


class BatchStore:
    """The batches beside a job store, through the same scripts; tasks may share it."""

    def __init__(self, jobs: JobStore) -> None:
        self._jobs = jobs
        self._scripts = jobs.scripts

    async def accept(self, batch: NewBatch) -> str:
        """Accept a whole batch or nothing: its id, or the id of the first batch with this idempotency key.

        Inputs must already be stored; from now on they stay until their jobs end. Raises IdempotencyKeyReused,
        QueueFull, StoreFull, and StoreUnavailable when a stored input is gone already.
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
            return check_repeated(batch.idempotency, reply[1:]).id
        if reply[0] not in (b"accepted", b"known"):
            raise refusal(reply)
        return batch.id

    async def find_earlier(self, batch: NewBatch) -> str | None:
        """The id of the first batch with this idempotency key, before anything is stored; None for a new key.

        Raises IdempotencyKeyReused.
        """
        first = await self._jobs.first_accepted(batch.idempotency)
        return first.id if first else None

    async def accepted_at(self, batch: NewBatch) -> int:
        """When the first batch with this idempotency key was accepted. Raises BatchUnknown for a new key."""
        first = await self._jobs.first_accepted(batch.idempotency)
        if first is None:
            raise _no_such_batch()
        return first.at

    async def read(
        self, batch_id: str, owner: str, *, first: int = 0, limit: int = 0, results: bool = False
    ) -> BatchView:
        """The batch, its counts, and up to `limit` items, starting at index `first`.

        `results` adds the items' results, up to 64 kB each, and leaves out the counts: counting reads every item, and
        results are read in many small pages.
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
            at, entry, *rows = await self._scripts.run("batch_page", owner, *page_start(after), limit)
        return BatchPage(tuple(read_batch(row[0].decode(), row[1]) for row in rows), read_page_end(at, entry))

    async def cancel(self, batch_id: str, owner: str) -> None:
        """Cancel every item that has not ended. A second call changes nothing."""
        await self._ask("batch_cancel", batch_id, owner)

    async def remove(self, batch_id: str, owner: str) -> None:
        """Remove a batch and its jobs. Raises BatchNotEnded."""
        await self._ask("batch_remove", batch_id, owner)

    async def claim_fetches(self, limit: int, without: Sequence[str] = ()) -> list[Fetch]:
        """Claim up to `limit` items whose URL is to be fetched, owner by owner, except of the owners `without`.

        Each is leased for FETCH_LEASE_S; then it may be claimed again. Items of a model whose queue is full or whose
        intake is stopped are not claimed, because they could not become jobs.
        """
        with redis_errors():
            return [read_fetch(*row) for row in await self._scripts.run("fetch_claim", limit, *without)]

    async def refuse_item(self, fetch: Fetch, failure: Failure) -> None:
        """End an item that cannot become a job. An item that has already ended or become a job stays as it is."""
        with redis_errors():
            await self._scripts.run("fetch_end", fetch.item, fetch.owner, failure.slug, sentence(failure.detail))

    async def count_fault(self, fetch: Fetch, failure: Failure) -> None:
        """Count a fault of the service itself. The item is claimed again later, and refused after FETCH_FAULTS_MAX
        faults."""
        with redis_errors():
            await self._scripts.run("fetch_fault", fetch.item, fetch.owner, failure.slug, sentence(failure.detail))

    async def release_item(self, fetch: Fetch) -> None:
        """End the lease of an unfinished item, so that it can be claimed again at once."""
        with redis_errors():
            await self._scripts.run("fetch_give_back", fetch.item, fetch.owner)

    async def accept_item(self, fetch: Fetch, job_id: str, stored: JobInput) -> bool:
        """Make a fetched item a job. False: it had already ended or become a job, and the input is not needed.

        Raises QueueFull and StoreFull; the item is then fetched again later.
        """
        facts = (job_id, json.dumps(fetch.params), stored.reference, stored.bytes, stored.pixels, stored.media_type)
        with redis_errors():
            reply = await self._scripts.run("fetch_end", fetch.item, fetch.owner, "", "", *facts)
        if reply[0] not in (b"done", b"known"):
            raise refusal(reply)
        return bool(reply[0] == b"done")

    async def _ask(self, script: str, batch_id: str, owner: str, *arguments: int) -> Sequence[Any]:
        """The script's reply after `done`."""
        if not JOB_ID.fullmatch(batch_id):
            raise _no_such_batch()
        with redis_errors():
            reply: Sequence[Any] = await self._scripts.run(script, batch_id, owner, *arguments)
        if reply[0] != b"done":
            raise _refusal(reply[0])
        return reply[1:]


def read_batch(batch_id: str, fields: Sequence[bytes]) -> Batch:
    """The batch of a record's fields."""
    record = decode_pairs(fields)
    return Batch(
        id=batch_id,
        model=record["model"],
        submitted_at=int(record["submitted_at"]),
        completed_at=int(record["completed_at"]) if "completed_at" in record else None,
        size=int(record["size"]),
        open=int(record["open"]),
    )


def read_item(index: int, name: bytes, job_id: bytes, ending: bytes, fields: Sequence[bytes | None]) -> Item:
    """One row of batch_read.lua. The job's record takes precedence: a failed job that is being retried has not
    ended."""
    status, slug, detail, *result = fields or (None, None, None)
    ended: Json = json.loads(ending) if ending else {}
    if status is None:
        status, slug, detail = (ended.get(part, "").encode() for part in ("status", "slug", "detail"))
    return Item(
        index=index,
        name=name.decode(),
        status=ItemStatus(status.decode()) if status else ItemStatus.FAILED if job_id else ItemStatus.FETCHING,
        job_id=job_id.decode() or None,
        result=json.loads(result[0]) if result and result[0] else None,
        failure=Failure(slug.decode(), (detail or b"").decode()) if slug else None,
        recorded=bool(fields) and fields[0] is not None,
    )


def read_fetch(item: bytes, asked: bytes, owner: bytes, model: bytes, _: bytes, traceparent: bytes) -> Fetch:
    """One item in the reply of fetch_claim.lua."""
    fields = json.loads(asked)
    params = json.loads(fields["params"])
    return Fetch(item.decode(), owner.decode(), model.decode(), fields["url"], params, traceparent.decode() or None)


def _no_such_batch() -> ServiceError:
    return BatchUnknown("There is no batch with this id.")


def _refusal(word: bytes) -> ServiceError:
    if word == b"unended":
        return BatchNotEnded("The batch has items that have not ended. Cancel it first.", retry_after=1)
    return of_newer_release() if word == b"foreign" else _no_such_batch()
