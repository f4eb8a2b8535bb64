"""What the routes of batches take and answer."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import ConfigDict, Field

from serve_app.gateway.batches.reads import BatchesQuery, ItemsQuery
from serve_app.gateway.batches.results import ResultsQuery
from serve_app.gateway.description.groups.jobs import JOB_ID, JobProblem
from serve_app.gateway.description.groups.operation import Count, FormShape, Moment, Operation, Shape
from serve_app.jobs.batches import ItemStatus

BATCH_ID: Final = "0d6f3f7e-6a1d-4a53-9d0f-8f1f0c1f6a55"
_PATH: Final = f"/api/v1/batches/{BATCH_ID}"
_ROW: Final[dict[str, Any]] = {
    "batch_id": BATCH_ID,
    "model": "sem-classifier",
    "submitted_at": "2026-11-21T12:00:00.000Z",
    "completed_at": None,
    "expires_at": None,
    "size": 2,
    "open": 1,
    "links": {"self": _PATH, "results": f"{_PATH}/results", "cancel": f"{_PATH}/cancel"},
}
_UNREADABLE: Final = {
    "type": "/problems/image-unreadable",
    "title": "The image could not be read",
    "detail": "The image is empty.",
}
_COUNTS: Final = {status.lower(): 0 for status in ItemStatus} | {"pending": 1, "refused": 1}
_BATCH: Final[dict[str, Any]] = {
    **_ROW,
    "counts": _COUNTS,
    "items": [
        {"index": 0, "name": "wires.tif", "status": "PENDING", "job_id": JOB_ID, "problem": None},
        {"index": 1, "name": "empty.png", "status": "REFUSED", "job_id": None, "problem": _UNREADABLE},
    ],
    "next_cursor": None,
}

Name = Annotated[str, Field(description="Of your choice; the answers show it.")]
Binary = Annotated[str, Field(json_schema_extra={"format": "binary"})]


class BatchForm(FormShape):
    """Many images as files, for one model."""

    image: Annotated[list[Binary], Field(description="The field as often as there are images.", min_length=1)]
    model: Annotated[str, Field(description="The default model if left out.")] | None = None
    params: Annotated[str, Field(description="A JSON object as text, by the model's params_schema.")] | None = None


class NewItem(Shape):
    """One item. What is wrong with it refuses it alone."""

    image_url: str | None = None
    name: Name | None = None
    params: Annotated[dict[str, Any], Field(description="Instead of the batch's.")] | None = None


class BatchBody(Shape):
    """Images by URL, fetched after the batch was accepted; for a model without images, parameters alone."""

    items: Annotated[list[NewItem], Field(min_length=1)]
    model: Annotated[str, Field(description="The default model if left out.")] | None = None
    params: Annotated[dict[str, Any], Field(description="For items without their own.")] | None = None


class BatchLinks(Shape):
    """Where the batch is, and what goes with it."""

    self: str
    results: str
    cancel: str


class BatchRow(Shape):
    """A batch as lists show it. `open`: items that have not ended."""

    batch_id: str
    model: str
    submitted_at: Moment
    completed_at: Annotated[Moment | None, Field(description="When the last item ended.")]
    expires_at: Annotated[Moment | None, Field(description="It is there until then, once it has ended.")]
    size: Count
    open: Count
    links: BatchLinks


class Counts(Shape):
    """Items by status; together they are all items."""

    fetching: Count
    pending: Count
    processing: Count
    completed: Count
    failed: Count
    cancelled: Count
    refused: Count


class Item(Shape):
    """An item: `FETCHING` until its URL was fetched, `REFUSED` where it can be no job, else as its job."""

    index: Count
    name: str
    status: ItemStatus
    job_id: str | None
    problem: JobProblem | None


class Batch(BatchRow):
    """A batch with a page of its items."""

    model_config = ConfigDict(json_schema_extra={"examples": [_BATCH]})

    counts: Counts
    items: list[Item]
    next_cursor: str | None


class BatchPage(Shape):
    """A page of batches, the newest first; `next_cursor` leads to the next page, None: this is the last."""

    data: list[BatchRow]
    next_cursor: str | None


_BY_URL: Final = {
    "items": [
        {"image_url": "https://images.example.org/nanowires.tif", "name": "nanowires"},
        {"image_url": "https://images.example.org/powder.tif", "name": "powder"},
    ]
}

OPERATIONS: Final = {
    "POST /api/v1/batches": Operation(
        "Batches",
        {202: (Batch,)},
        {"multipart/form-data": BatchForm, "application/json": BatchBody},
        _BY_URL,
        headers=("Idempotency-Key", "traceparent"),
        answer_headers=("Idempotent-Replayed",),
    ),
    "GET /api/v1/batches": Operation(
        "Batches",
        {200: (BatchPage,), 304: ()},
        query=BatchesQuery,
        headers=("If-None-Match",),
        answer_headers=("ETag", "Link"),
    ),
    "GET /api/v1/batches/{batch_id}": Operation(
        "Batches",
        {200: (Batch,), 304: ()},
        query=ItemsQuery,
        headers=("If-None-Match",),
        answer_headers=("ETag", "Link", "Retry-After"),
    ),
    "DELETE /api/v1/batches/{batch_id}": Operation("Batches", {204: ()}),
    "GET /api/v1/batches/{batch_id}/results": Operation(
        "Batches", {200: ("application/x-ndjson", "text/csv")}, query=ResultsQuery
    ),
    "POST /api/v1/batches/{batch_id}/cancel": Operation("Batches", {200: (Batch,)}),
}
