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
from serve_app.jobs.batches.batches import Batches
from serve_app.jobs.batches.records import NewBatch, NewItem
from serve_app.jobs.dead import DeadLetters
from serve_app.jobs.desk import Desk
from serve_app.jobs.limits import RECORD_VERSION
from serve_app.jobs.records import PageEnd
from serve_app.jobs.tracker import Tracker
from serve_app.settings import Settings

OWNER = "ann"


async def accept_batch(batches: Batches, size: int) -> NewBatch:
    items = tuple(NewItem(f"{place}.png", {"n": place}, job_id=str(uuid.uuid4())) for place in range(size))
    batch = NewBatch(str(uuid.uuid4()), OWNER, MODEL, items)
    await batches.accept(batch)
    return batch


async def listed(desk: Desk, limits: Sequence[int], status: JobStatus | None = None) -> list[Job]:
    """All pages of the owner's jobs; the limits take turns."""
    jobs: list[Job] = []
    end, pages = None, 0
    while pages == 0 or end is not None:
        limit = limits[pages % len(limits)]
        page = await desk.page(OWNER, limit=limit, after=end, status=status)
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
    tracker, desk, batches = Tracker(redis, settings), Desk(redis, settings), Batches(redis, settings)
    made: list[set[str]] = []
    for _ in range(chance.randint(1, 12)):
        if chance.random() < 0.5:
            made.append({(await tracker.submit(submission(OWNER))).id})
        else:
            made.append({item.job_id for item in (await accept_batch(batches, chance.randint(1, 40))).items})
    every = set().union(*made)
    failed = (await claimed(tracker, chance.randint(1, 30))).tasks
    await tracker.fail([(task, Failure("model-rejected", "No.")) for task in failed])
    limits = [chance.choice((1, 2, 3, 7, 50)) for _ in range(3)]
    ids = [job.id for job in await listed(desk, limits)]
    assert len(ids) == len(every)
    assert set(ids) == every
    age = {job_id: place for place, step in enumerate(made) for job_id in step}
    assert all(age[newer] >= age[older] for newer, older in pairwise(ids))
    assert {job.id for job in await listed(desk, limits, JobStatus.FAILED)} == {task.job_id for task in failed}


async def test_a_page_goes_on_behind_a_job_that_was_removed_meanwhile(redis: Redis, settings: Settings) -> None:
    tracker, desk = Tracker(redis, settings), Desk(redis, settings)
    batch = await accept_batch(Batches(redis, settings), 9)
    await tracker.complete([(task, {}) for task in (await claimed(tracker)).tasks])
    first = await desk.page(OWNER, limit=4)
    assert first.end is not None
    await desk.remove(first.end.id, OWNER)
    second = await desk.page(OWNER, limit=9, after=first.end)
    assert second.end is None
    seen = [job.id for job in (*first.jobs, *second.jobs)]
    assert sorted(seen) == sorted(item.job_id for item in batch.items)


async def test_batches_of_one_moment_are_all_listed(redis: Redis, settings: Settings) -> None:
    """The clock of a machine may stand still or go back."""
    batches = Batches(redis, settings)
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
    tracker, letters = Tracker(redis, settings), DeadLetters(redis, settings)
    jobs = [(await tracker.submit(submission(OWNER))).id for _ in range(6)]
    await redis.zadd(f"dead:{MODEL}", {job_id: 1000 + place for place, job_id in enumerate(jobs)})
    await redis.hset(f"job:{jobs[5]}", "v", RECORD_VERSION + 1)
    await redis.hset(f"job:{jobs[3]}", "v", RECORD_VERSION + 1)
    await redis.delete(f"job:{jobs[2]}")
    found: list[str] = []
    end, sizes = None, []
    while not sizes or end is not None:
        page, end = await letters.page([MODEL], 2, end)
        found += [job.id for job in page]
        sizes.append(len(page))
    assert (found, sizes) == ([jobs[4], jobs[1], jobs[0]], [1, 0, 2])
    await redis.flushall()
