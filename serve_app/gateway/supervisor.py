"""Keeps the background tasks of a gateway replica running: one that ends is begun again after a pause, and a replica
that cannot keep one up says so, because it would go on as half a gateway."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from ray.serve import metrics

from serve_app.connections import end_tasks
from serve_app.errors import ReplicaLost
from serve_app.gateway.live.departure import Departure

FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 30.0
ENDS_MAX: Final = 5
"""Ends in a row after which a task is failing: the pauses between them are eight seconds, more than a blip."""
STEADY_S: Final = 60.0
"""A task that has run for so long is well: what ends it then is a new fault. More than the longest pause."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Kept:
    """What is known of one task."""

    begun: float
    ends: int = 0
    """In a row."""
    reason: str = ""
    """Why it ended last."""


class Supervisor:
    """One per gateway replica. Each task is a function that runs until it is cancelled; one that returns has ended too,
    unless the replica goes."""

    def __init__(self, departure: Departure) -> None:
        self._departure = departure
        self._kept: dict[str, _Kept] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._restarts = metrics.Counter(
            "gateway_background_restarts", "Background tasks that ended and were begun again.", ("task",)
        )

    def start(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Run it from now on; `name` is its label in the metric, in `/readyz` and in the log."""
        kept = self._kept[name] = _Kept(_now())
        self._tasks.append(asyncio.create_task(self._keep_up(name, run, kept), name=name))

    async def end(self) -> None:
        """Cancel all, and return when they have ended."""
        await end_tasks(self._tasks)

    @property
    def states(self) -> Mapping[str, str]:
        """Of each task, `ready`, or `failing: <why>` while it cannot be kept up."""
        return {name: f"failing: {kept.reason}" if _is_failing(kept) else "ready" for name, kept in self._kept.items()}

    def check(self) -> None:
        """Raise `ReplicaLost` while a task cannot be kept up: only a new replica can help."""
        if failing := [f"{name} ({kept.reason})" for name, kept in self._kept.items() if _is_failing(kept)]:
            raise ReplicaLost(f"Background tasks cannot be kept up: {', '.join(failing)}.")

    async def _keep_up(self, name: str, run: Callable[[], Awaitable[None]], kept: _Kept) -> None:
        me = asyncio.current_task()
        while True:
            kept.begun = _now()
            error: BaseException | None = None
            try:
                await run()
            except (Exception, asyncio.CancelledError) as met:
                error = met
            if me is None or me.cancelling() or (error is None and self._departure.is_told):
                return
            kept.ends = 1 if _now() - kept.begun >= STEADY_S else kept.ends + 1
            kept.reason = repr(error) if error else "it returned"
            kept.begun = _now()
            pause = min(FIRST_PAUSE_S * 2 ** (kept.ends - 1), LONGEST_PAUSE_S)
            _log.critical("%s ended (%s) and is begun again in %g s", name, kept.reason, pause, exc_info=error)
            self._restarts.inc(1, {"task": name})
            await asyncio.sleep(pause)


def _is_failing(kept: _Kept) -> bool:
    return kept.ends >= ENDS_MAX and _now() - kept.begun < STEADY_S


def _now() -> float:
    return asyncio.get_running_loop().time()
