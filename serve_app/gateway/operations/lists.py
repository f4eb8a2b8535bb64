"""GET /api/v1/jobs: the caller's jobs, page by page."""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime
from typing import Annotated, Final
from urllib.parse import urlencode

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.responses import Response

from serve_app.contracts import JobStatus
from serve_app.errors import QueryInvalid
from serve_app.gateway import views
from serve_app.gateway.operations.conditional import tagged
from serve_app.gateway.problems import json_response
from serve_app.gateway.query import read_query, with_plus
from serve_app.gateway.service import Call
from serve_app.jobs.records import PageEnd

_INDEX: Final = re.compile(r"1:(\d{1,16})")
_PAGE_END: Final = re.compile(r"2:(\d{1,16}):([0-9a-f-]{36})")
"""What a cursor says, with the number of its form: the index of an item, or where a page of a list ended."""


class JobsQuery(BaseModel):
    """Which of the caller's jobs, and where to go on."""

    model_config = ConfigDict(frozen=True)

    limit: Annotated[int, Field(ge=1, le=200)] = 50
    cursor: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    status: JobStatus | None = None
    model: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    since: Annotated[datetime, BeforeValidator(with_plus)] | None = None


async def list_jobs(call: Call) -> Response:
    """200 with a page of the caller's jobs, newest first, and the way to the next."""
    asked = read_query(call, JobsQuery)
    page = await call.service.jobs.page(
        call.caller.id,
        limit=asked.limit,
        after=end_of(asked.cursor),
        since=_microseconds(asked.since) if asked.since else None,
        status=asked.status,
        model=asked.model,
    )
    cursor, headers = next_page(call, page.end)
    rows = [views.job_row(job, call.service.settings.job_ttl) for job in page.jobs]
    return tagged(call, json_response({"data": rows, "next_cursor": cursor}, headers=headers))


def next_page(call: Call, place: PageEnd | int | None) -> tuple[str | None, dict[str, str]]:
    """The cursor that goes on after this end of a page, or at this index, and the header that links there; nothing at
    the end."""
    if place is None:
        return None, {}
    said = f"1:{place}" if isinstance(place, int) else f"2:{place.at}:{place.id}"
    cursor = urlsafe_b64encode(said.encode()).decode()
    query = urlencode({**call.request.query_params, "cursor": cursor})
    return cursor, {"Link": f'<{call.request.scope["path"]}?{query}>; rel="next"'}


def index_of(cursor: str | None) -> int | None:
    """The index where a cursor goes on. Raises `QueryInvalid`."""
    if cursor is None:
        return None
    if found := _INDEX.fullmatch(_said(cursor)):
        return int(found[1])
    raise _not_ours()


def end_of(cursor: str | None) -> PageEnd | None:
    """The end of the page before, after which a cursor goes on. Raises `QueryInvalid`."""
    if cursor is None:
        return None
    said = _said(cursor)
    if found := _PAGE_END.fullmatch(said):
        return PageEnd(int(found[1]), found[2])
    if _INDEX.fullmatch(said):  # it named a time alone, which the jobs of a batch share: some would never be listed
        raise QueryInvalid("cursor: it is of an earlier release of the service. Begin again with the first page.")
    raise _not_ours()


def _said(cursor: str) -> str:
    try:
        return urlsafe_b64decode(cursor.encode()).decode("ascii")
    except ValueError:
        raise _not_ours() from None


def _not_ours() -> QueryInvalid:
    return QueryInvalid("cursor: take it from the answer before, as it is.")


def _microseconds(moment: datetime) -> int:
    """A time without an offset is UTC."""
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1_000_000)
