"""How fast a model works: the ends of its jobs while some waited, from the ledger, by each replica for itself."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from serve_app.errors import ServiceError
from serve_app.jobs.records import Backlog, Ledger
from serve_app.jobs.store import JobStore

PERIOD_S: Final = 2.0
"""An interval is at least this long, and long enough for one job to end in it."""
INTERVALS: Final = 30
INTERVALS_MIN: Final = 3
"""Fewer say nothing of how much the rate varies."""
FORGET_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class Rate:
    """Jobs that ended per second in the slowest and in the fastest of the latest intervals."""

    slowest: float
    fastest: float


class Speed:
    """One model's rate. It is fed with looks at the ledger, each with the time it was taken."""

    def __init__(self) -> None:
        self._begun: tuple[float, int] | None = None
        self._intervals: deque[tuple[float, float]] = deque(maxlen=INTERVALS)

    def see(self, now: float, ledger: Ledger, backlog: Backlog) -> None:
        """An interval counts only if jobs waited: else it tells how fast jobs come, not how fast they go."""
        ended = ledger.completed + ledger.failed + ledger.dead
        if not backlog.waiting:
            self._begun = None
        elif self._begun is None:
            self._begun = (now, ended)
        elif ended > self._begun[1] and now - self._begun[0] >= PERIOD_S * 0.9:
            self._intervals.append((now, (ended - self._begun[1]) / (now - self._begun[0])))
            self._begun = (now, ended)

    def rate(self, now: float) -> Rate | None:
        """None until enough was seen lately."""
        rates = [rate for at, rate in self._intervals if now - at < FORGET_S]
        return Rate(min(rates), max(rates)) if len(rates) >= INTERVALS_MIN else None


class Rates:
    """The rates of all models of one gateway replica."""

    def __init__(self, jobs: JobStore, models: Sequence[str]) -> None:
        self._jobs = jobs
        self._speeds = {model: Speed() for model in models}

    def of(self, model: str) -> Rate | None:
        """The model's rate; None until it is known."""
        speed = self._speeds.get(model)
        return speed.rate(time.monotonic()) if speed else None

    async def run(self) -> None:
        """Look until cancelled. What cannot be looked at now is left out."""
        while True:
            for model, speed in self._speeds.items():
                try:
                    ledger, backlog = await asyncio.gather(self._jobs.ledger(model), self._jobs.backlog(model))
                except ServiceError:
                    continue
                speed.see(time.monotonic(), ledger, backlog)
            await asyncio.sleep(PERIOD_S)
