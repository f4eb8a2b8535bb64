"""Moves ended jobs to those who asked to be told. Every gateway replica runs one sender.

An endpoint is served by one sender at a time, under a claim that runs out: what a sender took and did not settle is
another's then, with the same id. So a delivery comes at least once, and a slow receiver keeps nobody else waiting.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any, Final
from uuid import uuid4

from redis.asyncio import Redis

from serve_app.connections import end_tasks
from serve_app.outbound.connect import Resolver
from serve_app.settings import Settings
from serve_app.webhooks.attempt import JobPath, attempt, policy_of
from serve_app.webhooks.keys import script
from serve_app.webhooks.limits import AT_ONCE, SLOW_AT_ONCE
from serve_app.webhooks.records import Claimed, pairs, read_delivery, read_endpoint

POLL_S: Final = 0.5
"""So long an ended job may wait until its owner is told; most wait less, while attempts come and go."""
PAUSE_S: Final = 5.0

_log = logging.getLogger(__name__)


class Sender:
    """Claims deliveries and attempts them. Nothing that is away ends it."""

    def __init__(self, redis: Redis, settings: Settings, job_path: JobPath, resolver: Resolver | None = None) -> None:
        self._policy = policy_of(settings)
        self._job_path = job_path
        self._resolver = resolver
        self._claim = redis.register_script(script("claim"))
        self._settle = redis.register_script(script("settle"))
        self._attempts: dict[asyncio.Task[None], Claimed] = {}
        self._in_trouble = False

    async def run(self) -> None:
        """Deliver until cancelled; attempts under way end with it and are another's when their claims run out."""
        try:
            while True:
                try:
                    await self._turn()
                    self._in_trouble = False
                except Exception as error:  # whatever it was, what is due is still there for the next turn
                    self._tell(error)
                    await asyncio.sleep(PAUSE_S)
        finally:
            await end_tasks(self._attempts)

    async def _turn(self) -> None:
        """Begin what is due, then wait for an attempt to end, or a moment."""
        for claimed in await self._take():
            task = asyncio.create_task(self._deliver(claimed))
            self._attempts[task] = claimed
            task.add_done_callback(self._attempts.pop)
        if self._attempts:
            await asyncio.wait(self._attempts, timeout=POLL_S, return_when=asyncio.FIRST_COMPLETED)
        else:
            await asyncio.sleep(POLL_S)

    async def _take(self) -> list[Claimed]:
        token, slow = uuid4().hex, sum(claimed.endpoint.slow for claimed in self._attempts.values())
        reply: Any = await self._claim(args=(token, AT_ONCE - len(self._attempts), SLOW_AT_ONCE - slow))
        return [_read(token, *entry) for entry in reply]

    async def _deliver(self, claimed: Claimed) -> None:
        endpoint, delivery = claimed.endpoint.id, claimed.delivery.id
        try:
            done = await attempt(claimed, self._policy, self._job_path, self._resolver)
            facts = (done.verdict, int(done.pause_s * 1000), done.record["duration_ms"], json.dumps(done.record))
            await self._settle(args=(claimed.token, endpoint, delivery, *facts))
        except Exception as error:  # it is attempted again when the claim has run out
            self._tell(error)

    def _tell(self, error: Exception) -> None:
        """Once per trouble, not once per try."""
        if not self._in_trouble:
            _log.warning("webhooks are delayed: %s", type(error).__name__, exc_info=error)
        self._in_trouble = True


def _read(token: str, delivery: bytes, endpoint_fields: list[bytes], fields: list[bytes]) -> Claimed:
    told = read_delivery(delivery.decode(), pairs(fields))
    return Claimed(token, read_endpoint(told.endpoint, pairs(endpoint_fields)), told)
