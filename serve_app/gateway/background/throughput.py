"""How fast each model works: the jobs that ended while others waited, from the ledger. Each replica measures it
itself."""

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
"""With fewer intervals the variation of the rate is unknown."""
FORGET_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class Rate:
    """Jobs that ended per second in the slowest and in the fastest of the latest intervals."""

    slowest: float
    fastest: float


class Throughput:
    """The rate of one model, from snapshots of its ledger, each with the time it was taken."""

    def __init__(self) -> None:
        self._begun: tuple[float, int] | None = None
        self._intervals: deque[tuple[float, float]] = deque(maxlen=INTERVALS)

    def observe(self, now: float, ledger: Ledger, backlog: Backlog) -> None:
        """Add a snapshot. An interval counts only if jobs waited: otherwise it measures how fast jobs come, not how
        fast they end."""
        ended = ledger.completed + ledger.failed + ledger.dead
        if not backlog.waiting:
            self._begun = None
        elif self._begun is None:
            self._begun = (now, ended)
        elif ended > self._begun[1] and now - self._begun[0] >= PERIOD_S * 0.9:
            self._intervals.append((now, (ended - self._begun[1]) / (now - self._begun[0])))
            self._begun = (now, ended)

    def rate(self, now: float) -> Rate | None:
        """None until there are enough recent intervals."""
        rates = [rate for at, rate in self._intervals if now - at < FORGET_S]
        return Rate(min(rates), max(rates)) if len(rates) >= INTERVALS_MIN else None


class Throughputs:
    """The rates of all models, as one gateway replica sees them."""

    def __init__(self, jobs: JobStore, models: Sequence[str]) -> None:
        self._jobs = jobs
        self._models = {model: Throughput() for model in models}

    def of(self, model: str) -> Rate | None:
        """The model's rate; None until it is known."""
        throughput = self._models.get(model)
        return throughput.rate(time.monotonic()) if throughput else None

    async def run(self) -> None:
        """Observe until cancelled. A model whose ledger cannot be read now is left out."""
        while True:
            for model, throughput in self._models.items():
                try:
                    ledger, backlog = await asyncio.gather(self._jobs.ledger(model), self._jobs.backlog(model))
                except ServiceError:
                    continue
                throughput.observe(time.monotonic(), ledger, backlog)
            await asyncio.sleep(PERIOD_S)
