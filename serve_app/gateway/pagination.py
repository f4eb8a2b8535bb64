"""Cursors of lists, and the links to the next page."""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final
from urllib.parse import urlencode

from starlette.requests import Request

from serve_app.errors import QueryInvalid, RequestError
from serve_app.jobs.records import PageEnd

_INDEX: Final = re.compile(r"1:(\d{1,16})")
_PAGE_END: Final = re.compile(r"2:(\d{1,16}):([0-9a-f-]{36})")
"""The text of a cursor, with its version: the index of an item, or the end of a page."""


def next_page(request: Request, place: PageEnd | int | None) -> tuple[str | None, dict[str, str]]:
    """The cursor of the page after this end of a page, or from this index on, and the Link header to it.

    None means that this was the last page: no cursor and no header.
    """
    if place is None:
        return None, {}
    text = f"1:{place}" if isinstance(place, int) else f"2:{place.at}:{place.id}"
    cursor = urlsafe_b64encode(text.encode()).decode()
    query = urlencode({**request.query_params, "cursor": cursor})
    return cursor, {"Link": f'<{request.scope["path"]}?{query}>; rel="next"'}


def index_of(cursor: str | None) -> int | None:
    """The index at which a cursor continues. Raises `QueryInvalid`."""
    if cursor is None:
        return None
    if found := _INDEX.fullmatch(_decoded(cursor)):
        return int(found[1])
    raise _malformed()


def end_of(cursor: str | None) -> PageEnd | None:
    """The end of the previous page, after which a cursor continues. Raises `QueryInvalid`."""
    if cursor is None:
        return None
    text = _decoded(cursor)
    if found := _PAGE_END.fullmatch(text):
        return PageEnd(int(found[1]), found[2])
    if _INDEX.fullmatch(text):  # an old cursor: a time alone, which the jobs of a batch share
        raise QueryInvalid("cursor: it is of an earlier release of the service. Begin again with the first page.")
    raise _malformed()


def _decoded(cursor: str) -> str:
    try:
        return urlsafe_b64decode(cursor.encode()).decode("ascii")
    except ValueError:
        raise _malformed() from None


def _malformed() -> RequestError:
    return QueryInvalid("cursor: take it from the answer before, as it is.")
