"""Looks after the bucket: whether it is there, and that what no job keeps leaves it."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from typing import Final

from redis.asyncio import Redis

from serve_app.connections import redis_errors
from serve_app.errors import ServiceError, StoreUnavailable
from serve_app.images.bucket_store import BucketStore, mark_of
from serve_app.images.store import UNCLAIMED_S

LOOK_EVERY_S: Final = 2.0
SWEEP_EVERY_S: Final = 15
"""How long what is old and nobody needs stays, where the bucket is small enough for one pass."""
YOUNG_S: Final = UNCLAIMED_S
"""An object younger than this stays whatever Redis says: a Redis that came back empty has not lost it at once."""
PAGE_KEYS: Final = 1000
PAGES_OF_A_PASS: Final = 20
"""The next pass goes on behind them."""
TURN: Final = "sweep-turn"

_log = logging.getLogger(__name__)


class Keeper:
    """Runs in each gateway replica; of all together one sweeps at a time."""

    def __init__(self, store: BucketStore, redis: Redis) -> None:
        self._store = store
        self._bucket = store.bucket
        self._redis = redis
        self._after = ""

    async def run(self) -> None:
        """Look and sweep until cancelled."""
        while True:
            await self.look()
            if not self._store.trouble:
                try:
                    if await self._is_my_turn():
                        await self.sweep()
                except ServiceError as error:
                    _log.warning("sweeping the image store stopped: %s", error.detail)
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Note in the store whether the bucket can be used, and log when that changes."""
        before, trouble = self._store.trouble, ""
        try:
            await self._bucket.check()
        except StoreUnavailable as error:
            trouble = f"away: {error.__cause__}"
        if bool(trouble) != bool(before):
            _log.warning("the image store is %s", trouble or "back")
        self._store.trouble = trouble

    async def sweep(self) -> int:
        """One pass: delete objects that are not young, and parts of uploads, whose mark is gone; how many.

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
            return bool(await self._redis.set(TURN, "taken", nx=True, ex=SWEEP_EVERY_S))
