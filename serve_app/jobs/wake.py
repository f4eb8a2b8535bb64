"""The process's one subscription: which models have something to claim. A hint only; a slow poll stands behind it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio import Redis

from serve_app.connections import end_tasks
from serve_app.jobs.keys import key

LISTEN_S = 5.0
RECONNECT_S = 1.0

logger = logging.getLogger(__name__)


class Wake:
    """One event per model, set when a job of it may be claimed. Who waits on an event clears it."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._events: dict[str, asyncio.Event] = {}
        self._waiters = 0
        self._listening: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def event(self, model: str) -> AsyncIterator[asyncio.Event]:
        """The event of a model. The subscription lasts while anybody is inside."""
        event = self._events.setdefault(model, asyncio.Event())
        self._waiters += 1
        if self._listening is None:
            self._listening = asyncio.create_task(self._run())
        try:
            yield event
        finally:
            self._waiters -= 1
            if self._waiters == 0:
                listening, self._listening = self._listening, None
                await end_tasks([listening])

    async def _run(self) -> None:
        """Come back by itself when Redis was away."""
        while True:
            try:
                await self._listen()
            except Exception as error:  # whatever it was: without it jobs wait for the poll, with it gone for good too
                logger.warning("The wake channel was lost: %r", error)
                await asyncio.sleep(RECONNECT_S)

    async def _listen(self) -> None:
        async with self._redis.pubsub() as subscription:
            await subscription.subscribe(key("wake"))
            for event in self._events.values():
                event.set()  # what was said before we listened is not known
            while True:
                message = await subscription.get_message(ignore_subscribe_messages=True, timeout=LISTEN_S)
                woken = self._events.get(message["data"].decode()) if message else None
                if woken:
                    woken.set()
