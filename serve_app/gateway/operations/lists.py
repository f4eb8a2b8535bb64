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

_PLACE: Final = re.compile(rb"1:(\d{1,16})")
"""What a cursor says, with the version of its form."""


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
    page = await call.service.desk.page(
        call.caller.id,
        limit=asked.limit,
        before=place_of(asked.cursor),
        since=_microseconds(asked.since) if asked.since else None,
        status=asked.status,
        model=asked.model,
    )
    cursor, headers = next_page(call, page.next_place)
    rows = [views.job_row(job, call.service.settings.job_ttl) for job in page.jobs]
    return tagged(call, json_response({"data": rows, "next_cursor": cursor}, headers=headers))


def next_page(call: Call, place: int | None) -> tuple[str | None, dict[str, str]]:
    """The cursor that leads to this place, and the header that links there; nothing at the end."""
    if place is None:
        return None, {}
    cursor = urlsafe_b64encode(b"1:%d" % place).decode()
    query = urlencode({**call.request.query_params, "cursor": cursor})
    return cursor, {"Link": f'<{call.request.scope["path"]}?{query}>; rel="next"'}


def place_of(cursor: str | None) -> int | None:
    """Where a cursor leads. Raises `QueryInvalid`."""
    if cursor is None:
        return None
    try:
        said = _PLACE.fullmatch(urlsafe_b64decode(cursor.encode()))
    except ValueError:
        said = None
    if said is None:
        raise QueryInvalid("cursor: take it from the answer before, as it is.")
    return int(said[1])


def _microseconds(moment: datetime) -> int:
    """A time without an offset is UTC."""
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1_000_000)
