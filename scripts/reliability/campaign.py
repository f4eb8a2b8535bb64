"""One trial per fault: a new user's load, the fault in the middle of it, and everything that was left behind."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass

from benchmark.observed_service import ObservedService, wait_until

from reliability.faults import FAULTS
from reliability.load import Load
from reliability.pictures import Picture
from reliability.scene import Scene, Strike
from reliability.watcher import Watcher
from serve_app.connections import end_tasks
from serve_app.contracts import Json

SETTLED_S = 900.0
OUTCOMES = """
    SELECT job_id, run, status, dead, deliveries, extract(epoch FROM submitted_at)::float8,
        extract(epoch FROM started_at)::float8, extract(epoch FROM completed_at)::float8
    FROM job_outcomes WHERE owner IN (SELECT owner FROM job_outcomes WHERE job_id = ANY(%s))
"""
USAGE = "SELECT job_id FROM api_usage WHERE username = %s AND endpoint_type = 'inference' AND status_code = 202"


@dataclass(frozen=True)
class Plan:
    """How much load each fault gets: at least so many jobs, at a rate that spreads them over so many seconds."""

    jobs: int
    seconds: float
    seed: int


class Campaign:
    """Trials on one service with one model; `trials` are their records, in plain JSON."""

    def __init__(
        self,
        service: ObservedService,
        model: str,
        pictures: Sequence[Picture],
        plan: Plan,
        *,
        gateways: int = 2,
        replicas: int = 2,
    ) -> None:
        self.trials: list[Json] = []
        self._service, self._model, self._pictures, self._plan = service, model, pictures, plan
        self._gateways, self._replicas = gateways, replicas

    async def run(self, name: str) -> Json:
        """The record of one fault's trial, which is also kept."""
        user = f"chaos-{name}-{uuid.uuid4().hex[:8]}"
        before = self._service.ledger(self._model)
        watcher = Watcher(self._service.stack.environment["REDIS_URL"], self._model)
        watching = asyncio.create_task(watcher.run())
        hostile: list[str] = []
        try:
            async with Load(self._service, user, self._model, self._pictures, self._plan.seed) as load:
                strikes = await self._strike(name, load, hostile)
                await asyncio.to_thread(self._settle)
                ids = [job_id for job_id, _, _ in load.accepted]
                seen = await load.read(ids)
        finally:
            await end_tasks([watching])
        record = {
            "fault": name,
            "user": user,
            "strikes": [asdict(strike) for strike in strikes],
            "accepted": load.accepted,
            "failed": dict(load.failed),
            "hostile": hostile,
            "jobs": [
                _kept(job, self._pictures[picture]) for job, (_, picture, _) in zip(seen, load.accepted, strict=True)
            ],
            "ledger_before": before,
            "ledger_after": self._service.ledger(self._model),
            "samples": watcher.samples,
            "outcomes": self._service.rows(OUTCOMES, ids + hostile),
            "usage": [job_id for (job_id,) in self._service.rows(USAGE, user)],
        }
        self.trials.append(record)
        return record

    async def _strike(self, name: str, load: Load, hostile: list[str]) -> list[Strike]:
        """The fault strikes when a third of the load is accepted; the load goes on until it is over."""
        jobs, loop = self._plan.jobs, asyncio.get_running_loop()
        scene = Scene(self._service, self._model, load, loop, hostile, self._gateways, self._replicas)
        async with asyncio.TaskGroup() as group:
            group.create_task(load.run(jobs, jobs / self._plan.seconds))
            await load.reached(jobs // 3)
            strikes = await asyncio.to_thread(FAULTS[name], scene)
            load.released.set()
        return strikes

    def _settle(self) -> None:
        """Return when no job is in flight and every event is a row, or it took too long: the verdict will tell."""
        with suppress(TimeoutError):
            wait_until(lambda: self._service.in_flight(self._model) == 0, SETTLED_S)
            with self._service.redis() as redis:
                wait_until(lambda: redis.xlen("outbox") == 0, SETTLED_S)


def _kept(job: Json, picture: Picture) -> Json:
    """What the verdict needs of a job, and how far its scores are from those of its picture alone."""
    kept = {name: job.get(name) for name in ("job_id", "status", "deliveries")}
    if result := job.get("result"):
        expected = picture.reference["all_scores"]
        difference = max(abs(result["all_scores"][label] - expected[label]) for label in expected)
        kept |= {"label": result["label"], "expected": picture.reference["label"], "difference": difference}
    return kept


def document(campaign: Campaign, plan: Plan, started: float, **about: object) -> Json:
    """The raw record of a whole run."""
    return {
        **about,
        "units": "times in seconds since 1970 or as durations, the rest are counts",
        "options": asdict(plan),
        "started_at": started,
        "seconds": time.time() - started,
        "trials": campaign.trials,
    }
