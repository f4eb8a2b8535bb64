"""One JSON line for each request by the logger `serve_app.request`: who asked what, and what became of it.

Never what was sent: no token, no body, no file name, no address, no path as the caller wrote it. What the line holds of
a caller's own choosing is the request id and the trace id, both of a fixed alphabet and length.
"""

from __future__ import annotations

import json
import logging
import time
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.gateway.endpoint import CLIENT_GONE, header_of, request_id_of
from serve_app.gateway.service import Call
from serve_app.gateway.views import timestamp
from serve_app.texts import NAME_LIMIT, sanitize_text

_FAILED: Final = 500
_encode: Final = json.JSONEncoder(separators=(",", ":")).encode
_log = logging.getLogger("serve_app.request")


class RequestLog:
    """Middleware around the whole application, so that answers of no route have their line too."""

    def __init__(self, application: ASGIApp) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _log.isEnabledFor(logging.INFO):
            await self._application(scope, receive, send)
            return
        started, status = time.perf_counter(), CLIENT_GONE

        async def send_watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._application(scope, receive, send_watched)
        except Exception:
            status = _FAILED  # what the caller gets, after us
            raise
        finally:
            # Not by info(): to find its caller, and what Ray adds to each record, cost more than the line itself.
            line = request_line(scope, status, time.perf_counter() - started)
            _log.handle(logging.LogRecord(_log.name, logging.INFO, __file__, 0, line, None, None))


def request_line(scope: Scope, status: int, seconds: float) -> str:
    """The line of an answered request. `latency_ms` is up to the end of the answer.

    `tenant_id` is the group that the verified token names. X-Tenant-ID proves nothing: it is compared, never shown.
    """
    call: Call | None = scope.get("call")
    principal = call.principal if call else None
    group = principal.group if principal else None
    asserted = header_of(scope, b"x-tenant-id")
    traceparent = call.traceparent if call else None
    route = scope.get("route")
    line = {
        "time": timestamp(time.time_ns() // 1_000_000),
        "request_id": request_id_of(scope),
        "principal_id": principal.id if principal else None,
        "tenant_id": sanitize_text(group, NAME_LIMIT) if group else None,
        "tenant_mismatch": principal is not None and asserted is not None and asserted != (group or ""),
        "method": scope["method"],
        "route": route.path if route else None,
        "status_code": status,
        "latency_ms": round(seconds * 1000, 3),
        "payload_size": call.request_bytes if call else 0,
        "job_id": (call.job_id if call else "") or None,
        "model": (call.model if call else "") or None,
        "trace_id": traceparent[3:35] if traceparent else None,
    }
    return _encode(line)
