"""Scales a model deployment by the jobs that wait and run, for Ray Serve's `autoscaling_config.policy`.

Serve's own policy counts calls; jobs in Redis are none before they are claimed, so it sees a long queue as a short one.
Ray sends this module to its controller by value and makes the class there, with `policy_kwargs`.
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
    """One replica per `jobs_per_replica` jobs not ended, at least one while there is any, none when there is none.

    Serve applies `min_replicas`, `max_replicas` and the delays to what this returns.
    """

    def __init__(self, model: str, jobs_per_replica: int) -> None:
        if jobs_per_replica < 1:
            raise ValueError("jobs_per_replica must be at least 1")
        self._model = model
        self._jobs_per_replica = jobs_per_replica
        self._jobs: int | None = None
        self._polling: asyncio.Task[None] | None = None
        self._polled_at = -POLL_S

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """Called in the controller's event loop at each of its turns: it never waits, it answers from the last poll."""
        now = time.monotonic()
        if now - self._polled_at >= POLL_S and (self._polling is None or self._polling.done()):
            self._polled_at = now
            self._polling = asyncio.get_running_loop().create_task(self._poll())
        if self._jobs is None:
            return context.target_num_replicas, {}
        return -(-self._jobs // self._jobs_per_replica), {"jobs": self._jobs}

    async def _poll(self) -> None:
        """Read the backlog. When that fails the last one stands: a Redis that is away is no reason to scale.

        Each poll has a connection of its own: nobody tells a policy that it was replaced, so it could not close one.
        """
        try:
            settings = read_settings()
            async with asyncio.timeout(DEADLINE_S), connect_redis(settings, max_connections=2) as redis:
                backlog = await JobStore(redis, settings).backlog(self._model)
        except Exception:  # noqa: S110  said by the gateway's readiness already; here it would be said twice a second
            pass
        else:
            self._jobs = backlog.waiting + backlog.leased
