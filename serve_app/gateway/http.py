"""HTTP helpers without routes: JSON answers, problems, ETags, downloads, streamed bodies, query parameters, request
ids."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
from collections.abc import AsyncIterator, Mapping
from tempfile import SpooledTemporaryFile
from typing import IO, Final, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from serve_app.contracts import SERVICE_NAME, usable_request_id
from serve_app.errors import CapacityError, QueryInvalid, ServiceError, TokenInvalid
from serve_app.gateway.schemas.common import Problem, problem_type
from serve_app.gateway.schemas.jobs import job_path

SECURITY_HEADERS: Final = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
CLIENT_GONE: Final = 499
"""Status in the usage event of a request whose client disconnected before the answer."""
PATH_SHOWN_MAX: Final = 1000
RETRY_AFTER_S: Final = 2
POINTERS_MAX: Final = 20
NAME_SHOWN_MAX: Final = 100
SEND_S: Final = 10.0
"""A client that does not take a piece for this long is disconnected."""
PROTOCOLS: Final = ("/v1/", "/v2/")
"""Beginnings of the paths of protocols whose clients read `error`."""
SPOOL_BYTES: Final = 1024 * 1024
"""Memory for an answer that must be complete before it is sent; the rest goes to disk."""
PIECE_BYTES: Final = 128 * 1024

json_text: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
"""The one encoder for all answers, because status reads are frequent. It writes no line breaks."""
_TAG: Final = re.compile(r'(?:W/)?("[^"]*")')
_HOST: Final = re.compile(r"[A-Za-z0-9.-]{1,253}(:\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:\d{1,5})?")
_log = logging.getLogger(__name__)

Q = TypeVar("Q", bound=BaseModel)


class ClientGone(Exception):
    """The client has disconnected while its answer was waited for."""


def json_response(document: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer."""
    return Response(json_text(document).encode(), status, headers, media_type="application/json")


def problem_response(error: ServiceError, *, path: str, request_id: str) -> Response:
    """The answer for `error`."""
    document: Problem = {
        "type": problem_type(error.slug),
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "instance": quote(path[:PATH_SHOWN_MAX], errors="replace"),
        "request_id": request_id,
    }
    if error.job_id:
        document["job_id"] = error.job_id
    if path.startswith(PROTOCOLS):
        document["error"] = error.detail
    if error.pointers:
        document["errors"] = [{"pointer": pointer, "detail": detail} for pointer, detail in error.pointers.items()]
    headers = {"Location": job_path(error.job_id)} if error.job_id else {}
    if error.status == 401:
        headers["WWW-Authenticate"] = _challenge(error)
    retry_after = error.retry_after or (RETRY_AFTER_S if isinstance(error, CapacityError) else None)
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    if error.location is not None:
        headers["Location"] = error.location
    return Response(json_text(document).encode(), error.status, headers, media_type=problem_media(path))


def problem_media(path: str) -> str:
    """The media type of problems at this path. KServe's client shows `error` of `application/json` only."""
    return "application/json" if path.startswith(PROTOCOLS) else "application/problem+json"


def _challenge(error: ServiceError) -> str:
    """RFC 6750 section 3: without a token the header names the scheme, with an invalid token also the error."""
    challenge = f'Bearer realm="{SERVICE_NAME}"'
    if isinstance(error, TokenInvalid):
        reason = error.detail.replace("\\", "").replace('"', "'")
        challenge += f', error="invalid_token", error_description="{reason}"'
    return challenge


def tagged(request: Request, response: Response) -> Response:
    """The answer with the ETag of its body; 304 without a body if the client sent that tag."""
    tag = f'"{hashlib.sha256(response.body).hexdigest()}"'
    response.headers["ETag"] = tag
    known = ",".join(request.headers.getlist("if-none-match"))
    if known.strip() != "*" and tag not in _TAG.findall(known):
        return response
    kept = {name: value for name, value in response.headers.items() if name not in ("content-length", "content-type")}
    return Response(status_code=304, headers=kept)


def download_headers(file_name: str) -> dict[str, str]:
    """Headers that make the answer a download of this name, never rendered by a browser."""
    return {"Content-Disposition": f'attachment; filename="{file_name}"', "Content-Security-Policy": "sandbox"}


def origin_of(request: Request) -> str:
    """Scheme and host as the caller wrote them, for a URL in the answer to the same caller; empty without a usable
    Host."""
    host = request.headers.get("host", "")
    if not _HOST.fullmatch(host):
        return ""
    secure = "https" in (request.url.scheme, request.headers.get("x-forwarded-proto", "").lower())
    return f"{'https' if secure else 'http'}://{host}"


class StreamingBody(Response):
    """An answer that is sent piece by piece, one of them in memory at a time. `size` is its length in bytes, if known.

    If the pieces fail, the answer stays incomplete: the server closes the connection, so the client notices.
    """

    def __init__(
        self, pieces: AsyncIterator[bytes], *, headers: Mapping[str, str], media_type: str, size: int | None = None
    ) -> None:
        super().__init__(headers=headers, media_type=media_type)
        del self.headers["Content-Length"]
        if size is not None:
            self.headers["Content-Length"] = str(size)
        self._pieces, self._size = pieces, size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send head, pieces and end; the answer to HEAD has no pieces.

        HTTP/1.0 has no chunks (RFC 9112 section 6.1): such a client gets the whole answer at once, with its size.
        """
        if self._size is None and is_http_1_0(scope) and scope["method"] != "HEAD":
            await self._send_whole(send)
            return
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if scope["method"] == "HEAD" or await self.send_pieces(receive, send):
            await send({"type": "http.response.body", "body": b""})

    async def _send_whole(self, send: Send) -> None:
        """Send nothing if the pieces fail, so that the client notices."""
        with SpooledTemporaryFile(SPOOL_BYTES) as whole:
            try:
                async for piece in self._pieces:
                    await asyncio.to_thread(whole.write, piece)
            except Exception:
                _log.exception("an answer broke off")
                return
            self._size = whole.tell()
            self.headers["Content-Length"] = str(self._size)
            whole.seek(0)
            self._pieces = _chunks_of(whole)
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if await StreamingBody.send_pieces(self, _no_request, send):
                await send({"type": "http.response.body", "body": b""})

    async def send_pieces(self, receive: Receive, send: Send) -> bool:
        """Send the pieces. False if the pieces or the connection failed."""
        sent = 0
        try:
            async for piece in self._pieces:
                async with asyncio.timeout(SEND_S):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                sent += len(piece)
        except OSError:  # TimeoutError is one: the client is too slow, or has just disconnected
            return False
        except ServiceError as error:
            _log.warning("an answer broke off: %s", error.detail)
            return False
        except Exception:
            _log.exception("an answer broke off")
            return False
        return self._size in (None, sent)


def is_http_1_0(scope: Scope) -> bool:
    """Whether the client speaks HTTP/1.0: `ab`, old instruments' software, nginx by default."""
    return scope.get("http_version") in ("1.0", "0.9")


async def _chunks_of(file: IO[bytes]) -> AsyncIterator[bytes]:
    while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
        yield piece


async def _no_request() -> Message:
    raise AssertionError("an answer reads no request")


def read_query(request: Request, kind: type[Q]) -> Q:
    """The query parameters of a model. Raises `QueryInvalid`, which names the invalid one."""
    items = request.query_params.multi_items()
    given = dict(items)
    for name in given:
        if name not in kind.model_fields:
            known = ", ".join(kind.model_fields)
            raise QueryInvalid(f"There is no query parameter {name[:NAME_SHOWN_MAX]!r} here; there are {known}.")
    if len(given) < len(items):
        raise QueryInvalid("A query parameter was sent twice.")
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        faults = (f"{pointer.removeprefix('/')}: {fault}" for pointer, fault in pointers_of(error).items())
        raise value_invalid(request, f"{'; '.join(faults)}.") from error


def value_invalid(request: Request, words: str) -> ServiceError:
    """The problem of an invalid value, with the likely cause if the query has a `+`, which is a space."""
    hint = " In a query a + is a space; write %2B for it." if b"+" in request.scope["query_string"] else ""
    return QueryInvalid(words + hint)


def pointers_of(error: ValidationError, root: str = "") -> dict[str, str]:
    """JSON Pointers (RFC 6901) below `root` to the invalid values, and the reasons; the first `POINTERS_MAX`."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)[:POINTERS_MAX]
    return {"/".join((root, *map(escape, fault["loc"]))): fault["msg"] for fault in faults}


def escape(part: str | int) -> str:
    """One token of a JSON Pointer; truncated, because the name may come from the caller."""
    return str(part)[:100].replace("~", "~0").replace("/", "~1")


async def send_response(response: Response, request_id: str, scope: Scope, receive: Receive, send: Send) -> None:
    """Send with the headers of every answer."""
    response.headers["X-Request-ID"] = request_id
    for name, value in SECURITY_HEADERS.items():
        response.headers.setdefault(name, value)
    await response(scope, receive, send)


def request_id_of(scope: Scope) -> str:
    """The caller's X-Request-ID if it is safe to log and echo, else a new one; the same for the whole request."""
    if "request_id" not in scope:
        scope["request_id"] = usable_request_id(header_of(scope, b"x-request-id"))
    return str(scope["request_id"])


def header_of(scope: Scope, name: bytes) -> str | None:
    """The first header of this lower-case name, or None."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value.decode("latin-1"))
    return None
