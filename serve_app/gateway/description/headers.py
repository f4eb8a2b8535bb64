"""Headers of requests and answers: what each says. A route's description names them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

HEADERS: Final[Mapping[str, str]] = {
    "X-Request-ID": "Names the request. Yours, if it is 1 to 128 letters, digits, `.`, `_` or `-`; else a new one.",
    "traceparent": "W3C Trace Context: the trace that this request is a part of.",
    "Idempotency-Key": "Of your choice: with the same body within 24 h and 100,000 keys it gives the same job.",
    "Idempotent-Replayed": "`true`: this job was accepted before, by the same key.",
    "Prefer": "`wait=N`: answer when the job has ended, after N seconds (20 at most) in any case (RFC 7240).",
    "Preference-Applied": "`wait=N`: so long was the job waited for, at most.",
    "Vary": "`Prefer`: the answer depends on it.",
    "Last-Event-ID": "The id of the last event that you have: what it said is not said again.",
    "If-None-Match": "The `ETag` of the answer that you have: 304 where it still holds.",
    "ETag": "Of this answer, for `If-None-Match`.",
    "Link": "The next page, as `rel=next` (RFC 8288).",
    "Location": "Where it is.",
    "Content-Disposition": "Names the file, as a download.",
    "Retry-After": "Seconds to wait before the next request.",
    "Allow": "The methods of this path.",
    "WWW-Authenticate": "The scheme, and why a token was refused (RFC 6750).",
    "RateLimit": "What is left of what you may send (draft-ietf-httpapi-ratelimit-headers).",
    "RateLimit-Policy": "What you may send.",
}


def headers_of(status: int, *, limited: bool) -> tuple[str, ...]:
    """Those that an answer of this status may have; `limited`: of a route that counts against the limits."""
    brought = {
        201: ("Location",),
        202: ("Location", "Retry-After"),
        303: ("Location",),
        307: ("Location",),
        401: ("WWW-Authenticate",),
        405: ("Allow",),
        429: ("Retry-After",),
        503: ("Retry-After",),
        504: ("Retry-After",),
    }.get(status, ())
    return ("X-Request-ID", *brought, *(("RateLimit-Policy", "RateLimit") if limited else ()))
