"""Decode workers: a few processes in which a hostile input may crash, hang or swell without harm to anything else."""

from __future__ import annotations

import asyncio
import importlib
import logging
import multiprocessing
import os
import resource
import signal
import sys
import threading
import types
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from typing import Any, TypeVar, cast

from pebble import ProcessExpired, ProcessPool

from serve_app.errors import ImageTooCostly, ImageUndecodable, ModelRejected, ModelUnready, ServiceError
from serve_app.settings import MIB, Settings

T = TypeVar("T")

log = logging.getLogger(__name__)

NICE = 5
"""Between the gateway (0) and the forward pass (10), so that the next chunk is ready when the forward ends."""
START_TIMEOUT_S = 60.0
DEATHS_ALLOWED = 1
"""An input gets a second worker after the first one died: the machine may have killed it for something else."""


class _WorkerProcess(SpawnProcess):
    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802  multiprocessing's own name
        """Start without running the parent's main module again: in a replica that would import all of Ray."""
        main = sys.modules["__main__"]
        sys.modules["__main__"] = types.ModuleType("__main__")
        try:
            return SpawnProcess._Popen(process_obj)
        finally:
            sys.modules["__main__"] = main


class _WorkerContext(SpawnContext):
    """Spawned, not forked: the replica has threads, and a fork would copy their locks."""

    Process = _WorkerProcess


class DecodePool:
    """Runs functions in decode workers, each call bounded in time and memory, and all of them in number."""

    def __init__(self, settings: Settings, module: str, prepare: Callable[[], object] | None = None) -> None:
        """`module` is imported by every worker, and `prepare` called, before its memory limit is set and its first call
        arrives."""
        self._deadline_s = settings.decode_timeout_s
        self._workers = settings.decode_workers
        self._start_arguments = (module, settings.decode_memory_mib * MIB, prepare)
        self._memory_mib = settings.decode_memory_mib
        # One more than there are workers: the next input is at hand when a worker gets free, and no more than that.
        self._slots = asyncio.Semaphore(self._workers + 1)
        self._pool = self._make()

    def _make(self) -> ProcessPool:
        return ProcessPool(
            max_workers=self._workers,
            initializer=_prepare_worker,
            initargs=self._start_arguments,
            context=_WorkerContext(),
        )

    async def start(self) -> None:
        """Start the workers and wait until they answer. Raises `ModelUnready` when they do not."""
        try:
            future = await asyncio.to_thread(self._pool.schedule, os.getpid, timeout=START_TIMEOUT_S)
            await asyncio.wait_for(asyncio.wrap_future(future), START_TIMEOUT_S)
        except (ProcessExpired, RuntimeError, OSError, TimeoutError) as error:
            raise ModelUnready(f"The decode workers do not start: {error}") from error

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Room for one input in this replica: take it before fetching the bytes that `run` will get."""
        async with self._slots:
            yield

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """The function's value or the `ServiceError` it raised, from a worker process; call it inside `slot()`.

        Raises `ImageTooCostly` past the time or memory limit, `ImageUndecodable` when the worker crashed twice,
        `ModelRejected` on any other exception, `ModelUnready` when the pool itself broke (a new one takes over).
        """
        deaths = 0
        while True:
            pool = self._pool
            try:
                future = pool.schedule(_guarded, args=(function, args), timeout=self._deadline_s)
                return cast("T", await asyncio.wrap_future(future))
            except TimeoutError as error:
                raise ImageTooCostly(f"Reading this input took longer than {self._deadline_s:g} s.") from error
            except MemoryError as error:
                raise ImageTooCostly(f"Reading this input took more than {self._memory_mib} MiB.") from error
            except ProcessExpired as error:
                deaths += 1
                if deaths > DEATHS_ALLOWED:
                    raise _death(error) from error
            except RuntimeError as error:
                await self._replace(pool)
                raise ModelUnready("The decode workers broke and were started again.") from error

    async def _replace(self, broken: ProcessPool) -> None:
        if self._pool is broken:  # the first of its callers to notice
            self._pool = self._make()
            await asyncio.to_thread(_end, broken)

    async def close(self) -> None:
        """End the workers; running calls are dropped."""
        await asyncio.to_thread(_end, self._pool)


def _end(pool: ProcessPool) -> None:
    pool.stop()  # type: ignore[no-untyped-call]
    pool.join()


def _death(error: ProcessExpired) -> ImageTooCostly | ImageUndecodable:
    if error.exitcode == -signal.SIGKILL:
        return ImageTooCostly("The system ended the decoder while it read this input, twice.")
    return ImageUndecodable("The decoder crashed on this input, twice.")


def _guarded(function: Callable[..., T], args: tuple[object, ...]) -> T:
    """Runs in the worker: lets out only exceptions that can be sent; one that cannot would break the whole pool."""
    try:
        return function(*args)
    except (ServiceError, MemoryError):
        raise
    except Exception as error:
        log.exception("an input could not be prepared")
        raise ModelRejected(f"This input could not be prepared: {type(error).__name__}.") from None


def _prepare_worker(module: str, memory_bytes: int, prepare: Callable[[], object] | None) -> None:
    """Runs first in every worker: import what it needs, then live below the limits and no longer than the replica."""
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


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
