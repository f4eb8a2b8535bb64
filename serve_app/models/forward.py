"""The one thread that computes, with a deadline on everything that runs in it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from serve_app.errors import ReplicaLost
from serve_app.models.processors import lower_thread_priority

T = TypeVar("T")

NICE = 10
"""Steps below the gateway's priority: without them status reads starve while the processors are full."""


class ForwardThread:
    """Runs functions one after the other in a thread of low priority.

    A function past its deadline cannot be stopped: the thread counts as hung from then on, every later call
    raises `ReplicaLost`, and the replica's health check asks Serve for a new replica.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(
            max_workers=1, thread_name_prefix="forward", initializer=lower_thread_priority, initargs=(NICE,)
        )
        self._turn = asyncio.Lock()
        self.hung = False

    async def run(self, function: Callable[..., T], *args: object, deadline_s: float) -> T:
        """The function's value or its exception; `ReplicaLost` when it takes longer than `deadline_s` seconds."""
        async with self._turn:
            if self.hung:
                raise ReplicaLost("The forward thread of this replica hangs.")
            running = asyncio.get_running_loop().run_in_executor(self._executor, lambda: function(*args))
            done, _ = await asyncio.wait((running,), timeout=deadline_s)
            if not done:
                self.hung = True
                raise ReplicaLost(f"A forward pass took longer than {deadline_s:g} s.")
            return running.result()

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)
