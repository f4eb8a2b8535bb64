"""Scales a model deployment by the jobs that wait and run, for Ray Serve's `autoscaling_config.policy`.

Serve's own policy counts calls. A waiting job is no call before it is claimed, so that policy takes a long queue for a
short one. Ray sends this module to its controller by value and makes the class there, with `policy_kwargs`.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from serve_app.connections import connect_redis
from serve_app.jobs.store import JobStore
from serve_app.settings import read_settings

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

POLL_S = 0.5
DEADLINE_S = 2.0


class BacklogPolicy:
    """One replica per `jobs_per_replica` unfinished jobs, at least one while there is any, otherwise none. Serve
    applies `min_replicas`, `max_replicas` and the delays to this number."""

    def __init__(self, model: str, jobs_per_replica: int) -> None:
        if jobs_per_replica < 1:
            raise ValueError("jobs_per_replica must be at least 1")
        self._model = model
        self._jobs_per_replica = jobs_per_replica
        self._jobs: int | None = None
        self._polling: asyncio.Task[None] | None = None
        self._polled_at = -POLL_S

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """Called in the controller's event loop in each of its rounds: it never waits, and returns the result of the
        last poll."""
        now = time.monotonic()
        if now - self._polled_at >= POLL_S and (self._polling is None or self._polling.done()):
            self._polled_at = now
            self._polling = asyncio.get_running_loop().create_task(self._poll())
        if self._jobs is None:
            return context.target_num_replicas, {}
        return -(-self._jobs // self._jobs_per_replica), {"jobs": self._jobs}

    async def _poll(self) -> None:
        """Read the backlog. If that fails, the last value stays: an outage of Redis is no reason to scale.

        Each poll opens its own connection, because a policy does not learn that it was replaced and could not close
        one.
        """
        try:
            settings = read_settings()
            async with asyncio.timeout(DEADLINE_S), connect_redis(settings, max_connections=2) as redis:
                backlog = await JobStore(redis, settings).backlog(self._model)
        except Exception:  # noqa: S110  the gateway's readiness reports it; here it would be logged twice a second
            pass
        else:
            self._jobs = backlog.waiting + backlog.leased
