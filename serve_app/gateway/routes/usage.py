"""GET /api/v1/usage: the report of `semapi usage`, to users about themselves, to admins about everyone."""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Final
from weakref import WeakValueDictionary

from starlette.responses import Response

from serve_app import errors
from serve_app.errors import AdminRequired, DeadlineExceeded, QueryInvalid, UsageUnavailable
from serve_app.gateway.context import Call
from serve_app.gateway.endpoint import RouteSpec, RouteTable
from serve_app.gateway.http import json_response, read_query, value_invalid
from serve_app.gateway.schemas.usage import Format, UsageQuery, UsageReport
from serve_app.settings import Settings
from serve_app.texts import BOM, BOM_WITHOUT_CSV
from serve_app.usage.report.compute import make_report
from serve_app.usage.report.source import DatabaseAway, TooSlow, UrlSource
from serve_app.usage.report.statements import MOST_NAMES
from serve_app.usage.report.text import write_csv
from serve_app.usage.report.window import ReportError, Window, name_window

SHARE: Final = 0.9
"""Share of a read's deadline that a report may take. The rest is for the answer that explains why there is none."""
_log = logging.getLogger(__name__)

ROUTES: Final = RouteTable()


class Reports:
    """Usage reports of one gateway replica.

    Each connects to PostgreSQL anew, which recovers after an outage. One thread makes them, one after the other; a
    report whose client has disconnected still runs to its end. Callers take turns: at most one request of each waits
    for the thread.
    """

    def __init__(self, settings: Settings) -> None:
        self._url = settings.database_url.get_secret_value()
        self.within_s = SHARE * settings.read_timeout_s
        self._thread = ThreadPoolExecutor(1, "usage-report")
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def answer(
        self, caller: str, window: Window, principal_id: str | None, wanted: Format, *, bom: bool = False
    ) -> Response:
        """The report of all users or of one principal, requested by `caller`; a CSV with or without a `BOM`.

        Raises `TooSlow` after `within_s` seconds, including the wait for the turn, and `ReportError`.
        """
        deadline = time.monotonic() + self.within_s
        loop = asyncio.get_running_loop()
        async with self._turns.setdefault(caller, asyncio.Lock()):
            return await loop.run_in_executor(self._thread, self._make, window, principal_id, wanted, deadline, bom)

    def _make(self, window: Window, principal_id: str | None, wanted: Format, deadline: float, bom: bool) -> Response:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TooSlow("the time was up before another report had ended")
        source = UrlSource(self._url, left_s)
        if wanted == "csv":
            sheet = write_csv(make_report(source, window, principal_id=principal_id, most_names=MOST_NAMES))
            return Response((BOM if bom else "") + sheet, media_type="text/csv")
        return json_response(make_report(source, window, principal_id=principal_id))

    def close(self) -> None:
        """Start no more reports. A running one ends by itself and is not awaited."""
        self._thread.shutdown(wait=False, cancel_futures=True)


@ROUTES.add(
    RouteSpec(
        "GET",
        "/api/v1/usage",
        "Usage: your own; for admins everyone's",
        "Usage",
        {200: (UsageReport, "text/csv")},
        (errors.QueryInvalid, errors.AdminRequired, errors.UsageUnavailable),
        tracked="usage",
        query=UsageQuery,
    )
)
async def read_usage(call: Call, reports: Reports) -> Response:
    """200 with the report: of the caller; for admins of everyone, or of the principal they name."""
    query = read_query(call.request, UsageQuery)
    if query.bom and query.format != "csv":
        raise QueryInvalid(BOM_WITHOUT_CSV)
    principal_id = _principal_of(call, query.principal_id)
    try:
        window = name_window(
            "json", query.since, query.until, query.month, query.timezone, query.bucket, datetime.now(UTC)
        )
        return await reports.answer(call.caller.id, window, principal_id, query.format, bom=query.bom)
    except TooSlow as error:
        within_s = reports.within_s
        raise DeadlineExceeded(f"The report took longer than {within_s:g} seconds; choose a shorter window.") from error
    except DatabaseAway as error:
        _log.warning("no usage report: %s", error)
        raise UsageUnavailable("The usage records cannot be read now. Usage is counted all the same.") from error
    except ReportError as error:
        raise value_invalid(call.request, f"{error}.") from error


def _principal_of(call: Call, asked: str | None) -> str | None:
    """The principal whose usage is returned; None: all users. Raises `AdminRequired`."""
    caller = call.caller
    own = asked == caller.id or (asked is None and not caller.is_admin)
    if own:
        return caller.id
    call.target = asked or ""
    if not caller.is_admin:
        raise AdminRequired("You may read your own usage only, that is without principal_id.")
    call.acts_as_admin = True
    return asked
