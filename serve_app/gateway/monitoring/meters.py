"""What Ray's metrics tell of one gateway replica: its requests, and which models it sends no jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from ray.serve import metrics

from serve_app.jobs.dispatcher import Dispatcher

PERIOD_S: Final = 5.0
MILLISECONDS: Final[list[float]] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000]


class RequestMeter:
    """Counts and times answers: one histogram, whose count is the number of requests."""

    def __init__(self) -> None:
        self._latency = metrics.Histogram(
            "gateway_request_ms",
            "From a request's first byte to its answer's, in ms.",
            boundaries=MILLISECONDS,
            tag_keys=("route", "method", "status"),  # type: ignore[arg-type]  # Ray's annotation says one key
        )
        self._problems = metrics.Counter("gateway_problems", "Answers that are problems, by type.", ("problem",))
        self._limited = metrics.Counter(
            "gateway_limited",
            "Requests that the limiter refused.",
            ("limit", "asked"),  # type: ignore[arg-type]  # as above
        )

    def observe(self, route: str, method: str, status: int, latency_ms: float, problem: str) -> None:
        """One answer; `problem` is its type's slug or empty. `route` is the path of the route table: what callers make
        up never is a label."""
        self._latency.observe(latency_ms, {"route": route, "method": method, "status": str(status)})
        if problem:
            self._problems.inc(1, {"problem": problem})

    def limited(self, limit: str, asked: str) -> None:
        """The limiter refused a request: what refused it, and what the request was counted as."""
        self._limited.inc(1, {"limit": limit, "asked": asked})


class BreakerMeter:
    """Sets, every few seconds, the gauge of the breakers of this replica."""

    def __init__(self, dispatchers: Mapping[str, Dispatcher]) -> None:
        self._dispatchers = dispatchers
        self._breaker = metrics.Gauge("gateway_breaker_open", "1 while the model fails and gets no jobs.", ("model",))

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            for name, dispatcher in self._dispatchers.items():
                self._breaker.set(int(dispatcher.state.startswith("breaker")), {"model": name})
            await asyncio.sleep(PERIOD_S)
