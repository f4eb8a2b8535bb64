"""The one thread that computes, with a deadline on everything that runs in it."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from serve_app.errors import ReplicaLost

T = TypeVar("T")

NICE = 10
"""Steps below the gateway's priority: without them status reads starve while the processors are full."""


class ForwardThread:
    """Runs functions one after the other in a thread of low priority.

    A function past its deadline cannot be stopped: the thread counts as hung from then on, every later call
    raises `ReplicaLost`, and the replica's health check asks Serve for a new replica. A caller that is cancelled leaves
    its function running, and the next one's deadline begins when that has ended.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(
            max_workers=1, thread_name_prefix="forward", initializer=lower_thread_priority, initargs=(NICE,)
        )
        self._turn = asyncio.Lock()
        self.hung = False

    async def run(self, function: Callable[..., T], *args: object, deadline_s: float) -> T:
        """The function's value or its exception; `ReplicaLost`, `hung`, when it takes longer than `deadline_s`."""
        return await asyncio.shield(self._run(lambda: function(*args), deadline_s))

    async def expect(self, work: Awaitable[T], deadline_s: float) -> T:
        """The value of work that comes to this thread through a queue of somebody else's. Past the deadline the way is
        blocked: the thread counts as hung, and `ReplicaLost` is raised."""
        try:
            async with asyncio.timeout(deadline_s) as deadline:
                return await work
        except TimeoutError as error:
            if not deadline.expired():
                raise
            self.hung = True
            raise ReplicaLost(f"No forward pass took an input within {deadline_s:g} s.") from error

    async def _run(self, function: Callable[[], T], deadline_s: float) -> T:
        async with self._turn:
            if self.hung:
                raise ReplicaLost("The forward thread of this replica hangs.")
            running = asyncio.get_running_loop().run_in_executor(self._executor, function)
            done, _ = await asyncio.wait((running,), timeout=deadline_s)
            if not done:
                self.hung = True
                raise ReplicaLost(f"A forward pass took longer than {deadline_s:g} s.", hung=True)
            return running.result()

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)


def lower_thread_priority(steps: int) -> None:
    """Make the calling thread nicer by `steps`; threads it starts later inherit that (Linux keeps it per thread).

    Elsewhere niceness belongs to the whole process, which also answers health checks: nothing is done there.
    """
    if os.uname().sysname == "Linux":
        thread = threading.get_native_id()
        niceness = os.getpriority(os.PRIO_PROCESS, thread) + steps
        os.setpriority(os.PRIO_PROCESS, thread, min(niceness, 19))
