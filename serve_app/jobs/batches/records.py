"""Batches as the tracker takes and gives them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from serve_app.contracts import Failure, JobInput, Json
from serve_app.jobs.records import Idempotency, PageEnd, decode_pairs


class ItemStatus(StrEnum):
    """The states of an item: before it is a job, those of its job, and that of one that never became a job."""

    FETCHING = "FETCHING"
    PENDING = "PENDING"
    PROCESSING = "PROCESSING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    REFUSED = "REFUSED"


@dataclass(frozen=True, slots=True)
class NewItem:
    """One item of a batch to be accepted, with exactly one of these: a job, a URL, a refusal."""

    name: str
    params: Json
    job_id: str = ""
    """It becomes this job at once, with this input or without one."""
    input: JobInput | None = None
    url: str = ""
    """It becomes a job once this was fetched."""
    refusal: Failure | None = None

    def as_json(self) -> Json:
        """What the script is told."""
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
    """A batch to be accepted. `id` is a new UUID that the caller made."""

    id: str
    owner: str
    model: str
    items: tuple[NewItem, ...] = ()
    traceparent: str | None = None
    idempotency: Idempotency | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a batch as it is now."""

    index: int
    name: str
    status: ItemStatus
    job_id: str | None
    result: Json | None
    """None also where it was not asked for."""
    failure: Failure | None
    recorded: bool
    """False: the record of its job is gone, and with it the result."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as it is now, without its items."""

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
    """A batch with its counts and some of its items, all of one moment."""

    batch: Batch
    counts: Mapping[ItemStatus, int]
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class BatchPage:
    """Some of an owner's batches, newest first."""

    batches: tuple[Batch, ...]
    end: PageEnd | None
    """After which batch the next page begins; None: there is nothing more."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """An item whose URL is to be fetched, for now by us."""

    item: str
    """`batch/index`."""
    owner: str
    model: str
    url: str
    params: Json
    traceparent: str | None


def read_batch(batch_id: str, fields: Sequence[bytes]) -> Batch:
    """The batch that a record's fields tell."""
    said = decode_pairs(fields)
    return Batch(
        id=batch_id,
        model=said["model"],
        submitted_at=int(said["submitted_at"]),
        completed_at=int(said["completed_at"]) if "completed_at" in said else None,
        size=int(said["size"]),
        open=int(said["open"]),
    )


def read_item(index: int, name: bytes, job_id: bytes, ending: bytes, fields: Sequence[bytes | None]) -> Item:
    """One row of batch_read.lua. The job's record tells first: a failed job that runs once more has not ended."""
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
    """One item as fetch_claim.lua replies it."""
    wants = json.loads(asked)
    params = json.loads(wants["params"])
    return Fetch(item.decode(), owner.decode(), model.decode(), wants["url"], params, traceparent.decode() or None)
