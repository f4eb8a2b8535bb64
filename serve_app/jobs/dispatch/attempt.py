"""One chunk's way through the model: call, renew meanwhile, and settle every job of it, whatever happens."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence

from serve_app.connections import end_tasks
from serve_app.contracts import ModelHandle, Outcome
from serve_app.errors import CapacityError, ModelUnready, ReplicaLost
from serve_app.jobs.dispatch.breaker import Breaker
from serve_app.jobs.records import Chunk
from serve_app.jobs.tracker import Tracker

SETTLE_S = 60.0
"""How long finished work is kept for a Redis that is away. Beyond it the jobs run again."""
RETRY_S = 0.3
GIVE_BACK_S = 2.0

logger = logging.getLogger(__name__)


async def attempt(tracker: Tracker, handle: ModelHandle, chunk: Chunk, breaker: Breaker, timeout_s: float) -> None:
    """Send the chunk, settle its jobs and tell the breaker how it went. On cancellation the jobs are given back."""
    renewing = asyncio.create_task(_renew(tracker, chunk))
    try:
        await _call(tracker, handle, chunk, breaker, timeout_s)
    except asyncio.CancelledError:
        async with asyncio.timeout(GIVE_BACK_S):
            await tracker.give_back(chunk.tasks)
        raise
    finally:
        await end_tasks([renewing])
        await _insist(lambda: tracker.close_chunk(chunk), GIVE_BACK_S)


async def _call(tracker: Tracker, handle: ModelHandle, chunk: Chunk, breaker: Breaker, timeout_s: float) -> None:
    """The breaker hears of a failure before the jobs wait again, or they would go out to the same failure at once."""
    try:
        async with asyncio.timeout(timeout_s):
            outcomes = await handle.predict(chunk.tasks)
        _check(chunk, outcomes)
    except (ReplicaLost, TimeoutError) as error:
        reason = str(error) or f"no answer within {timeout_s:g} s"
        logger.warning("A chunk of %d jobs of %s was lost: %s", len(chunk.tasks), chunk.model, reason)
        breaker.doubt()
        suspects = isinstance(error, ReplicaLost) and error.hung
        await _insist(lambda: tracker.lose(chunk.tasks, reason, suspects=suspects))
    except Exception as error:  # whatever it was, it was not the jobs' fault
        logger.warning("A chunk of %d jobs of %s goes back: %r", len(chunk.tasks), chunk.model, error)
        breaker.open(str(error) or repr(error))
        await _insist(lambda: tracker.give_back(chunk.tasks))
    else:
        breaker.succeed()
        await _settle(tracker, chunk, outcomes)


def _check(chunk: Chunk, outcomes: Sequence[Outcome]) -> None:
    if [outcome.job_id for outcome in outcomes] != [task.job_id for task in chunk.tasks]:
        raise ModelUnready("The model did not answer for the jobs that it was given.")
    if any((outcome.result is None) == (outcome.failure is None) for outcome in outcomes):
        raise ModelUnready("The model answered with neither a result nor a failure.")


async def _settle(tracker: Tracker, chunk: Chunk, outcomes: Sequence[Outcome]) -> None:
    pairs = list(zip(chunk.tasks, outcomes, strict=True))
    results = [(task, outcome.result) for task, outcome in pairs if outcome.result is not None]
    failures = [(task, outcome.failure) for task, outcome in pairs if outcome.failure is not None]
    await _insist(lambda: tracker.complete(results))
    await _insist(lambda: tracker.fail(failures))


async def _insist(change: Callable[[], Awaitable[object]], seconds: float = SETTLE_S) -> None:
    """Try a change until Redis takes it, for a bounded time. Repeated after a lost answer, it does nothing."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                try:
                    await change()
                    return
                except CapacityError:
                    await asyncio.sleep(RETRY_S * random.uniform(0.5, 1.5))
    except TimeoutError:
        logger.error("The job tracker was away for %g s; the jobs' leases end and they run again.", seconds)


async def _renew(tracker: Tracker, chunk: Chunk) -> None:
    """Hold the lease while the call runs; end when no job of it is ours any more.

    A renewal that gets no answer is repeated within the lease, on another connection: a command's own deadline may be
    as long as the lease.
    """
    term = tracker.lease_seconds / 3
    pause = term
    while True:
        await asyncio.sleep(pause)
        try:
            async with asyncio.timeout(term):
                if not await tracker.renew(chunk):
                    return
            pause = term
        except (CapacityError, TimeoutError):
            logger.debug("The lease of a chunk could not be renewed; trying again.")
            pause = min(term, RETRY_S)
