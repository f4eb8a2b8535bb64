"""The state of the models in Redis, for health answers: read on demand, at most once a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from serve_app.contracts import ReplicaCard
from serve_app.errors import TrackerUnavailable
from serve_app.jobs.records import Backlog, Stopped
from serve_app.jobs.store import JobStore

FRESH_S: Final = 1.0
"""Longest age of an answer, however many probes come."""


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One model in the job store."""

    replicas: list[ReplicaCard]
    backlog: Backlog
    stopped: list[Stopped]
    """The stops in force for it."""


class StatusCache:
    """The latest state. Concurrent callers share one read."""

    def __init__(self, jobs: JobStore, models: Sequence[str]) -> None:
        self._jobs = jobs
        self._models = models
        self._read: asyncio.Task[dict[str, ModelStatus] | None] | None = None
        self._stale_at = 0.0

    async def latest(self) -> dict[str, ModelStatus] | None:
        """By model; None while Redis is down."""
        if self._read is None or (self._read.done() and time.monotonic() >= self._stale_at):
            self._read = asyncio.create_task(self._query())
        return await asyncio.shield(self._read)  # a cancelled probe must not cancel the read for others

    async def _query(self) -> dict[str, ModelStatus] | None:
        try:
            stopped = await self._jobs.stopped(self._models)
            states = await asyncio.gather(*(self._read_model(name, stopped[name]) for name in self._models))
        except TrackerUnavailable:
            return None
        finally:
            self._stale_at = time.monotonic() + FRESH_S
        return dict(zip(self._models, states, strict=True))

    async def _read_model(self, name: str, stopped: list[Stopped]) -> ModelStatus:
        replicas, backlog = await asyncio.gather(self._jobs.replicas(name), self._jobs.backlog(name))
        return ModelStatus(replicas, backlog, stopped)
