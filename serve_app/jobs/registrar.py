"""What a model replica tells the tracker, in an object that can be sent to it."""

from __future__ import annotations

from serve_app.connections import connect_redis
from serve_app.contracts import ReplicaCard, Task
from serve_app.jobs.tracker import Tracker
from serve_app.settings import read_settings


class TrackerRegistrar:
    """A `contracts.Registrar`. It connects when first used, where it is used: in the replica, by its environment."""

    def __init__(self) -> None:
        self._tracker: Tracker | None = None

    async def beat(self, card: ReplicaCard) -> None:
        """Say that this replica runs; forgotten after a few missed beats."""
        await self._connected().beat(card)

    async def start_alone(self, task: Task) -> bool:
        """Report that a suspect begins, alone. False: the lease is no longer ours, do not start."""
        return await self._connected().start_alone(task)

    def _connected(self) -> Tracker:
        if self._tracker is None:
            settings = read_settings()
            self._tracker = Tracker(connect_redis(settings, max_connections=4), settings)
        return self._tracker
