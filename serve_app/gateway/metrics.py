"""What Ray's metrics tell of a gateway: whether jobs go to each model, what waits, and usage that was not stored."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from ray.serve import metrics

from serve_app.gateway.service import Service

PERIOD_S: Final = 5.0

_log = logging.getLogger(__name__)


class Meter:
    """Sets the gauges of one gateway replica, every few seconds.

    A breaker is the replica's own. Queue and outbox are the whole service's: each replica tells the same of them.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        model = ("model",)
        self._breaker = metrics.Gauge("gateway_breaker_open", "1 while the model fails and gets no jobs.", model)
        self._waiting = metrics.Gauge("gateway_jobs_waiting", "Jobs of the model that wait.", model)
        self._running = metrics.Gauge("gateway_jobs_running", "Jobs of the model that run.", model)
        self._outbox = metrics.Gauge("gateway_outbox_entries", "Events on their way to PostgreSQL.")
        self._lag = metrics.Gauge("gateway_outbox_lag_s", "Age of the oldest of them, in seconds.")
        self._dropped = metrics.Gauge("gateway_usage_dropped", "Usage events counted instead of stored, ever.")
        self._refused = metrics.Gauge("gateway_usage_refused", "Events that PostgreSQL could never take, ever.")

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            try:
                async with asyncio.timeout(PERIOD_S):
                    await self._measure()
            except Exception as error:  # a Redis that is away, mostly: the gauges keep what was last seen
                _log.debug("The gateway could not be measured: %r", error)
            await asyncio.sleep(PERIOD_S)

    async def _measure(self) -> None:
        for name, dispatcher in self._service.dispatchers.items():
            self._breaker.set(int(dispatcher.state.startswith("breaker")), {"model": name})
        for name in self._service.cards:
            backlog = await self._service.tracker.backlog(name)
            self._waiting.set(backlog.waiting, {"model": name})
            self._running.set(backlog.leased, {"model": name})
        figures = await self._service.outbox.figures()
        self._outbox.set(figures.waiting)
        self._lag.set(figures.lag_s)
        self._dropped.set(figures.dropped)
        self._refused.set(figures.refused)
