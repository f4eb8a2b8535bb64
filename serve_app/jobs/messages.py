"""One Redis subscription per process: which models have jobs to claim, and which jobs changed.

Messages are only hints. One may get lost with the connection, so every waiter also polls, slowly.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from typing import Final

from redis.asyncio import Redis

from serve_app.connections import end_tasks
from serve_app.contracts import JobStatus
from serve_app.keyspace import CHANGES, WAKE

LISTEN_S = 5.0
"""After so long without a message the server is pinged, and after as long again the connection is closed: a connection
whose other end has vanished raises no error."""
RECONNECT_S = 1.0
EVERY_STATUS: Final = frozenset(JobStatus)

logger = logging.getLogger(__name__)


class Watch:
    """The changes of its job that one waiter has been notified of."""

    def __init__(self, statuses: Collection[str]) -> None:
        self._statuses = statuses
        self._heard = asyncio.Event()

    def hear(self, status: str | None = None) -> None:
        """The job has this status now. Without a status, it may have changed while nobody listened."""
        if status is None or status in self._statuses:
            self._heard.set()

    async def rest(self, seconds: float) -> None:
        """Return when a change was noted since the last call, or after that long. Then read the job."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._heard.wait()
        self._heard.clear()


class Messages:
    """Distributes Redis' messages to the waiters of this process. Subscribed as long as there is a waiter."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._wakes: dict[str, asyncio.Event] = {}
        self._watches: dict[str, list[Watch]] = {}
        self._users = 0
        self._listening: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def wake(self, model: str) -> AsyncIterator[asyncio.Event]:
        """An event that is set when a job of the model may be claimed. The waiter clears it."""
        async with self._subscription():
            yield self._wakes.setdefault(model, asyncio.Event())

    @asynccontextmanager
    async def watch(self, job_id: str, statuses: Collection[str] = EVERY_STATUS) -> AsyncIterator[Watch]:
        """Watch for a job's changes to one of these statuses. Read the job once inside the block: earlier changes are
        not reported."""
        watch = Watch(statuses)
        async with self._subscription():
            watches = self._watches.setdefault(job_id, [])
            watches.append(watch)
            try:
                yield watch
            finally:
                watches.remove(watch)
                if not watches:
                    del self._watches[job_id]

    @asynccontextmanager
    async def _subscription(self) -> AsyncIterator[None]:
        self._users += 1
        if self._listening is None or self._listening.done():
            self._listening = asyncio.create_task(self._run())
        try:
            yield
        finally:
            self._users -= 1
            if self._users == 0:
                listening, self._listening = self._listening, None
                await end_tasks([listening])

    async def _run(self) -> None:
        """Subscribe, and again after every failure of Redis."""
        while True:
            try:
                await self._listen()
            except Exception as error:  # any error: otherwise all waiters would depend on their polls forever
                logger.warning("The subscription was lost: %r", error)
                await asyncio.sleep(RECONNECT_S)

    async def _listen(self) -> None:
        async with self._redis.pubsub() as subscription:
            await subscription.subscribe(WAKE(), CHANGES())
            self._tell_all()
            is_asked = False
            while True:
                message = await subscription.get_message(timeout=LISTEN_S)
                if message is None:
                    if is_asked:
                        raise TimeoutError("no answer to a ping")
                    await subscription.ping()
                elif message["type"] == "message":
                    self._hear(message["channel"].decode(), message["data"].decode())
                is_asked = message is None

    def _tell_all(self) -> None:
        """Wake every waiter: messages before the subscription are not known."""
        for woken in self._wakes.values():
            woken.set()
        for watches in self._watches.values():
            for watch in watches:
                watch.hear()

    def _hear(self, channel: str, text: str) -> None:
        if channel == WAKE():
            if woken := self._wakes.get(text):
                woken.set()
        elif self._watches:
            words = text.split()
            for job_id, status in zip(words[::2], words[1::2], strict=True):
                for watch in self._watches.get(job_id, ()):
                    watch.hear(status)
