"""Decode workers: a few processes in which a hostile input can crash, hang or exhaust memory without harming others."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import importlib
import logging
import multiprocessing
import os
import resource
import signal
import threading
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from multiprocessing.context import SpawnContext
from pathlib import Path
from typing import Any, TypeVar

from pebble import ProcessExpired, ProcessPool

from serve_app.errors import (
    ImageTooCostly,
    ImageUndecodable,
    JobError,
    ModelOutage,
    ModelRejected,
    ModelUnready,
    ReplicaLost,
    ServiceError,
)
from serve_app.library_internals import MainlessProcess
from serve_app.settings import MIB, Settings

T = TypeVar("T")

log = logging.getLogger(__name__)

NICE = 5
"""Between the gateway (0) and the forward pass (10), so that the next chunk is ready when the forward ends."""
START_TIMEOUT_S = 60.0
"""Longest start of a worker: a process and the imports of its model."""
LOOK_S = 0.2
"""How often a waiting call checks that its pool still works."""
END_TIMEOUT_S = 10.0
"""How long a pool may take to end its workers before they are killed."""
M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8
"""Of glibc's malloc.h."""
RETURNED_BYTES = 4 * MIB
"""Larger buffers of a worker go back to the system when they are freed."""
DEATHS_ALLOWED = 1
"""An input gets a second worker after the first died: the system may have killed that one for another reason."""


class _WorkerContext(SpawnContext):
    """Spawns, because the replica has threads and a fork would copy their locks. Remembers the processes it made."""

    def __init__(self) -> None:
        super().__init__()
        self._made: list[MainlessProcess] = []

    def Process(self, *args: Any, **options: Any) -> MainlessProcess:  # type: ignore[override]  # noqa: N802
        self._made = self.alive()
        self._made.append(MainlessProcess(*args, **options))
        return self._made[-1]

    def alive(self) -> list[MainlessProcess]:
        """The processes that have not ended."""
        return [process for process in self._made if process.is_alive()]


class _Generation:
    """One pebble pool and its processes. A broken pool is never repaired: the next generation replaces it.

    Pebble ends every call except one scheduled while the pool broke, and its timeout starts only when a worker reports
    that it took the call. So a call also ends when its generation is given up, and by its own deadline.
    """

    def __init__(self, workers: int, start_arguments: tuple[object, ...]) -> None:
        self._context = _WorkerContext()
        self._pool = ProcessPool(
            max_workers=workers, initializer=_prepare_worker, initargs=start_arguments, context=self._context
        )
        self._given_up = asyncio.get_running_loop().create_future()

    def start(self) -> bool:
        """Start the workers unless started. Blocks while the processes start. False if the pool is broken."""
        return bool(self._pool.active)

    async def call(self, deadline_s: float, patience_s: float, function: Callable[..., T], *args: object) -> T:
        """The function's value or exception from a worker.

        Raises `TimeoutError` if it ran for longer than `deadline_s`; `RuntimeError` if the pool is broken or given up,
        or if there was no answer within `patience_s`, including the wait for a worker."""
        future = self._pool.schedule(function, args=args, timeout=deadline_s)
        answer = asyncio.wrap_future(future)
        try:
            async with asyncio.timeout(patience_s) as patience:
                while not answer.done():
                    awaited = (answer, self._given_up)
                    await asyncio.wait(awaited, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
                    if not answer.done() and (self._given_up.done() or not self._pool.active):
                        raise RuntimeError("the pool broke")
                if answer.cancelled():  # by the pool; a cancellation by our caller is raised above
                    raise RuntimeError("the pool was stopped")
                return answer.result()
        except TimeoutError as error:
            if patience.expired():
                raise RuntimeError(f"no answer within {patience_s:g} s") from error
            raise
        finally:
            answer.cancel()

    def give_up(self) -> bool:
        """End every call that waits for this generation. False if that was done before."""
        if self._given_up.done():
            return False
        self._given_up.set_result(None)
        return True

    def end(self) -> None:
        """End the workers. Blocks for a bounded time, whatever the pool's state, and leaves no process."""
        self._pool.stop()  # type: ignore[no-untyped-call]
        ending = threading.Thread(target=self._join, daemon=True)
        ending.start()
        ending.join(END_TIMEOUT_S)
        for process in self._context.alive():
            process.kill()
            process.join(END_TIMEOUT_S)

    def _join(self) -> None:
        with suppress(RuntimeError):  # "Unable to terminate": `end` kills them next
            self._pool.join()


class DecodePool:
    """Runs functions in decode workers. Each call is bounded in time and memory, and the number of calls is bounded."""

    def __init__(self, settings: Settings, module: str, prepare: Callable[[], object] | None = None) -> None:
        """Every worker imports `module` and calls `prepare` before its memory limit is set and its first call
        arrives."""
        self._deadline_s = settings.decode_timeout_s
        # A call waits for at most one other call, see `_slots`, and perhaps for the start of a worker.
        self._patience_s = 2 * settings.decode_timeout_s + START_TIMEOUT_S
        self._workers = settings.decode_workers
        self._start_arguments = (module, settings.decode_memory_mib * MIB, prepare)
        self._memory_mib = settings.decode_memory_mib
        # One more than there are workers, so that the next input is ready when a worker becomes free.
        self._slots = asyncio.Semaphore(self._workers + 1)
        self._current = self._make()
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False

    def _make(self) -> _Generation:
        return _Generation(self._workers, self._start_arguments)

    async def start(self) -> None:
        """Start the workers and wait until they answer. Raises `ModelUnready` if they do not."""
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await asyncio.to_thread(self._current.start)
                await self._current.call(START_TIMEOUT_S, START_TIMEOUT_S, os.getpid)
        except (ProcessExpired, RuntimeError, OSError, TimeoutError) as error:
            raise ModelUnready(f"The decode workers do not start: {error}") from error

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Room for one input in this replica. Take it before fetching the bytes for `run`."""
        async with self._slots:
            yield

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """The function's value or the `ServiceError` it raised, from a worker process; call it inside `slot()`.

        Raises `ImageTooCostly` past the time or memory limit, `ImageUndecodable` if the worker crashed twice,
        `ModelRejected` on any other exception, and `ReplicaLost` if the pool itself broke or did not answer: any of its
        inputs may be the cause, and a new pool replaces it. Each attempt ends after at most twice the time limit and
        the start of a worker.
        """
        deaths = 0
        while not self._closed:
            current = self._current
            try:
                return await current.call(self._deadline_s, self._patience_s, _guarded, function, args)
            except TimeoutError as error:
                raise ImageTooCostly(f"Reading this input took longer than {self._deadline_s:g} s.") from error
            except MemoryError as error:
                raise ImageTooCostly(f"Reading this input took more than {self._memory_mib} MiB.") from error
            except ProcessExpired as error:
                deaths += 1
                if deaths > DEATHS_ALLOWED:
                    raise _death(error) from error
            except RuntimeError as error:
                self._replace(current, error)
                if self._closed:
                    break
                raise ReplicaLost("The decode workers broke and were started again.") from error
        raise ModelUnready("This replica ends.")

    def _replace(self, broken: _Generation, error: Exception) -> None:
        if broken.give_up() and not self._closed:  # the first caller to notice
            log.warning("the decode workers are started again: %s", error)
            self._current = self._make()
            self._end(broken)

    def _end(self, generation: _Generation) -> None:
        """In the background: it takes seconds, and no caller has to wait for it."""
        task = asyncio.create_task(asyncio.to_thread(generation.end))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        """End the workers, including those of broken pools; running calls end with `ModelUnready`."""
        self._closed = True
        self._current.give_up()
        self._end(self._current)
        await asyncio.gather(*self._ending, return_exceptions=True)


def _death(error: ProcessExpired) -> JobError:
    if error.exitcode == -signal.SIGKILL:
        return ImageTooCostly("The system ended the decoder while it read this input, twice.")
    return ImageUndecodable("The decoder crashed on this input, twice.")


def _guarded(function: Callable[..., T], args: tuple[object, ...]) -> T:
    """Runs in the worker. Lets only picklable exceptions through: any other would break the whole pool."""
    gc.collect()  # cycles may hold an earlier input
    try:
        return function(*args)
    except (ServiceError, ModelOutage, MemoryError) as error:
        _forget_input(error)
        raise
    except Exception as error:
        log.exception("an input could not be prepared")
        _forget_input(error)
        raise ModelRejected(f"This input could not be prepared: {type(error).__name__}.") from None


def _prepare_worker(module: str, memory_bytes: int, prepare: Callable[[], object] | None) -> None:
    """Runs first in every worker: imports what it needs, then sets its limits and ties its life to the replica's."""
    _return_freed_memory()
    importlib.import_module(module)
    if prepare is not None:
        prepare()
    os.nice(NICE)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    pages = Path("/proc/self/statm")
    if pages.exists():  # elsewhere the system does not enforce RLIMIT_AS
        limit = int(pages.read_text(encoding="ascii").split()[0]) * resource.getpagesize() + memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the core file of a crash would hold the user's input
    gc.freeze()  # what was imported stays: `_guarded` need not look through it


def _forget_input(error: BaseException | None) -> None:
    """Empty the frames of an error and of its causes: pebble keeps the error until the next call has ended."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


def _return_freed_memory() -> None:
    """Let large buffers go back to the system when they are freed.

    glibc otherwise keeps those of up to 32 MiB, in an arena for each thread, and an image would have less memory after
    other images than in a new worker. Options by mallopt(3).
    """
    with suppress(OSError, AttributeError):  # a C library without them
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, RETURNED_BYTES)
        libc.mallopt(M_ARENA_MAX, 1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
