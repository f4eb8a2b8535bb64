"""The tasks of a gateway replica: background tasks, tasks that outlive a request, and the shutdown signal.

A background task that ends is restarted after a pause. A replica that cannot keep one running fails its health check,
because it would otherwise continue with a part missing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from ray.serve import metrics

from serve_app.connections import end_tasks
from serve_app.errors import ReplicaLost
from serve_app.library_internals import replica_is_shutting_down

LOOK_S: Final = 0.25
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 30.0
ENDS_MAX: Final = 5
"""Ends in a row after which a task counts as failing: the pauses between them add up to eight seconds, longer than a
short outage."""
STEADY_S: Final = 60.0
"""After this long without an end, the next one counts as the first. Longer than the longest pause."""

_log = logging.getLogger(__name__)

T = TypeVar("T")


class ShutdownSignal:
    """Set once, when this replica is asked to stop. A request that is held open for its client ends then; the client
    reconnects to another replica.

    Serve lets open requests end before it calls our code, so the replica has to poll for it.
    """

    def __init__(self) -> None:
        self._event = asyncio.Event()

    async def run(self) -> None:
        """Poll until cancelled."""
        while True:
            if replica_is_shutting_down():
                self.set()
            await asyncio.sleep(LOOK_S)

    def set(self) -> None:
        """Signal the shutdown."""
        self._event.set()

    @property
    def is_set(self) -> bool:
        """Whether the replica shuts down."""
        return self._event.is_set()

    async def wait(self) -> None:
        """Return when the replica shuts down."""
        await self._event.wait()


class RequestTasks:
    """Tasks that run to their end even when the request that started them is cancelled."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    async def finish(self) -> None:
        """Return when all have ended."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved, so that asyncio does not report it as lost when the caller has gone


@dataclass(slots=True)
class _Kept:
    """The state of one background task."""

    begun: float
    ends: int = 0
    """Number in a row."""
    reason: str = ""
    """Reason of the last end."""


class Supervisor:
    """One per gateway replica. Each task is a function that runs until it is cancelled; returning counts as an end too,
    unless the replica shuts down."""

    def __init__(self, shutdown: ShutdownSignal) -> None:
        self._shutdown = shutdown
        self._kept: dict[str, _Kept] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._restarts = metrics.Counter(
            "gateway_background_restarts", "Background tasks that ended and were begun again.", ("task",)
        )

    def start(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Start the task; `name` is its label in the metric, in `/readyz` and in the log."""
        kept = self._kept[name] = _Kept(_now())
        self._tasks.append(asyncio.create_task(self._keep_up(name, run, kept), name=name))

    async def end(self) -> None:
        """Cancel all, and return when they have ended."""
        await end_tasks(self._tasks)

    @property
    def states(self) -> Mapping[str, str]:
        """The state of each task: `ready`, or `failing: <why>` while it cannot be kept running."""
        return {name: f"failing: {kept.reason}" if _is_failing(kept) else "ready" for name, kept in self._kept.items()}

    def check(self) -> None:
        """Raises `ReplicaLost` while a task cannot be kept running: only a new replica can help."""
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
            if me is None or me.cancelling() or (error is None and self._shutdown.is_set):
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
