"""Batches and their items as the API shows them."""

from __future__ import annotations

from typing import Final

from serve_app.contracts import Json
from serve_app.gateway.operations.lists import next_page
from serve_app.gateway.problems import job_problem
from serve_app.gateway.service import Call
from serve_app.gateway.views import expires_at, timestamp
from serve_app.jobs.batches import Batch, BatchView, Item

ITEMS_SHOWN: Final = 100
"""Items of an answer, unless asked for another number."""


def batch_path(batch_id: str) -> str:
    """Where a batch is."""
    return f"/api/v1/batches/{batch_id}"


def batch_row(batch: Batch, job_ttl: int) -> Json:
    """The batch as lists show it: without counts and items."""
    path = batch_path(batch.id)
    return {
        "batch_id": batch.id,
        "model": batch.model,
        "submitted_at": timestamp(batch.submitted_at),
        "completed_at": timestamp(batch.completed_at),
        "expires_at": expires_at(batch.completed_at, job_ttl),
        "size": batch.size,
        "open": batch.open,
        "links": {"self": path, "results": f"{path}/results", "cancel": f"{path}/cancel"},
    }


def batch_object(view: BatchView, call: Call, *, first: int) -> Json:
    """The batch with its counts and the items from the index `first` on."""
    cursor, _ = next_page(call, after(view, first))
    return {
        **batch_row(view.batch, call.service.settings.job_ttl),
        "counts": {status.lower(): number for status, number in view.counts.items()},
        "items": [item_object(item) for item in view.items],
        "next_cursor": cursor,
    }


def after(view: BatchView, first: int) -> int | None:
    """The index of the item that follows those of a view; None at the end."""
    index = first + len(view.items)
    return index if index < view.batch.size else None


def item_object(item: Item) -> Json:
    """The item without its result."""
    return {
        "index": item.index,
        "name": item.name,
        "status": item.status.value,
        "job_id": item.job_id,
        "problem": job_problem(item.failure.slug, item.failure.detail) if item.failure else None,
    }
