"""The audit log: one JSON line for everything that an admin changes or tries to change, and for every refused request.

Lines are messages of the logger `serve_app.audit`. They contain no token and no character that could forge a line.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from serve_app.contracts import AuditEvent, Json, Principal
from serve_app.texts import sanitize_name, sanitize_text

REFUSALS: Final = frozenset({401, 403, 429})
"""Statuses that refuse a caller; each has its own limit of lines."""
LINES_PER_S: Final = 5.0
LINES_AT_ONCE: Final = 50.0
SCRAPES_PER_S: Final = 1 / 60
"""A scraper with a stale token may continue for days; its lines would otherwise be most of the log."""
SCRAPES_AT_ONCE: Final = 5.0
SHOWN_MAX: Final = 250

_log = logging.getLogger("serve_app.audit")


@dataclass(frozen=True, slots=True)
class AuditContext:
    """The admin who acts: principal, address and request id."""

    principal: Principal
    address: str
    request_id: str

    def event(self, action: str, target: str, detail: Json | None = None) -> AuditEvent:
        """The row of the audit table for an action that happens now. `detail` is the decision, if any."""
        return AuditEvent(
            event_id=uuid.uuid4().hex,
            timestamp=int(time.time() * 1000),
            principal_id=self.principal.id,
            username=sanitize_name(self.principal.name),
            action=action,
            target=target,
            detail=json.dumps(detail) if detail else "",
            address=sanitize_text(self.address, 200),
            request_id=self.request_id,
        )

    def with_author(self, decision: Json, event: AuditEvent) -> Json:
        """A decision with its author and time."""
        return {**decision, "by": self.principal.name, "by_id": self.principal.id, "at": event.timestamp}


@dataclass(frozen=True, slots=True)
class AuditedRequest:
    """The facts of a request for its line."""

    route: str
    """`METHOD path`, as in the route table."""
    status: int
    principal: Principal | None
    address: str
    request_id: str
    target: str = ""
    """The object of an admin's action."""
    refusal: str = ""
    """The slug of the problem in the answer."""
    forwarded_for: str = ""
    """As a proxy, or anybody else, wrote it; proves nothing."""


class AuditLog:
    """Writes the lines of one gateway replica.

    Anybody can cause refusals without a token, so their lines are limited: `LINES_PER_S` of each status, after the
    first `LINES_AT_ONCE`. Refused scrapes have a lower limit. The next line contains the number of lines left out.
    Lines of admins are always written.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._spare = {status: _Spare(clock(), LINES_PER_S, LINES_AT_ONCE) for status in REFUSALS}
        self._scrapes = _Spare(clock(), SCRAPES_PER_S, SCRAPES_AT_ONCE)

    def refused(self, request: AuditedRequest, *, scrape: bool) -> None:
        """A request to a route with a token was answered 401, 403 or 429. `scrape`: it asked for metrics."""
        spare = self._scrapes if scrape else self._spare[request.status]
        if spare.take(self._clock()):
            _write("refused", request, left_out=spare.forget())

    def acted(self, request: AuditedRequest) -> None:
        """An admin changed something or failed to."""
        _write("acted", request, left_out=0)


class _Spare:
    """The remaining lines for refusals of one kind."""

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
        """The number of lines left out since the last line."""
        left_out, self._left_out = self._left_out, 0
        return left_out


def _write(event: str, request: AuditedRequest, left_out: int) -> None:
    principal = request.principal
    line = {
        "event": event,
        "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "who": sanitize_text(principal.name, SHOWN_MAX) if principal else "",
        "principal_id": principal.id if principal else "",
        "what": request.route,
        "target": sanitize_text(request.target, SHOWN_MAX),
        # Unknown if the client disconnected: the audit table shows whether the action was performed.
        "outcome": request.refusal or ("done" if request.status < 400 else "unknown"),
        "status": request.status,
        "from": request.address,
        "forwarded_for": sanitize_text(request.forwarded_for, SHOWN_MAX),
        "request_id": request.request_id,
        "left_out": left_out,
    }
    _log.info(json.dumps(line))
