"""The computation in a replica: one thread with deadlines, batches in which a failing item fails alone, and the gate
that lets a suspect run alone."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from serve_app.errors import ModelRejected, ModelTimeout, ModelUnready, ReplicaLost, TransientFailure
from serve_app.models.contract import Model

T = TypeVar("T")

NICE = 10
"""Steps of niceness above the gateway's; without them status reads starve while the processors are busy."""
TRANSIENT = (ConnectionError, TimeoutError, BlockingIOError, InterruptedError)
"""Exceptions of a forward pass that no input causes: a service or device that the model uses did not answer."""
log = logging.getLogger(__name__)


class ForwardThread:
    """Runs functions one after the other in a thread of low priority.

    A function past its deadline cannot be stopped: from then on the thread counts as hung, every later call raises
    `ReplicaLost`, and the replica's health check asks Serve for a new replica. When a caller is cancelled its function
    runs on, and the next function's deadline starts when it has ended.
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
        """The value of work that reaches this thread through another queue (`serve.batch`). Past the deadline that
        queue is blocked: the thread counts as hung, and `ReplicaLost` is raised."""
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


class BatchRunner:
    """Runs batches of one loaded model in its forward thread."""

    def __init__(self, model: Model, thread: ForwardThread, known_good: Any, deadline_s: float) -> None:
        """`known_good` is the prepared warm-up item: if it fails too, the fault is the model's and not the input's."""
        self._model = model
        self._thread = thread
        self._known_good = known_good
        self._deadline_s = deadline_s

    async def run(self, items: Sequence[Any]) -> list[Any]:
        """One output, or `ModelRejected`, `TransientFailure` or `ModelTimeout`, per item, in order.

        If a pass with a single item hangs, that item is the cause (`ModelTimeout`). Raises `ReplicaLost` with `hung`
        if a pass with several items hangs, without it if the thread hung before; `ModelUnready` if the model fails on
        the warm-up item too."""
        try:
            return await self._forward(items)
        except ReplicaLost as error:
            return self._blamed(items, error)
        except Exception:
            log.exception("a batch of %d failed; its items run one by one", len(items))
        try:
            answers = [await self._single(item) for item in items]
        except ReplicaLost as error:
            return self._blamed(items, error)
        if any(isinstance(answer, ModelRejected | TransientFailure) for answer in answers):
            await self._check_model()
        return answers

    def _blamed(self, items: Sequence[Any], error: ReplicaLost) -> list[Any]:
        """The failure of a hung pass's only item; with several items none is blamed and the error is raised."""
        if error.hung and len(items) == 1:
            return [ModelTimeout(f"The model did not finish this input within {self._deadline_s:g} s.")]
        raise error

    async def _single(self, item: Any) -> Any:
        try:
            return (await self._forward([item]))[0]
        except ReplicaLost:
            raise
        except (ModelRejected, TransientFailure) as error:
            return error
        except TRANSIENT as error:
            return TransientFailure(f"{type(error).__name__}: {error}")
        except Exception as error:
            return ModelRejected(f"The model failed on this input: {type(error).__name__}.")

    async def _check_model(self) -> None:
        try:
            await self._forward([self._known_good])
        except ReplicaLost:
            raise
        except Exception as error:
            raise ModelUnready(f"The model fails on its own warm-up input: {type(error).__name__}: {error}") from error

    async def _forward(self, items: Sequence[Any]) -> list[Any]:
        outputs = list(await self._thread.run(self._model.forward, items, deadline_s=self._deadline_s))
        if len(outputs) != len(items):
            raise ValueError(f"forward gave {len(outputs)} outputs for {len(items)} items")
        return outputs


class ExclusiveGate:
    """Many may run together, or one alone, in order of arrival: one that wants to be alone waits for all before it, and
    holds back all after it.

    For suspects, jobs that were lost before: if the replica dies while one runs alone, that job is the cause.
    """

    def __init__(self) -> None:
        self._entrance = asyncio.Lock()  # fair: waiters enter in order of arrival
        self._inside = 0
        self._empty = asyncio.Event()
        self._empty.set()

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """Run beside others; waits while one runs alone or waits to."""
        async with self._entrance:
            self._inside += 1
            self._empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Run alone; waits until everything that came before has ended."""
        async with self._entrance:
            await self._empty.wait()
            yield
