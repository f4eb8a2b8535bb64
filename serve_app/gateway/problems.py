"""Errors to answers: application/problem+json of RFC 9457, with what each status asks for in headers."""

from __future__ import annotations

import json
from typing import Final
from urllib.parse import quote

from starlette.responses import Response

from serve_app.contracts import SERVICE_NAME, Json
from serve_app.errors import CapacityError, JobError, RequestError, ServiceError, TokenInvalid

SECURITY_HEADERS: Final = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
PATH_SHOWN_MAX: Final = 1000
RETRY_AFTER_S: Final = 2

json_text: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
"""A document as every answer writes it: one encoder for all, status reads are hot. It writes no line breaks."""
_TITLES: Final = {error.slug: error.title for base in (JobError, RequestError) for error in base.__subclasses__()}


def problem_type(slug: str) -> str:
    """The stable URI of a problem type; docs/problems.md has a heading for each."""
    return f"/problems/{slug}"


def job_problem(slug: str, detail: str) -> Json:
    """Why a job ended without a result or never began, as part of an object."""
    return {"type": problem_type(slug), "title": _TITLES.get(slug, "The job failed"), "detail": detail}


def json_response(document: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer."""
    return Response(json_text(document).encode(), status, headers, media_type="application/json")


def problem_response(error: ServiceError, *, path: str, request_id: str) -> Response:
    """The answer to a request that met `error`."""
    document: Json = {
        "type": problem_type(error.slug),
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "instance": quote(path[:PATH_SHOWN_MAX], errors="replace"),
        "request_id": request_id,
    }
    if error.pointers:
        document["errors"] = [{"pointer": pointer, "detail": detail} for pointer, detail in error.pointers.items()]
    headers = {}
    if error.status == 401:
        headers["WWW-Authenticate"] = _challenge(error)
    retry_after = error.retry_after or (RETRY_AFTER_S if isinstance(error, CapacityError) else None)
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    return Response(json_text(document).encode(), error.status, headers, media_type="application/problem+json")


def _challenge(error: ServiceError) -> str:
    """RFC 6750 section 3: a request without a token is told the scheme, one with a bad token also why."""
    challenge = f'Bearer realm="{SERVICE_NAME}"'
    if isinstance(error, TokenInvalid):
        reason = error.detail.replace("\\", "").replace('"', "'")
        challenge += f', error="invalid_token", error_description="{reason}"'
    return challenge
