"""Image bytes in the job Redis, beside the job that names them by reference."""

from __future__ import annotations

import asyncio
import time
from typing import cast

from redis.asyncio import Redis

from serve_app.connections import redis_errors
from serve_app.errors import StoreFull
from serve_app.settings import Settings

UNCLAIMED_S = 900
"""Life of an image that no submit takes; submitting removes the limit."""
MEASURED_S = 1.0
"""How old the measured memory may be; what this process stored since is added."""
RETRY_AFTER_S = 5


class ImageStore:
    """Images by reference. Bounded: all images together leave the rest of Redis free, so that running jobs can end."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._share = settings.image_store_share
        self._measuring = asyncio.Lock()
        self._measured_at = -MEASURED_S
        self._used = 0
        self._on_the_way = 0
        """Bytes being sent, which a measurement may not hold yet."""
        self._allowed = 0
        """Bytes Redis may hold before images are refused; 0 where Redis has no `maxmemory`."""

    async def put(self, job_id: str, data: bytes) -> str:
        """Store the bytes of a job not yet submitted and return their reference. One round trip, once a second two.

        Raises `StoreFull` beyond `image_store_share` of Redis' memory, `TrackerUnavailable` where Redis is away.
        """
        with redis_errors():
            await self._measure()
            if self._allowed and self._used + len(data) > self._allowed:
                raise StoreFull("The image store is full. Try again in a moment.", retry_after=RETRY_AFTER_S)
            self._used += len(data)
            self._on_the_way += len(data)
            try:
                reference = f"blob:{job_id}"
                await self._redis.set(reference, data, ex=UNCLAIMED_S)
            finally:
                self._on_the_way -= len(data)
            return reference

    async def get(self, reference: str) -> bytes | None:
        """The bytes, or None where they are gone. Raises `TrackerUnavailable`."""
        with redis_errors():
            return cast("bytes | None", await self._redis.get(reference))

    async def delete(self, reference: str) -> None:
        """Remove the bytes, if there. Raises `TrackerUnavailable`."""
        with redis_errors():
            await self._redis.unlink(reference)

    async def _measure(self) -> None:
        async with self._measuring:
            if time.monotonic() - self._measured_at < MEASURED_S:
                return
            memory = await self._redis.info("memory")
            self._used = int(memory["used_memory"]) + self._on_the_way
            self._allowed = int(int(memory["maxmemory"]) * self._share)
            self._measured_at = time.monotonic()
