"""Signed URLs: whoever has one gets one file of one job until it expires, and nothing else.

The signature covers all that decides: job, file, end and owner. It is checked before anything is looked up, so that a
made-up URL costs little.
"""

from __future__ import annotations

import hmac
import json
import secrets
import time
from typing import Final, cast
from urllib.parse import urlencode

from redis.asyncio import Redis

from serve_app.connections import redis_errors
from serve_app.contracts import Job
from serve_app.errors import SignedUrlExpired, SignedUrlInvalid, TrackerUnavailable
from serve_app.gateway.schemas.jobs import SignedQuery
from serve_app.images.bucket_store import URL_LIFE_S
from serve_app.keyspace import URL_KEY
from serve_app.settings import Settings

PURPOSE: Final = "file"
"""Part of what is signed, so that the key may sign other things later."""
KEY_BYTES: Final = 32
KEY_KEPT_S: Final = 60.0
"""How long a gateway keeps the key of Redis: after that it notices that Redis was emptied."""


class UrlSigner:
    """Signs and checks, with the key of the settings or one that all gateways share through Redis."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._own = settings.url_signing_key.get_secret_value().encode()
        self._shared, self._read_at = b"", -KEY_KEPT_S

    async def sign(self, job: Job, name: str) -> str:
        """Path and query of a URL of the job's file. Raises `TrackerUnavailable`."""
        expires = int(time.time()) + URL_LIFE_S
        signature = _signature(await self._key(), job.id, name, expires, job.owner)
        query = urlencode({"expires": expires, "owner": job.owner, "signature": signature})
        return f"/api/v1/files/{job.id}/{name}?{query}"

    async def verify(self, job_id: str, name: str, query: SignedQuery) -> None:
        """Raises `SignedUrlInvalid`, `SignedUrlExpired`, `TrackerUnavailable`."""
        expected = _signature(await self._key(), job_id, name, query.expires, query.owner)
        if not hmac.compare_digest(expected, query.signature):
            raise SignedUrlInvalid("The signature does not fit this URL: it was changed, or the key was.")
        if query.expires <= time.time():
            raise SignedUrlExpired("This URL was valid for an hour. Ask the owner of the job for a new one.")

    async def _key(self) -> bytes:
        if self._own:
            return self._own
        if time.monotonic() - self._read_at >= KEY_KEPT_S:
            with redis_errors():
                await self._redis.set(URL_KEY(), secrets.token_hex(KEY_BYTES), nx=True)
                found = cast("bytes | None", await self._redis.get(URL_KEY()))
            if not found:  # Redis was emptied in between
                raise TrackerUnavailable("The key of signed URLs is being made. Try again.")
            self._shared, self._read_at = found, time.monotonic()
        return self._shared


def _signature(key: bytes, job_id: str, name: str, expires: int, owner: str) -> str:
    text = json.dumps([PURPOSE, job_id, name, expires, owner])
    return hmac.digest(key, text.encode(), "sha256").hex()
