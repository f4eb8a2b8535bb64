"""Lists page by page: whatever was made in one step, each entry comes exactly once, the newest first."""

from __future__ import annotations

import random
import uuid
from collections.abc import Sequence
from itertools import pairwise

import pytest
from job_help import MODEL, claimed, submission
from redis.asyncio import Redis

from serve_app.contracts import Failure, Job, JobStatus
from serve_app.jobs.batches import BatchStore, NewBatch, NewItem
from serve_app.jobs.limits import RECORD_VERSION
from serve_app.jobs.records import PageEnd
from serve_app.jobs.store import JobStore
from serve_app.settings import Settings

OWNER = "ann"


async def accept_batch(batches: BatchStore, size: int) -> NewBatch:
    items = tuple(NewItem(f"{place}.png", {"n": place}, job_id=str(uuid.uuid4())) for place in range(size))
    batch = NewBatch(str(uuid.uuid4()), OWNER, MODEL, items)
    await batches.accept(batch)
    return batch


async def listed(job_store: JobStore, limits: Sequence[int], status: JobStatus | None = None) -> list[Job]:
    """All pages of the owner's jobs; the limits take turns."""
    jobs: list[Job] = []
    end, pages = None, 0
    while pages == 0 or end is not None:
        limit = limits[pages % len(limits)]
        page = await job_store.page(OWNER, limit=limit, after=end, status=status)
        assert len(page.jobs) <= limit
        jobs += page.jobs
        end, pages = page.end, pages + 1
        assert pages < 1000
    return jobs


@pytest.mark.parametrize("seed", range(12))
async def test_every_job_is_listed_exactly_once_whichever_came_alone_or_in_a_batch(
    redis: Redis, settings: Settings, seed: int
) -> None:
    chance = random.Random(seed)
    job_store = JobStore(redis, settings)
    batches = BatchStore(job_store)
    made: list[set[str]] = []
    for _ in range(chance.randint(1, 12)):
        if chance.random() < 0.5:
            made.append({(await job_store.submit(submission(OWNER))).id})
        else:
            made.append({item.job_id for item in (await accept_batch(batches, chance.randint(1, 40))).items})
    every = set().union(*made)
    failed = (await claimed(job_store, chance.randint(1, 30))).tasks
    await job_store.fail([(task, Failure("model-rejected", "No.")) for task in failed])
    limits = [chance.choice((1, 2, 3, 7, 50)) for _ in range(3)]
    ids = [job.id for job in await listed(job_store, limits)]
    assert len(ids) == len(every)
    assert set(ids) == every
    age = {job_id: place for place, step in enumerate(made) for job_id in step}
    assert all(age[newer] >= age[older] for newer, older in pairwise(ids))
    assert {job.id for job in await listed(job_store, limits, JobStatus.FAILED)} == {task.job_id for task in failed}


async def test_a_page_goes_on_behind_a_job_that_was_removed_meanwhile(redis: Redis, settings: Settings) -> None:
    job_store = JobStore(redis, settings)
    batch = await accept_batch(BatchStore(JobStore(redis, settings)), 9)
    await job_store.complete([(task, {}) for task in (await claimed(job_store)).tasks])
    first = await job_store.page(OWNER, limit=4)
    assert first.end is not None
    await job_store.remove(first.end.id, OWNER)
    second = await job_store.page(OWNER, limit=9, after=first.end)
    assert second.end is None
    seen = [job.id for job in (*first.jobs, *second.jobs)]
    assert sorted(seen) == sorted(item.job_id for item in batch.items)


async def test_batches_of_one_moment_are_all_listed(redis: Redis, settings: Settings) -> None:
    """The clock of a machine may stand still or go back."""
    batches = BatchStore(JobStore(redis, settings))
    ids = {(await accept_batch(batches, 1)).id for _ in range(7)}
    await redis.zadd(f"batches:{OWNER}", dict.fromkeys(ids, 1_795_000_000_000_000))
    found: list[str] = []
    end: PageEnd | None = None
    for size in (3, 3, 1):
        page = await batches.page(OWNER, limit=3, after=end)
        assert len(page.batches) == size
        found += [batch.id for batch in page.batches]
        end = page.end
    assert end is None
    assert sorted(found) == sorted(ids)


async def test_dead_jobs_of_a_newer_release_end_no_list_early(redis: Redis, settings: Settings) -> None:
    """What cannot be shown, or is gone, is left out; the older ones behind it are listed all the same."""
    job_store = JobStore(redis, settings)
    jobs = [(await job_store.submit(submission(OWNER))).id for _ in range(6)]
    await redis.zadd(f"dead:{MODEL}", {job_id: 1000 + place for place, job_id in enumerate(jobs)})
    await redis.hset(f"job:{jobs[5]}", "v", RECORD_VERSION + 1)
    await redis.hset(f"job:{jobs[3]}", "v", RECORD_VERSION + 1)
    await redis.delete(f"job:{jobs[2]}")
    found: list[str] = []
    end, sizes = None, []
    while not sizes or end is not None:
        page, end = await job_store.dead_page([MODEL], 2, end)
        found += [job.id for job in page]
        sizes.append(len(page))
    assert (found, sizes) == ([jobs[4], jobs[1], jobs[0]], [1, 0, 2])
    await redis.flushall()
