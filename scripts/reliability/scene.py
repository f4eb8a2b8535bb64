"""Where a fault strikes: the running service, the load on it, and the ways to know that there is something to lose."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

import psutil
from benchmark.observed_service import ObservedService, frozen, wait_until

from reliability.load import Load

T = TypeVar("T")

PILE = 96
"""Jobs that wait before a fault: enough that both replicas then get full chunks."""
PATIENCE_S = 300.0
"""Deadline of a condition. Nothing is measured by it: times come from the records."""
STEADY_S = 3.0


@dataclass(frozen=True)
class Strike:
    """One blow: when, the jobs that were claimed by what it hit, and how it is known to have hit."""

    at: float
    held: list[str]
    evidence: str


@dataclass(frozen=True)
class Scene:
    """What a fault gets. Faults are plain functions in a thread of their own; the load runs in `loop`."""

    service: ObservedService
    model: str
    load: Load
    loop: asyncio.AbstractEventLoop
    hostile: list[str]
    """Ids of the jobs that must end dead, or FAILED after a hang."""
    gateways: int
    replicas: int

    def claimed(self) -> list[str]:
        """Jobs under a lease."""
        return sorted(self.service.leases(self.model))

    def models(self) -> AbstractContextManager[list[psutil.Process]]:
        """All model replicas frozen: what is claimed stays claimed."""
        return frozen(self.service.replicas(self.model))

    def pile_up(self) -> None:
        """Return when full chunks go out: behind a pile of jobs the replicas have just begun to work again."""
        with self.models():
            wait_until(lambda: self.service.in_flight(self.model) >= PILE, PATIENCE_S)
            ended = self.service.ledger(self.model)["completed"]
        wait_until(lambda: self.service.ledger(self.model)["completed"] > ended, PATIENCE_S)

    def held_by_frozen_replica(self) -> list[str]:
        """Claimed jobs that have not ended for so long, although another replica works."""
        since: dict[str, float] = {}

        def look() -> list[str]:
            now, claimed = time.monotonic(), self.claimed()
            for job in claimed:
                since.setdefault(job, now)
            return [job for job in claimed if now - since[job] > STEADY_S]

        return wait_until(look, PATIENCE_S)

    def held_by_frozen_gateway(self) -> list[str]:
        """Jobs under a valid lease that nobody moved for half of its time: living gateways do every third of it.

        Empty when there is none after twice its time: then the frozen gateway holds no job.
        """
        lease, began = self.service.lease_seconds, time.monotonic()

        def look() -> list[str]:
            if time.monotonic() - began < lease / 2:
                return []
            return [job for job, left in self.service.leases(self.model).items() if 0 < left < lease / 2]

        try:
            return wait_until(look, 2 * lease)
        except TimeoutError:
            return []

    def wait_until_whole(self) -> None:
        """Return when both deployments have all their replicas and the service calls itself ready."""
        self.service.wait_until_whole("gateway", self.gateways, PATIENCE_S)
        self.service.wait_until_whole(self.model, self.replicas, PATIENCE_S)

    def wait_until_empty(self) -> None:
        """Return when nothing waits or runs."""
        wait_until(lambda: self.service.in_flight(self.model) == 0, PATIENCE_S)

    def wait_until(self, look: Callable[[], T]) -> T:
        """What `look` gives, once it is true."""
        return wait_until(look, PATIENCE_S)

    def wait_until_gone(self, replica: int, deployment: str) -> None:
        """Return when Serve counts on that process no more."""
        wait_until(lambda: replica not in self.service.replicas(deployment), PATIENCE_S)

    def wait_until_completed(self, ids: Sequence[str]) -> None:
        """Return when these jobs have ended well, by their records."""
        with self.service.redis() as redis:
            wait_until(lambda: all(redis.hget(f"job:{job_id}", "status") == "COMPLETED" for job_id in ids), PATIENCE_S)

    def started_again(self, ids: Sequence[str]) -> bool:
        """Whether one of these jobs was delivered more than once."""
        with self.service.redis() as redis:
            return any(int(redis.hget(f"job:{job_id}", "deliveries") or 0) > 1 for job_id in ids)

    def submit_hostile(self, act: str) -> str:
        """Have a job accepted that must not end well; its id."""
        job_id = self._on_loop(self.load.submit(0, act=act))
        self.hostile.append(job_id)
        return job_id

    def status(self, job_id: str) -> str:
        """What the service says of the job."""
        [job] = self._on_loop(self.load.read([job_id]))
        return str(job["status"])

    def _on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self.loop)
        return future.result(PATIENCE_S)
