"""The header Idempotency-Key: reading it, and the fingerprint by which a repeated request is recognised."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from typing import Final

from starlette.requests import Request

from serve_app.contracts import Json
from serve_app.errors import IdempotencyKeyInvalid
from serve_app.gateway.context import Call
from serve_app.jobs.records import Idempotency

KEY_MAX: Final = 255
THREAD_MIN_BYTES: Final = 256 * 1024
"""Hashing a smaller image takes less time than using a thread."""
_STRING: Final = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
"""A string of RFC 8941: printable ASCII, with quote and backslash escaped."""
_BARE: Final = re.compile(r"[!#$%&'*+\-.^_`|~:/=0-9A-Za-z]+")


def read_key(request: Request) -> str | None:
    """The request's key; None without one. Raises `IdempotencyKeyInvalid`."""
    values = request.headers.getlist("idempotency-key")
    if not values:
        return None
    if len(values) > 1:
        raise IdempotencyKeyInvalid("Send one Idempotency-Key.")
    text = values[0].strip(" \t")
    if quoted := _STRING.fullmatch(text):
        key = re.sub(r"\\(.)", r"\1", quoted[1])
    elif _BARE.fullmatch(text):
        key = text
    else:
        raise IdempotencyKeyInvalid('The Idempotency-Key must be a text in quotes, as "8e03978e", or a bare word.')
    if not 1 <= len(key) <= KEY_MAX:
        raise IdempotencyKeyInvalid(f"The Idempotency-Key must have 1 to {KEY_MAX} characters.")
    return key


async def identify(call: Call, key: str, asked: Json, image: bytes | None) -> Idempotency:
    """The caller's key on this route, and the fingerprint of the request: of `asked` and the image."""
    path = call.request.scope["path"]
    scope = "\0".join((call.caller.id, call.request.method, path, key))
    digest = "" if image is None else await digest_of(image)
    fingerprint = json.dumps([asked, digest], sort_keys=True)
    return Idempotency(_digest(scope.encode()), _digest(fingerprint.encode()))


async def digest_of(image: bytes) -> str:
    """SHA-256 of an image, for a fingerprint."""
    return _digest(image) if len(image) < THREAD_MIN_BYTES else await asyncio.to_thread(_digest, image)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
