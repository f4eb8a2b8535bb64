"""Requests to the service and to the development issuer, by the standard library."""

from __future__ import annotations

import json
import secrets
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from operations.failure import Failed
from operations.work import Json

TIMEOUT_S = 60.0
ANSWER_MAX_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Reply:
    """An answer with a JSON object, whatever its status."""

    status: int
    body: Json


def ask(method: str, url: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Reply:
    """Send a request. Raises Failed where no JSON object comes back."""
    request = urllib.request.Request(url, body, dict(headers or {}), method=method)
    local = urllib.parse.urlsplit(url).hostname in ("127.0.0.1", "localhost")
    opener = urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if local else []))
    try:
        with opener.open(request, timeout=TIMEOUT_S) as answer:
            return Reply(answer.status, _object(answer.read(ANSWER_MAX_BYTES), url))
    except urllib.error.HTTPError as error:
        with error:
            return Reply(error.code, _object(error.read(ANSWER_MAX_BYTES), url))
    except (OSError, ValueError) as error:  # URLError, a reset connection, a time-out; a malformed address
        raise Failed(f"{method} {url}: {getattr(error, 'reason', None) or error}") from None


def form(fields: Mapping[str, str]) -> tuple[bytes, dict[str, str]]:
    """A form as body and headers."""
    return urllib.parse.urlencode(fields).encode(), {"Content-Type": "application/x-www-form-urlencoded"}


def upload(file: Path) -> tuple[bytes, dict[str, str]]:
    """One file as the field `image` of a multipart form."""
    boundary = secrets.token_hex(16)
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{file.name}"\r\n'
    body = f"{head}Content-Type: application/octet-stream\r\n\r\n".encode() + file.read_bytes()
    body += f"\r\n--{boundary}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}


def _object(text: bytes, url: str) -> Json:
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise Failed(f"{url} answered something else than JSON: {text[:100]!r}")
    return document
