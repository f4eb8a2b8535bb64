"""GET /api/v1/batches and GET /api/v1/batches/{batch_id}: the caller's batches, and one with its items."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from serve_app.gateway import views
from serve_app.gateway.batches.views import ITEMS_SHOWN, after, batch_object, batch_row
from serve_app.gateway.operations.conditional import tagged
from serve_app.gateway.operations.lists import end_of, index_of, next_page
from serve_app.gateway.problems import json_response
from serve_app.gateway.query import read_query
from serve_app.gateway.service import Call

Cursor = Annotated[str, Field(min_length=1, max_length=100)]


class BatchesQuery(BaseModel):
    """Where to go on in the caller's batches."""

    model_config = ConfigDict(frozen=True)

    limit: Annotated[int, Field(ge=1, le=200)] = 50
    cursor: Cursor | None = None


class ItemsQuery(BaseModel):
    """Which items of a batch."""

    model_config = ConfigDict(frozen=True)

    limit: Annotated[int, Field(ge=1, le=500)] = ITEMS_SHOWN
    cursor: Cursor | None = None


async def list_batches(call: Call) -> Response:
    """200 with a page of the caller's batches, newest first, and the way to the next."""
    asked = read_query(call, BatchesQuery)
    page = await call.service.batches.page(call.caller.id, limit=asked.limit, after=end_of(asked.cursor))
    cursor, headers = next_page(call, page.end)
    rows = [batch_row(batch, call.service.settings.job_ttl) for batch in page.batches]
    return tagged(call, json_response({"data": rows, "next_cursor": cursor}, headers=headers))


async def read_batch(call: Call) -> Response:
    """200 with the batch, its counts and a page of its items; unknown, foreign and malformed ids are the same 404."""
    asked = read_query(call, ItemsQuery)
    first = index_of(asked.cursor) or 0
    batch_id = call.request.path_params["batch_id"]
    view = await call.service.batches.read(batch_id, call.caller.id, first=first, limit=asked.limit)
    call.model = view.batch.model
    _, headers = next_page(call, after(view, first))
    if view.batch.open:
        headers["Retry-After"] = str(views.POLL_AFTER_S)
    return tagged(call, json_response(batch_object(view, call, first=first), headers=headers))
