"""Sends waiting jobs of one model to its replicas, chunk by chunk, and continues after every failure."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial

from serve_app.connections import end_tasks
from serve_app.contracts import Failure, ModelCard, ModelHandle, Outcome, Task
from serve_app.errors import CapacityError, ModelUnready, ReplicaLost, ServiceError
from serve_app.jobs import limits
from serve_app.jobs.breaker import Breaker
from serve_app.jobs.records import Chunk
from serve_app.jobs.store import JobStore

POLL_S = 1.0
"""Interval of looking for jobs without a wake message, which may get lost; an expired lease sends none."""
WARM_UP_S = 120.0
"""Deadline of a warm-up: long enough for a replica that has to be started first."""
ATTEMPT_S = 600.0
"""Deadline of a chunk: the slowest chunks of a full replica, one after the other. A dead replica is noticed long
before."""
CLOSE_S = 10.0
"""How long chunks that a replica holds may take during a shutdown. Giving back the rest takes a little longer; all of
it ends before Serve kills the replica after 40 s."""

FINISH_S = 60.0
"""How long finished work is kept while Redis is down. Then its leases expire and the jobs run again."""
RETRY_S = 0.3
GIVE_BACK_S = 2.0

logger = logging.getLogger(__name__)


class Dispatcher:
    """One per model and gateway process. `run` it in a task; `close` it before that task is cancelled.

    `version` is the model version that this release was built for: jobs go to no other. `attempt_s` is the deadline of
    one chunk, from call to answer.
    """

    def __init__(
        self,
        store: JobStore,
        handle: ModelHandle,
        card: ModelCard,
        *,
        version: str,
        attempt_s: float = ATTEMPT_S,
    ) -> None:
        self._store = store
        self._handle = handle
        self._card = card
        self._version = version
        self._attempt_s = attempt_s
        self._breaker = Breaker()
        self._trouble: str | None = None
        self._closing = asyncio.Event()
        self._claiming = asyncio.Lock()
        self._chunks: set[asyncio.Task[None]] = set()

    @property
    def state(self) -> str:
        """`ready`, `waiting` (a warm-up is due or under way), `breaker: <why>`, or `tracker: <why>`."""
        if self._trouble:
            return f"tracker: {self._trouble}"
        if self._breaker.closed:
            return "ready"
        return f"breaker: {self._breaker.reason}" if self._breaker.reason else "waiting"

    async def run(self) -> None:
        """Dispatch until closed or cancelled. No failure ends it."""
        async with self._store.messages.wake(self._card.name) as woken:
            while not self._closing.is_set():
                try:
                    await (self._dispatch(woken) if self._breaker.closed else self._probe(woken))
                    self._trouble = None
                except Exception as error:
                    self._trouble = error.detail if isinstance(error, ServiceError) else repr(error)
                    logger.warning("The dispatcher of %s goes on after: %r", self._card.name, error)
                    await self._pause(POLL_S * random.uniform(0.5, 1.5))

    def drain(self) -> None:
        """Claim no more jobs, and give back at once those that no replica has received."""
        self._closing.set()
        self._handle.drain()

    async def close(self, seconds: float = CLOSE_S) -> None:
        """Drain, wait that long for the chunks that replicas hold, then give back the rest."""
        self.drain()
        async with self._claiming:
            chunks = set(self._chunks)
        if chunks:
            _, late = await asyncio.wait(chunks, timeout=seconds)
            for chunk in late:
                chunk.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _dispatch(self, woken: asyncio.Event) -> None:
        woken.clear()
        while self._breaker.closed and await self._claim():
            pass
        await _rest(woken)
        if self._card.wakes_from_zero and not await self._store.replicas(self._card.name):
            self._breaker.require_warm_up()

    async def _claim(self) -> bool:
        async with self._claiming:  # so that close() sees the chunk of a running claim
            if self._closing.is_set():
                return False
            chunk = await self._store.claim(
                self._card.name,
                limit=self._card.max_batch_size,
                max_bytes=limits.MAX_CHUNK_BYTES,
                max_pixels=limits.MAX_CHUNK_PIXELS,
                chunks_per_replica=self._card.chunks_per_replica,
            )
            if chunk is None:
                return False
            task = asyncio.create_task(self._attempt(chunk))
            self._chunks.add(task)
            task.add_done_callback(self._chunks.discard)
            return True

    async def _attempt(self, chunk: Chunk) -> None:
        try:
            await attempt(self._store, self._handle, chunk, self._breaker, self._attempt_s)
        except Exception as error:  # log a bug, and do not repeat it in a tight loop
            logger.exception("A chunk of %s was left to its lease.", self._card.name)
            self._breaker.open(repr(error))

    async def _probe(self, woken: asyncio.Event) -> None:
        """Send a warm-up through the model, and trust the model again if it passes."""
        if await self._pause(self._breaker.delay):
            return
        woken.clear()
        if self._card.wakes_from_zero and not await self._has_jobs():
            return await _rest(woken)
        self._breaker.half_open()
        try:
            async with asyncio.timeout(WARM_UP_S):
                version = await self._handle.warm_up()
        except TimeoutError:
            self._open(f"The model did not warm up within {WARM_UP_S:g} s.")
        except Exception as error:
            self._open(str(error) or repr(error))
        else:
            if version == self._version:
                self._breaker.close()
            else:
                self._open(f"The model runs version {version}; this release waits for {self._version}.")

    async def _has_jobs(self) -> bool:
        backlog = await self._store.backlog(self._card.name)
        return backlog.waiting + backlog.leased > 0

    def _open(self, reason: str) -> None:
        logger.warning("No jobs go to %s: %s", self._card.name, reason)
        self._breaker.open(reason)

    async def _pause(self, seconds: float) -> bool:
        """Wait for that long or until close() is called; True if it was called."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), seconds)
        return self._closing.is_set()


async def _rest(woken: asyncio.Event) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(woken.wait(), POLL_S)


async def attempt(store: JobStore, handle: ModelHandle, chunk: Chunk, breaker: Breaker, timeout_s: float) -> None:
    """Send the chunk, end its jobs and report the outcome to the breaker. On cancellation the jobs are given back."""
    renewing = asyncio.create_task(_renew(store, chunk))
    try:
        await _call(store, handle, chunk, breaker, timeout_s)
    except asyncio.CancelledError:
        async with asyncio.timeout(GIVE_BACK_S):
            await store.give_back(chunk.tasks)
        raise
    finally:
        await end_tasks([renewing])
        await _insist(lambda: store.close_chunk(chunk), GIVE_BACK_S)


async def _call(store: JobStore, handle: ModelHandle, chunk: Chunk, breaker: Breaker, timeout_s: float) -> None:
    """The breaker learns of a failure before the jobs wait again; otherwise they would run into the same failure at
    once."""
    try:
        async with asyncio.timeout(timeout_s):
            outcomes = await handle.predict(chunk.tasks)
        _check(chunk, outcomes)
    except (ReplicaLost, TimeoutError) as error:
        reason = str(error) or f"no answer within {timeout_s:g} s"
        logger.warning("A chunk of %d jobs of %s was lost: %s", len(chunk.tasks), chunk.model, reason)
        breaker.require_warm_up()
        suspects = isinstance(error, ReplicaLost) and error.hung
        await _insist(lambda: store.release_as_lost(chunk.tasks, reason, "suspects" if suspects else ""))
    except Exception as error:  # any other error is not the jobs' fault
        logger.warning("A chunk of %d jobs of %s goes back: %r", len(chunk.tasks), chunk.model, error)
        breaker.open(str(error) or repr(error))
        await _insist(lambda: store.give_back(chunk.tasks))
    else:
        breaker.succeed()
        await _finish(store, chunk, outcomes)


def _check(chunk: Chunk, outcomes: Sequence[Outcome]) -> None:
    if [outcome.job_id for outcome in outcomes] != [task.job_id for task in chunk.tasks]:
        raise ModelUnready("The model did not answer for the jobs that it was given.")
    if any((outcome.result is None) == (outcome.failure is None) for outcome in outcomes):
        raise ModelUnready("The model answered with neither a result nor a failure.")


async def _finish(store: JobStore, chunk: Chunk, outcomes: Sequence[Outcome]) -> None:
    pairs = list(zip(chunk.tasks, outcomes, strict=True))
    results = [(task, outcome.result) for task, outcome in pairs if outcome.result is not None]
    failures = [(task, outcome.failure) for task, outcome in pairs if outcome.failure and not outcome.transient]
    transient = [(task, outcome.failure) for task, outcome in pairs if outcome.failure and outcome.transient]
    await _insist(lambda: store.complete(results))
    await _insist(lambda: store.fail(failures))
    await _run_again(store, transient)


async def _run_again(store: JobStore, failures: Sequence[tuple[Task, Failure]]) -> None:
    """Return jobs whose failure may pass, after a pause in which their lease is renewed."""
    if failures:
        await asyncio.sleep(limits.TRANSIENT_PAUSE_S * random.uniform(1, 1.5))
    for task, failure in failures:
        await _insist(partial(store.release_as_lost, [task], failure.detail, "transient"))


async def _insist(change: Callable[[], Awaitable[object]], seconds: float = FINISH_S) -> None:
    """Repeat a change until Redis accepts it, for a limited time. Repeating it after a lost reply changes nothing."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                try:
                    await change()
                    return
                except CapacityError:
                    await asyncio.sleep(RETRY_S * random.uniform(0.5, 1.5))
    except TimeoutError:
        logger.error("The job tracker could not be reached for %g s; the jobs' leases end and they run again.", seconds)


async def _renew(store: JobStore, chunk: Chunk) -> None:
    """Renew the lease during the call; return when it holds no job any more.

    A renewal without a reply is repeated within the lease, on another connection: a command's own deadline may be as
    long as the lease.
    """
    term = store.lease_seconds / 3
    pause = term
    while True:
        await asyncio.sleep(pause)
        try:
            async with asyncio.timeout(term):
                if not await store.renew(chunk):
                    return
            pause = term
        except (CapacityError, TimeoutError):
            logger.debug("The lease of a chunk could not be renewed; trying again.")
            pause = min(term, RETRY_S)
