"""Promises of the desk, one by one, on a real server."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest
from job_help import MODEL, claimed, stored_image, submission
from redis.asyncio import Redis

from serve_app.contracts import Failure, JobStatus
from serve_app.errors import (
    InputGone,
    JobEnded,
    JobNotFinished,
    JobUnknown,
    QueueFull,
    RetryRefused,
    TrackerUnavailable,
)
from serve_app.jobs.records import Ledger
from serve_app.jobs.store import JobStore
from serve_app.settings import Settings


async def test_a_waiting_job_is_cancelled_and_leaves_the_queue(job_store: JobStore, redis: Redis) -> None:
    job = await job_store.submit(submission(stored=await stored_image(redis)))
    cancelled = await job_store.cancel(job.id, "ann")
    assert cancelled == replace(job, status=JobStatus.CANCELLED, completed_at=cancelled.completed_at)
    assert cancelled.completed_at is not None
    assert cancelled == await job_store.read(job.id, "ann") == await job_store.cancel(job.id, "ann")
    assert await job_store.ledger(MODEL) == Ledger(accepted=1, cancelled=1)
    assert not await redis.exists("blob:a", f"wait:{MODEL}:normal:ann", f"ring:{MODEL}:normal")
    assert int(await redis.get("held-bytes") or 0) == 0
    assert 0 < await redis.ttl(f"job:{job.id}") <= Settings().job_ttl
    [(_, event)] = await redis.xrange("outbox")
    assert (event[b"kind"], event[b"status"], event[b"slug"], event[b"run"]) == (b"outcome", b"CANCELLED", b"", b"1")


async def test_a_running_job_is_cancelled_and_its_siblings_go_on(job_store: JobStore, redis: Redis) -> None:
    mine, other = [await job_store.submit(submission()) for _ in range(2)]
    chunk = await claimed(job_store)
    assert (await job_store.cancel(mine.id, "ann")).status is JobStatus.CANCELLED
    cancelled, sibling = chunk.tasks
    assert await job_store.renew(chunk) == (sibling,)
    assert await job_store.complete([(cancelled, {"late": 1}), (sibling, {})]) == [False, True]
    assert await job_store.fail([(cancelled, Failure("input-lost", "gone"))]) == [False]
    assert await job_store.release_as_lost([cancelled], "late") == await job_store.give_back([cancelled]) == 0
    assert (await job_store.read(mine.id, "ann")).status is JobStatus.CANCELLED
    assert (await job_store.read(other.id, "ann")).status is JobStatus.COMPLETED
    assert await job_store.ledger(MODEL) == Ledger(accepted=2, cancelled=1, completed=1)


async def test_nobody_else_changes_a_job(job_store: JobStore, redis: Redis) -> None:
    job = await job_store.submit(submission("ann"))
    for job_id, owner in (
        (job.id, "bob"),
        (job.id.upper(), "ann"),
        ("no id", "ann"),
        ("*", "ann"),
        (job.id[:-1], "ann"),
    ):
        with pytest.raises(JobUnknown):
            await job_store.cancel(job_id, owner)
    assert await job_store.read(job.id, "ann") == job
    await redis.hset(f"job:{job.id}", "v", "99")
    with pytest.raises(TrackerUnavailable):
        await job_store.cancel(job.id, "ann")
    with pytest.raises(JobUnknown):
        await job_store.cancel(job.id, "bob")
    assert await redis.hget(f"job:{job.id}", "status") == b"PENDING"


async def test_of_cancel_and_complete_at_once_one_wins(job_store: JobStore) -> None:
    jobs = [await job_store.submit(submission()) for _ in range(40)]
    tasks = (await claimed(job_store)).tasks
    work = [job_store.complete([(task, {})]) for task in tasks] + [job_store.cancel(job.id, "ann") for job in jobs]
    replies = await asyncio.gather(*work[::2], *work[1::2], return_exceptions=True)
    assert all(isinstance(reply, JobEnded) for reply in replies if isinstance(reply, BaseException))
    ledger = await job_store.ledger(MODEL)
    assert (ledger.completed + ledger.cancelled, ledger.in_flight) == (40, 0)


async def test_a_failed_job_runs_again_with_its_input(job_store: JobStore, redis: Redis) -> None:
    stored = await stored_image(redis)
    job = await job_store.submit(submission(stored=stored))
    [task] = (await claimed(job_store)).tasks
    await job_store.fail([(task, Failure("model-rejected", "no"))])
    again = await job_store.retry(job.id, "ann")
    assert again == replace(job, run=2) == await job_store.read(job.id, "ann")
    assert await redis.ttl(f"job:{job.id}") == await redis.ttl("blob:a") == -1
    assert await job_store.ledger(MODEL) == Ledger(accepted=1, reopened=1, failed=1)
    assert int(await redis.get("held-bytes") or 0) == stored.bytes + len(json.dumps(job.params))
    assert await job_store.fail([(task, Failure("late", "zombie"))]) == [False]
    [task] = (await claimed(job_store)).tasks
    assert (task.job_id, task.input) == (job.id, stored)
    await job_store.complete([(task, {})])
    assert [event[b"run"] for _, event in await redis.xrange("outbox")] == [b"1", b"2"]
    for owner, error in (("ann", RetryRefused), ("bob", JobUnknown)):
        with pytest.raises(error):
            await job_store.retry(job.id, owner)


async def test_a_retry_needs_the_input_and_room(redis: Redis, settings: Settings) -> None:
    settings = settings.model_copy(update={"queue_max_jobs": 1})
    job_store = JobStore(redis, settings)
    job = await job_store.submit(submission(stored=await stored_image(redis)))
    await job_store.fail([((await claimed(job_store)).tasks[0], Failure("model-rejected", "no"))])
    other = await job_store.submit(submission())
    with pytest.raises(QueueFull):
        await job_store.retry(job.id, "ann")
    await job_store.cancel(other.id, "ann")
    await redis.delete("blob:a")
    before = await redis.hgetall(f"job:{job.id}")
    with pytest.raises(InputGone):
        await job_store.retry(job.id, "ann")
    assert await redis.hgetall(f"job:{job.id}") == before
    assert await job_store.ledger(MODEL) == Ledger(accepted=2, failed=1, cancelled=1)


async def test_an_ended_job_is_removed_whole(job_store: JobStore, redis: Redis) -> None:
    job = await job_store.submit(submission(stored=await stored_image(redis)))
    with pytest.raises(JobNotFinished):
        await job_store.remove(job.id, "ann")
    await job_store.fail([((await claimed(job_store)).tasks[0], Failure("model-rejected", "no"))])
    with pytest.raises(JobUnknown):
        await job_store.remove(job.id, "bob")
    assert not await job_store.removed([job.id])
    await job_store.remove(job.id, "ann")
    assert await job_store.removed([job.id])
    assert not await redis.exists(f"job:{job.id}", "blob:a", "jobs:ann")
    assert 0 < await redis.ttl(f"removed:{job.id}") <= 24 * 3600
    with pytest.raises(JobUnknown):
        await job_store.remove(job.id, "ann")
    assert await job_store.ledger(MODEL) == Ledger(accepted=1, failed=1)


async def test_a_dead_job_is_removed_from_the_dead_and_not_retried(
    redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.jobs.limits.MAX_DELIVERIES", 1)
    job_store = JobStore(redis, settings)
    job = await job_store.submit(submission(stored=await stored_image(redis)))
    await job_store.release_as_lost((await claimed(job_store)).tasks, "lost")
    with pytest.raises(RetryRefused):
        await job_store.retry(job.id, "ann")
    assert await redis.get(f"dead-bytes:{MODEL}") == b"10"
    await job_store.remove(job.id, "ann")
    assert not await redis.exists(f"dead:{MODEL}", f"job:{job.id}", "blob:a")
    assert await redis.get(f"dead-bytes:{MODEL}") == b"0"
