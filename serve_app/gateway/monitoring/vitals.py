"""What Redis tells of the models, for health answers: looked at when somebody asks, at most once a second."""

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
"""However many probes come, so old may an answer be."""


@dataclass(frozen=True, slots=True)
class ModelVitals:
    """One model as the tracker knows it."""

    replicas: list[ReplicaCard]
    backlog: Backlog
    stopped: list[Stopped]
    """What an admin has stopped of it."""


class Vitals:
    """The latest look. Who asks while one is under way waits for that one."""

    def __init__(self, jobs: JobStore, models: Sequence[str]) -> None:
        self._jobs = jobs
        self._models = models
        self._look: asyncio.Task[dict[str, ModelVitals] | None] | None = None
        self._stale_at = 0.0

    async def latest(self) -> dict[str, ModelVitals] | None:
        """By model's name; None while Redis is away."""
        if self._look is None or (self._look.done() and time.monotonic() >= self._stale_at):
            self._look = asyncio.create_task(self._ask())
        return await asyncio.shield(self._look)  # a probe that gives up takes no answer from the others

    async def _ask(self) -> dict[str, ModelVitals] | None:
        try:
            stopped = await self._jobs.stopped(self._models)
            looks = await asyncio.gather(*(self._ask_model(name, stopped[name]) for name in self._models))
        except TrackerUnavailable:
            return None
        finally:
            self._stale_at = time.monotonic() + FRESH_S
        return dict(zip(self._models, looks, strict=True))

    async def _ask_model(self, name: str, stopped: list[Stopped]) -> ModelVitals:
        replicas, backlog = await asyncio.gather(self._jobs.replicas(name), self._jobs.backlog(name))
        return ModelVitals(replicas, backlog, stopped)
