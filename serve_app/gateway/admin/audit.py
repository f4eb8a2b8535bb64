"""The audit log: one JSON line for everything an admin changes or tries to, and for every request that is refused.

Lines are the messages of the logger `serve_app.audit`. They hold no token, and no character that could fake a line.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from starlette.requests import Request

from serve_app.texts import sanitize_text

if TYPE_CHECKING:
    from serve_app.gateway.service import Call

REFUSALS: Final = frozenset({401, 403, 429})
"""Statuses that say no to a caller; each has lines of its own to spend."""
LINES_PER_S: Final = 5.0
LINES_AT_ONCE: Final = 50.0
SCRAPES_PER_S: Final = 1 / 60
"""A scraper with a stale token comes for days; its lines would be most of the log."""
SCRAPES_AT_ONCE: Final = 5.0
SHOWN_MAX: Final = 250

_log = logging.getLogger("serve_app.audit")


class AuditLog:
    """Writes the lines of one gateway replica.

    Refusals are bounded, for anybody can cause them without a token: of each status `LINES_PER_S`, after the first
    `LINES_AT_ONCE`. Refused scrapes have a few lines of their own. What was left out is counted in the next line. Lines
    of admins are always written.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._spare = {status: _Spare(clock(), LINES_PER_S, LINES_AT_ONCE) for status in REFUSALS}
        self._scrapes = _Spare(clock(), SCRAPES_PER_S, SCRAPES_AT_ONCE)

    def refused(self, call: Call, route: str, status: int, *, scrape: bool) -> None:
        """A request to a route with a token was answered 401, 403 or 429; `scrape`: it was for metrics."""
        spare = self._scrapes if scrape else self._spare[status]
        if spare.take(self._clock()):
            _write("refused", call, route, status, left_out=spare.forget())

    def acted(self, call: Call, route: str, status: int) -> None:
        """An admin changed something, or could not."""
        _write("acted", call, route, status, left_out=0)


class _Spare:
    """The lines that refusals of one sort may still have."""

    def __init__(self, now: float, per_s: float, at_once: float) -> None:
        self._per_s, self._at_once = per_s, at_once
        self._lines, self._at, self._left_out = at_once, now, 0

    def take(self, now: float) -> bool:
        self._lines = min(self._at_once, self._lines + (now - self._at) * self._per_s)
        self._at = now
        if self._lines < 1:
            self._left_out += 1
            return False
        self._lines -= 1
        return True

    def forget(self) -> int:
        """How many were left out since the last line."""
        left_out, self._left_out = self._left_out, 0
        return left_out


def client_address(request: Request) -> str:
    """Who opened the connection: behind a proxy, the proxy."""
    return request.client.host if request.client else ""


def _write(event: str, call: Call, route: str, status: int, left_out: int) -> None:
    principal = call.principal
    line = {
        "event": event,
        "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "who": sanitize_text(principal.name, SHOWN_MAX) if principal else "",
        "principal_id": principal.id if principal else "",
        "what": route,
        "target": sanitize_text(call.target, SHOWN_MAX),
        # Unknown where the client went away: then the table has it if it was done.
        "outcome": call.refusal or ("done" if status < 400 else "unknown"),
        "status": status,
        "from": client_address(call.request),
        # What a proxy, or anybody, has written there.
        "forwarded_for": sanitize_text(call.request.headers.get("x-forwarded-for", ""), SHOWN_MAX),
        "request_id": call.request_id,
        "left_out": left_out,
    }
    _log.info(json.dumps(line))
