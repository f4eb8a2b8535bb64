"""Usage reports of one gateway replica: made in a thread, one at a time, by the deadline of the request."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Literal
from weakref import WeakValueDictionary

from starlette.responses import Response

from serve_app.gateway.problems import json_response
from serve_app.settings import Settings
from serve_app.texts import BOM
from serve_app.usage.report.compute import make_report
from serve_app.usage.report.source import TooSlow, UrlSource
from serve_app.usage.report.statements import MOST_NAMES
from serve_app.usage.report.text import write_csv
from serve_app.usage.report.window import Window

SHARE: Final = 0.9
"""Of the deadline of a read: what a report may take. The rest is for telling the client why there is none."""

Format = Literal["json", "csv"]


class Reports:
    """Reads PostgreSQL anew for every report, so that one that was away is found again.

    One thread: whoever comes while it works waits for it, and it takes nobody on before it has really ended with the
    last one, also where the client of that one has gone. Callers take turns: of each, one waits for the thread at most.
    """

    def __init__(self, settings: Settings) -> None:
        self._url = settings.database_url.get_secret_value()
        self.within_s = SHARE * settings.read_timeout_s
        self._thread = ThreadPoolExecutor(1, "usage-report")
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def answer(
        self, caller: str, window: Window, principal_id: str | None, wanted: Format, *, bom: bool = False
    ) -> Response:
        """The report of everyone, or of one principal, for the caller of this id; a CSV with or without a `BOM`.

        It is made within `within_s` seconds of now, its turn waited for included, or not. Raises `ReportError`.
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
        """Take no more. A report under way ends by itself, and nobody waits for it."""
        self._thread.shutdown(wait=False, cancel_futures=True)
