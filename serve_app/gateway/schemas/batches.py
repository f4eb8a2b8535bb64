"""Batches: request bodies, queries and answers."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, cast

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from serve_app.gateway.schemas.common import (
    Count,
    FormShape,
    JobProblem,
    Moment,
    expires_at,
    job_problem,
    timestamp,
    timestamp_or_none,
)
from serve_app.jobs import batches as records
from serve_app.jobs.batches import BatchView, ItemStatus
from serve_app.texts import BOM_HELP

ITEMS_SHOWN: Final = 100
"""Items in an answer, unless the query has another number."""

Name = Annotated[str, Field(description="Of your choice; the answers show it.")]
Binary = Annotated[str, Field(json_schema_extra={"format": "binary"})]
Cursor = Annotated[str, Field(min_length=1, max_length=100)]


class BatchForm(FormShape):
    """Many images as files, for one model."""

    image: Annotated[list[Binary], Field(description="The field as often as there are images.", min_length=1)]
    model: Annotated[str, Field(description="The default model if left out.")] | None = None
    params: Annotated[str, Field(description="A JSON object as text, by the model's params_schema.")] | None = None


class NewItem(BaseModel):
    """One item. An error in it refuses this item only."""

    model_config = ConfigDict(extra="forbid")

    image_url: str | None = None
    name: Name | None = None
    params: Annotated[dict[str, Any], Field(description="Instead of the batch's.")] | None = None


class BatchBody(BaseModel):
    """Images by URL, fetched after the batch is accepted; for a model without images, only parameters."""

    model_config = ConfigDict(extra="forbid")

    items: Annotated[list[NewItem], Field(min_length=1)]
    model: Annotated[str, Field(description="The default model if left out.")] | None = None
    params: Annotated[dict[str, Any], Field(description="For items without their own.")] | None = None


class BatchLinks(TypedDict):
    """Links to the batch and to its parts and actions."""

    self: str
    results: str
    cancel: str


class BatchRow(TypedDict):
    """A batch as in a list. `open`: items that have not ended."""

    batch_id: str
    model: str
    submitted_at: Moment
    completed_at: Annotated[Moment | None, Field(description="When the last item ended.")]
    expires_at: Annotated[Moment | None, Field(description="It is there until then, once it has ended.")]
    size: Count
    open: Count
    links: BatchLinks


class Counts(TypedDict):
    """Items by status; the sum is the number of items."""

    fetching: Count
    pending: Count
    processing: Count
    completed: Count
    failed: Count
    cancelled: Count
    refused: Count


class Item(TypedDict):
    """An item: `FETCHING` until its URL has been fetched, `REFUSED` if it cannot become a job, else the job's
    status."""

    index: Count
    name: str
    status: ItemStatus
    job_id: str | None
    problem: JobProblem | None


class ItemResult(Item):
    """An item as a line of the results."""

    result: Any


class Batch(BatchRow):
    """A batch with a page of its items."""

    counts: Counts
    items: list[Item]
    next_cursor: str | None


class BatchPage(TypedDict):
    """A page of batches, newest first; `next_cursor` leads to the next page and is null on the last."""

    data: list[BatchRow]
    next_cursor: str | None


class BatchesQuery(BaseModel):
    """Where to continue in the caller's batches."""

    model_config = ConfigDict(frozen=True)

    limit: Annotated[int, Field(ge=1, le=200)] = 50
    cursor: Cursor | None = None


class ItemsQuery(BaseModel):
    """Which items of a batch."""

    model_config = ConfigDict(frozen=True)

    limit: Annotated[int, Field(ge=1, le=500)] = ITEMS_SHOWN
    cursor: Cursor | None = None


class ResultsQuery(BaseModel):
    """The form of the results; without it the header Accept decides, and NDJSON is the default."""

    model_config = ConfigDict(frozen=True)

    format: Literal["ndjson", "csv"] | None = None
    bom: Annotated[bool, Field(description=BOM_HELP)] = False


def batch_path(batch_id: str) -> str:
    """The path of a batch."""
    return f"/api/v1/batches/{batch_id}"


def batch_row(batch: records.Batch, job_ttl: int) -> BatchRow:
    """The batch as in a list: without counts and items."""
    path = batch_path(batch.id)
    return {
        "batch_id": batch.id,
        "model": batch.model,
        "submitted_at": timestamp(batch.submitted_at),
        "completed_at": timestamp_or_none(batch.completed_at),
        "expires_at": expires_at(batch.completed_at, job_ttl),
        "size": batch.size,
        "open": batch.open,
        "links": {"self": path, "results": f"{path}/results", "cancel": f"{path}/cancel"},
    }


def batch_object(view: BatchView, job_ttl: int, next_cursor: str | None) -> Batch:
    """The batch with its counts and a page of its items; `next_cursor` leads to the page after it."""
    return {
        **batch_row(view.batch, job_ttl),
        "counts": cast(Counts, {status.lower(): number for status, number in view.counts.items()}),
        "items": [item_object(item) for item in view.items],
        "next_cursor": next_cursor,
    }


def item_object(item: records.Item) -> Item:
    """The item without its result."""
    return {
        "index": item.index,
        "name": item.name,
        "status": item.status,
        "job_id": item.job_id,
        "problem": job_problem(item.failure.slug, item.failure.detail) if item.failure else None,
    }


def item_result(item: records.Item, result: Any) -> ItemResult:
    """The item with its result, as a line of the results."""
    return {**item_object(item), "result": result}
