"""The image store in a bucket: the bucket holds the bytes, and a small mark in Redis says that each is needed.

The mark stands where the Redis store keeps the bytes. So code that ends, keeps, retries or deletes a job handles
the mark like the bytes, and knows nothing about buckets. `OrphanSweeper` deletes objects whose mark is gone."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from redis.asyncio import Redis

from serve_app.connections import redis_errors
from serve_app.contracts import Output
from serve_app.errors import StoreUnavailable, TrackerUnavailable
from serve_app.images.store import (
    UNCLAIMED_S,
    ImageStore,
    StoredImage,
    StoredOutput,
    store_unreachable,
)
from serve_app.keyspace import BLOB, OUTPUTS, SWEEP_TURN
from serve_app.settings import Settings

if TYPE_CHECKING:
    from serve_app.images.bucket import Bucket
import asyncio
import logging
from datetime import UTC, datetime, timedelta

from serve_app.errors import ServiceError

MARK: Final = b"s3:"
"""Prefix of a mark; no image begins with it."""
URL_LIFE_S: Final = 3600
CHECK_EVERY_S: Final = 2.0
SWEEP_EVERY_S: Final = 15
"""How long an old orphan stays, if the bucket is small enough for one pass."""
YOUNG_S: Final = UNCLAIMED_S
"""Younger objects stay whatever Redis says, so that a Redis restored empty does not delete new images at once."""
PAGE_KEYS: Final = 1000
PAGES_OF_A_PASS: Final = 20
"""The next pass continues after them."""
_log = logging.getLogger(__name__)


class BucketStore(ImageStore):
    """Images and outputs in `bucket`; bounded by QUEUE_MAX_BYTES, not by Redis' memory.

    Methods keep the promises of `ImageStore`, and may also raise `StoreUnavailable`.
    """

    def __init__(self, redis: Redis, settings: Settings, bucket: Bucket) -> None:
        super().__init__(redis, settings)
        self.bucket = bucket

    async def put(self, job_id: str, data: bytes) -> str:
        if self.trouble:  # at once, so that a hung server does not hold a thread
            raise store_unreachable()
        reference, key = BLOB(id=job_id), f"inputs/{job_id}"
        with redis_errors():
            # Mark first: an object without a mark may be deleted at any moment.
            await self._redis.set(reference, MARK + key.encode(), ex=UNCLAIMED_S)
        try:
            await self.bucket.put(key, data, "application/octet-stream")
        except StoreUnavailable:
            with suppress(TrackerUnavailable):
                await super().delete(reference)
            raise
        return reference

    async def get(self, reference: str) -> bytes | None:
        found = await super().get(reference)
        # Bytes without a mark were stored before the bucket was configured.
        return await self.bucket.get(_key_of(found)) if found and found.startswith(MARK) else found

    async def find(self, reference: str, file_name: str, media_type: str) -> StoredImage | None:
        mark = await self._piece(reference, 0)
        if not mark.startswith(MARK):
            return await super().find(reference, file_name, media_type)
        return StoredImage(url=await self.bucket.presign(_key_of(mark), file_name, URL_LIFE_S, media_type))

    async def delete(self, reference: str) -> None:
        found = await super().get(reference)
        await super().delete(reference)
        if found and found.startswith(MARK):
            with suppress(StoreUnavailable):  # without its mark it is an orphan, and swept later
                await self.bucket.delete(_key_of(found))

    async def put_outputs(self, job_id: str, token: str, outputs: Mapping[str, Output]) -> bool:
        if not await self._write_outputs(job_id, token, outputs, with_data=False):
            return False
        for name, output in outputs.items():
            await self.bucket.put(f"outputs/{job_id}/{name}", output.data, output.media_type)
        return True

    async def get_output(self, job_id: str, name: str) -> StoredOutput | None:
        found = await super().get_output(job_id, name)
        if found is None or found.data is not None:
            return found
        url = await self.bucket.presign(f"outputs/{job_id}/{name}", name, URL_LIFE_S, found.media_type)
        return StoredOutput(found.media_type, url=url)

    def close(self) -> None:
        self.bucket.close()


def open_store(redis: Redis, settings: Settings) -> ImageStore:
    """The store that the settings choose."""
    if not settings.image_store_url:
        return ImageStore(redis, settings)
    from serve_app.images.bucket import Bucket  # boto3 is an extra

    return BucketStore(redis, settings, Bucket(settings))


def mark_of(key: str) -> str | None:
    """The Redis key whose presence says that this object is needed; None for objects of others."""
    kind, _, rest = key.partition("/")
    if kind == "inputs" and rest:
        return BLOB(id=rest)
    return OUTPUTS(id=rest.partition("/")[0]) if kind == "outputs" and rest else None


def _key_of(mark: bytes) -> str:
    return mark.removeprefix(MARK).decode()


class OrphanSweeper:
    """Checks the bucket and deletes objects that no job needs. Runs in each gateway replica; one of them sweeps at a
    time."""

    def __init__(self, store: BucketStore, redis: Redis) -> None:
        self._store = store
        self._bucket = store.bucket
        self._redis = redis
        self._after = ""

    async def run(self) -> None:
        """Check and sweep until cancelled."""
        while True:
            await self.check()
            if not self._store.trouble:
                try:
                    if await self._is_my_turn():
                        await self.sweep()
                except ServiceError as error:
                    _log.warning("sweeping the image store stopped: %s", error.detail)
            await asyncio.sleep(CHECK_EVERY_S)

    async def check(self) -> None:
        """Record in the store whether the bucket can be used, and log changes."""
        before, trouble = self._store.trouble, ""
        try:
            await self._bucket.check()
        except StoreUnavailable as error:
            trouble = f"away: {error.__cause__}"
        if bool(trouble) != bool(before):
            _log.warning("the image store is %s", trouble or "back")
        self._store.trouble = trouble

    async def sweep(self) -> int:
        """One pass: delete old objects and unfinished uploads without a mark. Returns how many.

        Raises `StoreUnavailable`, `TrackerUnavailable`.
        """
        removed = 0
        for key, upload_id in await self._unneeded_uploads():
            await self._bucket.abort(key, upload_id)
            removed += 1
        for _ in range(PAGES_OF_A_PASS):
            keys = await self._bucket.keys(self._after, PAGE_KEYS)
            old = datetime.now(UTC) - timedelta(seconds=YOUNG_S)
            unneeded = await self._without_mark([key for key, written in keys.items() if written <= old])
            await asyncio.gather(*map(self._bucket.delete, unneeded))
            removed += len(unneeded)
            self._after = next(reversed(keys)) if len(keys) == PAGE_KEYS else ""
            if not self._after:
                break
        return removed

    async def _unneeded_uploads(self) -> list[tuple[str, str]]:
        uploads = await self._bucket.unfinished()
        unneeded = set(await self._without_mark([key for key, _ in uploads]))
        return [upload for upload in uploads if upload[0] in unneeded]

    async def _without_mark(self, keys: list[str]) -> list[str]:
        marks = {key: mark for key in keys if (mark := mark_of(key))}
        if not marks:
            return []
        with redis_errors():
            async with self._redis.pipeline(transaction=False) as pipeline:
                for mark in marks.values():
                    pipeline.exists(mark)
                there = await pipeline.execute()
        return [key for key, found in zip(marks, there, strict=True) if not found]

    async def _is_my_turn(self) -> bool:
        with redis_errors():
            return bool(await self._redis.set(SWEEP_TURN(), "taken", nx=True, ex=SWEEP_EVERY_S))
