"""Two releases side by side on one Redis: each works its jobs, and only the newer one reads the other's."""

from __future__ import annotations

import asyncio
import json
import time
import uuid

import pytest
from job_help import MODEL, VERSION, StubModel, card, claim, claimed, submission
from redis.asyncio import Redis
from waiting import until

from serve_app.contracts import Failure, JobStatus, Task
from serve_app.errors import TrackerUnavailable
from serve_app.jobs import limits
from serve_app.jobs.batches import BatchStore, NewBatch, NewItem
from serve_app.jobs.dispatcher import Dispatcher
from serve_app.jobs.store import JobStore
from serve_app.settings import Settings


@pytest.fixture
def older(redis: Redis, settings: Settings) -> JobStore:
    return JobStore(redis, settings)


@pytest.fixture
def newer(redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> JobStore:
    """The tracker of a release whose records this one cannot read."""
    with monkeypatch.context() as release:
        release.setattr(limits, "RECORD_VERSION", limits.RECORD_VERSION + 1)
        release.setattr(limits, "PLAIN_VERSION", limits.RECORD_VERSION)
        return JobStore(redis, settings)


async def test_a_newer_release_works_the_jobs_of_an_older_one(older: JobStore, newer: JobStore) -> None:
    jobs = [await older.submit(submission(params={"n": n})) for n in range(3)]
    finished, failed, lost = (await claimed(newer)).tasks
    assert [job.id for job in jobs] == [finished.job_id, failed.job_id, lost.job_id]
    assert await newer.complete([(finished, {"double": 0})]) == [True]
    assert await newer.fail([(failed, Failure("model-rejected", "no"))]) == [True]
    assert await newer.release_as_lost([lost], "the replica was lost") == 1
    read = [await older.read(job.id, job.owner) for job in jobs]
    assert [job.status for job in read] == [JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.PENDING]


async def test_an_older_release_leaves_a_newer_job_alone(older: JobStore, newer: JobStore, redis: Redis) -> None:
    job = await newer.submit(submission())
    assert await claim(older) is None
    [task] = (await claimed(newer)).tasks
    before = await redis.hgetall(f"job:{job.id}")

    await redis.zadd(f"lease:{MODEL}", {job.id: 1})  # the lease ran out: an older release must not take it back
    assert await claim(older) is None
    assert await older.complete([(task, {"double": 2})]) == [False]
    assert await older.fail([(task, Failure("model-rejected", "no"))]) == [False]
    assert await older.give_back([task]) == await older.release_as_lost([task], "lost") == 0
    assert not await older.start_alone(Task(task.job_id, task.token, {}, None))
    with pytest.raises(TrackerUnavailable, match="newer release"):
        await older.read(job.id, job.owner)
    assert await redis.hgetall(f"job:{job.id}") == before

    await redis.zadd(f"lease:{MODEL}", {job.id: 1})
    assert [again.job_id for again in (await claimed(newer)).tasks] == [job.id]


async def test_both_at_work_end_every_job_and_the_older_sees_no_newer_one(
    older: JobStore, newer: JobStore, redis: Redis
) -> None:
    jobs = [await job_store.submit(submission(params={"n": n})) for n in range(100) for job_store in (older, newer)]
    theirs = {job.id for job in jobs[1::2]}
    models = StubModel(), StubModel()
    dispatchers = [
        Dispatcher(job_store, model, card(), version=VERSION)
        for job_store, model in zip((older, newer), models, strict=True)
    ]
    tasks = [asyncio.create_task(dispatcher.run()) for dispatcher in dispatchers]
    await until(lambda: older.ledger(MODEL), 30, fits=lambda found: found.in_flight == 0)
    await asyncio.gather(*(dispatcher.close() for dispatcher in dispatchers))
    await asyncio.gather(*tasks)
    results = [json.loads(await redis.hget(f"job:{job.id}", "result")) for job in jobs]
    assert results == [{"double": 2 * job.params["n"]} for job in jobs]
    assert not theirs & {task.job_id for chunk in models[0].calls for task in chunk}
    assert {task.job_id for model in models for chunk in model.calls for task in chunk} == {job.id for job in jobs}


async def test_newer_jobs_in_front_do_not_hold_up_an_older_release(older: JobStore, newer: JobStore) -> None:
    for _ in range(300):
        await newer.submit(submission())
    mine = await older.submit(submission())
    found: list[str] = []
    deadline = time.monotonic() + 10
    while not found and time.monotonic() < deadline:
        chunk = await claim(older, 8)
        found = [task.job_id for task in chunk.tasks] if chunk else []
    assert found == [mine.id]


async def test_a_release_without_batches_leaves_their_items_to_this_one(
    redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would end a job and not tell its batch, which would stay open for ever."""
    with monkeypatch.context() as release:
        release.setattr(limits, "RECORD_VERSION", 1)
        before_batches = JobStore(redis, settings)
    batches, now = BatchStore(JobStore(redis, settings)), JobStore(redis, settings)
    items = (NewItem("a", {"n": 1}, job_id=str(uuid.uuid4())),)
    batch_id = await batches.accept(NewBatch(str(uuid.uuid4()), "ann", MODEL, items))
    alone = await now.submit(submission())
    assert [task.job_id for task in (await claimed(before_batches)).tasks] == [alone.id]
    assert await claim(before_batches) is None
    [task] = (await claimed(now)).tasks
    await now.complete([(task, {"double": 2})])
    assert (await batches.read(batch_id, "ann")).batch.open == 0
