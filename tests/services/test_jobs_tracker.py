"""Promises of the tracker, one by one, on a real server."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from job_help import MODEL, claim, claim_one, claimed, submission
from pydantic import SecretStr
from redis.asyncio import Redis

from serve_app.connections import connect_redis
from serve_app.contracts import Failure, Job, JobInput, JobStatus, Priority, ReplicaCard, Task
from serve_app.errors import (
    InternalError,
    JobUnknown,
    QueueFull,
    RetryRefused,
    StoreFull,
    StoreUnavailable,
    TrackerUnavailable,
)
from serve_app.jobs.desk import Desk
from serve_app.jobs.limits import (
    IDEMPOTENCY_SWEEP,
    MAX_DELIVERIES,
    MAX_STRIKES,
    RESULT_MAX_BYTES,
    SUSPECT_AFTER,
)
from serve_app.jobs.records import Idempotency
from serve_app.jobs.tracker import Tracker, refused
from serve_app.local.valkey import Valkey
from serve_app.settings import Settings


async def store(redis: Redis, reference: str, size: int = 10, pixels: int = 10) -> JobInput:
    await redis.set(reference, b"x" * size, ex=900)
    return JobInput(reference, size, pixels, "image/png")


async def expire(redis: Redis, *tasks: Task) -> None:
    await redis.zadd(f"lease:{MODEL}", {task.job_id: 1 for task in tasks})


async def suspect(tracker: Tracker, owner: str = "ann") -> tuple[Job, Task]:
    """A job that was lost often enough to run alone from now on, claimed."""
    job = await tracker.submit(submission(owner))
    for _ in range(SUSPECT_AFTER):
        await tracker.lose((await claimed(tracker, 1)).tasks, "the replica was lost")
    return job, (await claimed(tracker, 1)).tasks[0]


async def test_a_job_lives_from_submit_to_result(tracker: Tracker, redis: Redis) -> None:
    stored = await store(redis, "blob:a")
    job = await tracker.submit(submission("ann", stored=stored, params={"top": 3}, traceparent="00-1-2-03"))
    assert await tracker.read(job.id, "ann") == job
    assert await redis.ttl("blob:a") == -1
    chunk = await claimed(tracker)
    assert chunk.tasks == (Task(job.id, chunk.token, {"top": 3}, stored, traceparent="00-1-2-03"),)
    running = await tracker.read(job.id, "ann")
    assert (running.status, running.deliveries) == (JobStatus.PROCESSING, 1)
    assert await tracker.complete([(chunk.tasks[0], {"label": "Tips", "µ": "ü"})]) == [True]
    done = await tracker.read(job.id, "ann")
    assert (done.status, done.result) == (JobStatus.COMPLETED, {"label": "Tips", "µ": "ü"})
    assert done.started_at is not None
    assert done.completed_at is not None
    assert done.submitted_at <= done.started_at <= done.completed_at
    assert not await redis.exists("blob:a")


async def test_the_end_of_a_job_is_told_once(tracker: Tracker, redis: Redis) -> None:
    job = await tracker.submit(submission("ann"))
    [task] = (await claimed(tracker)).tasks
    await tracker.fail([(task, Failure("model-rejected", "too dark"))])
    await tracker.complete([(task, {})])
    [(_, event)] = await redis.xrange("outbox")
    ended = await tracker.read(job.id, "ann")
    assert {name.decode(): value.decode() for name, value in event.items()} == {
        "kind": "outcome",
        "job_id": job.id,
        "run": "1",
        "owner": "ann",
        "model": MODEL,
        "status": "FAILED",
        "dead": "0",
        "slug": "model-rejected",
        "detail": "too dark",
        "result": "",
        "deliveries": "1",
        "submitted_at": str(ended.submitted_at),
        "started_at": str(ended.started_at),
        "completed_at": str(ended.completed_at),
    }


@pytest.mark.parametrize("job_id", ["", "x", "0" * 36, "../ledger", "*", "a" * 10_000, "é", "job\n"])
async def test_a_malformed_id_is_unknown(tracker: Tracker, job_id: str) -> None:
    with pytest.raises(JobUnknown):
        await tracker.read(job_id, "ann")


async def test_a_submit_that_is_repeated_makes_one_job(tracker: Tracker) -> None:
    first = submission("ann")
    assert await tracker.submit(first) == await tracker.submit(first)
    assert (await tracker.ledger(MODEL)).accepted == 1
    with pytest.raises(JobUnknown):
        await tracker.submit(replace(first, owner="bob"))


async def test_an_input_that_is_gone_is_not_accepted(tracker: Tracker, redis: Redis) -> None:
    with pytest.raises(StoreUnavailable):
        await tracker.submit(submission(stored=JobInput("blob:gone", 1, 1, "image/png")))
    assert await redis.dbsize() == 0


def test_a_reply_that_nobody_knows_is_a_defect_of_ours_and_no_deadline() -> None:
    assert isinstance(refused([b"input"]), StoreUnavailable)
    assert isinstance(refused([b"surprise"]), InternalError)


async def test_a_job_dies_also_where_the_bytes_of_the_dead_were_miscounted(tracker: Tracker, redis: Redis) -> None:
    """An error there would undo nothing of what the script had done, and the job would never be taken back."""
    await redis.set(f"dead-bytes:{MODEL}", 10**15)
    job = await tracker.submit(submission())
    await redis.hset(f"job:{job.id}", "deliveries", MAX_DELIVERIES - 1)
    assert await tracker.lose((await claimed(tracker)).tasks, "the replica was killed") == 1
    ended = await tracker.read(job.id, "ann")
    assert (ended.status, ended.failure and ended.failure.slug) == (JobStatus.FAILED, "job-dead")
    assert await redis.get(f"dead-bytes:{MODEL}") is None
    assert (await tracker.ledger(MODEL)).dead == 1


@pytest.mark.usefixtures("own_keys")
@pytest.mark.parametrize("status", sorted(set(JobStatus) - {JobStatus.PENDING}))
async def test_what_stands_among_the_waiting_by_mistake_is_not_begun(
    tracker: Tracker, redis: Redis, status: JobStatus
) -> None:
    wrong, right = [await tracker.submit(submission()) for _ in range(2)]
    await redis.hset(f"job:{wrong.id}", "status", status)
    assert [task.job_id for task in (await claimed(tracker)).tasks] == [right.id]
    assert await redis.hget(f"job:{wrong.id}", "status") == status.encode()
    assert await redis.zscore(f"wait:{MODEL}:normal:ann", wrong.id) is None


@pytest.mark.usefixtures("own_keys")
@pytest.mark.parametrize("status", sorted(set(JobStatus) - {JobStatus.PROCESSING}))
async def test_a_lease_that_ran_out_changes_only_a_job_that_runs(
    tracker: Tracker, redis: Redis, status: JobStatus
) -> None:
    job = await tracker.submit(submission())
    await claimed(tracker)
    await redis.hset(f"job:{job.id}", "status", status)
    await redis.zadd(f"lease:{MODEL}", {job.id: 1})
    assert await claim(tracker) is None
    assert await redis.hget(f"job:{job.id}", "status") == status.encode()
    assert await redis.zcard(f"lease:{MODEL}") == 0


async def test_the_queue_is_bounded_by_count(redis: Redis, settings: Settings) -> None:
    tracker = Tracker(redis, settings.model_copy(update={"queue_max_jobs": 3}))
    refused = await asyncio.gather(*(tracker.submit(submission()) for _ in range(8)), return_exceptions=True)
    errors = [error for error in refused if isinstance(error, QueueFull)]
    assert len(errors) == 5
    assert all(error.retry_after for error in errors)
    await tracker.complete([((await claimed(tracker, 1)).tasks[0], {})])
    await tracker.submit(submission())
    await tracker.submit(submission(model="another"))


async def test_the_queue_is_bounded_by_bytes_of_all_models(redis: Redis, settings: Settings) -> None:
    tracker = Tracker(redis, settings.model_copy(update={"queue_max_bytes": 100}))
    await tracker.submit(submission(stored=await store(redis, "blob:a", 60)))
    with pytest.raises(QueueFull):
        await tracker.submit(submission(model="another", stored=await store(redis, "blob:b", 60)))
    assert await redis.ttl("blob:b") > 0
    await tracker.complete([((await claimed(tracker)).tasks[0], {})])
    await tracker.submit(submission(model="another", stored=await store(redis, "blob:b", 60)))


async def test_parameters_weigh_on_the_queue_until_their_job_ends(redis: Redis, settings: Settings) -> None:
    tracker = Tracker(redis, settings.model_copy(update={"queue_max_bytes": 150}))
    stored, params = await store(redis, "blob:a", 60), {"text": "x" * 40}
    await tracker.submit(submission(stored=stored, params=params))
    assert int(await redis.get("held-bytes") or 0) == 60 + len(json.dumps(params))
    with pytest.raises(QueueFull):
        await tracker.submit(submission(params=params))
    await tracker.complete([((await claimed(tracker)).tasks[0], {})])
    assert int(await redis.get("held-bytes") or 0) == 0


async def test_one_job_behind_ten_thousand_is_in_the_next_chunk(redis: Redis, settings: Settings) -> None:
    tracker = Tracker(redis, settings.model_copy(update={"queue_max_jobs": 10_001}))
    for _ in range(100):
        await asyncio.gather(*(tracker.submit(submission("greedy")) for _ in range(100)))
    assert (await tracker.queue(MODEL)).waiting == 10_000
    single = await tracker.submit(submission("modest"))
    assert single.id in [task.job_id for task in (await claimed(tracker, 4)).tasks]


async def test_an_owner_is_served_in_order_and_a_given_back_job_keeps_its_place(tracker: Tracker) -> None:
    jobs = [(await tracker.submit(submission())).id for _ in range(6)]
    first = await claimed(tracker, 3)
    assert [task.job_id for task in first.tasks] == jobs[:3]
    assert await tracker.give_back(first.tasks) == 3
    again = await claimed(tracker, 6)
    assert [task.job_id for task in again.tasks] == jobs
    assert (await tracker.read(jobs[0], "ann")).deliveries == 1


async def test_an_earlier_class_goes_first(tracker: Tracker) -> None:
    bulk = await tracker.submit(submission(priority=Priority.BULK))
    normal = await tracker.submit(submission(priority=Priority.NORMAL))
    assert [task.job_id for task in (await claimed(tracker)).tasks] == [normal.id, bulk.id]


@pytest.mark.parametrize("cap", ["max_bytes", "max_pixels"])
async def test_a_chunk_is_capped_by_size(tracker: Tracker, redis: Redis, cap: str) -> None:
    for number in range(4):
        await tracker.submit(submission(stored=await store(redis, f"blob:{number}", 100, 100)))
    assert len((await claimed(tracker, 4, **{cap: 250})).tasks) == 2
    assert len((await claimed(tracker, 4, **{cap: 50})).tasks) == 1


async def test_all_claimers_together_stay_within_the_window(tracker: Tracker) -> None:
    for number in range(3):
        await tracker.beat(ReplicaCard(MODEL, f"r{number}", "v", "cpu", {"labels": ["a"]}))
    await asyncio.gather(*(tracker.submit(submission()) for _ in range(100)))
    chunks = await asyncio.gather(*(claim_one(tracker, 2) for _ in range(60)))
    held = [chunk for chunk in chunks if chunk]
    assert len(held) == 6
    await tracker.close_chunk(held[0])
    assert await claim_one(tracker, 2)
    assert not await claim_one(tracker, 2)


async def test_a_deployment_without_replicas_gets_one_chunk_that_wakes_it(tracker: Tracker) -> None:
    for _ in range(3):
        await tracker.submit(submission())
    assert await claim_one(tracker, 4)
    assert not await claim_one(tracker, 4)


async def test_a_chunk_whose_claimer_is_gone_leaves_the_window(tracker: Tracker, redis: Redis) -> None:
    await tracker.submit(submission())
    chunk = await claim_one(tracker, 1)
    assert chunk
    await expire(redis, *chunk.tasks)
    assert not await claim_one(tracker, 1)
    await redis.zadd(f"chunks:{MODEL}", {chunk.token: 1})
    again = await claim_one(tracker, 1)
    assert again
    assert again.tasks[0].job_id == chunk.tasks[0].job_id
    assert (await tracker.read(chunk.tasks[0].job_id, "ann")).deliveries == 2


async def test_an_old_token_is_worth_nothing_but_finished_work_counts(tracker: Tracker, redis: Redis) -> None:
    job = await tracker.submit(submission())
    zombie = await claimed(tracker)
    await expire(redis, *zombie.tasks)
    await redis.zrem(f"chunks:{MODEL}", zombie.token)
    current = await claimed(tracker)
    assert await tracker.renew(zombie) == ()
    await tracker.close_chunk(zombie)
    assert await tracker.give_back(zombie.tasks) == 0
    assert await tracker.lose(zombie.tasks, "late") == 0
    assert await tracker.fail([(zombie.tasks[0], Failure("model-rejected", "late"))]) == [False]
    assert not await tracker.start_alone(zombie.tasks[0])
    assert await tracker.renew(current) == current.tasks
    assert await tracker.complete([(zombie.tasks[0], {"by": "zombie"})]) == [True]
    assert await tracker.complete([(current.tasks[0], {"by": "current"})]) == [False]
    assert (await tracker.read(job.id, "ann")).result == {"by": "zombie"}


async def test_jobs_of_a_forward_pass_that_hung_run_alone_at_their_first_loss_and_have_no_strike(
    tracker: Tracker,
) -> None:
    jobs = [await tracker.submit(submission("ann")) for _ in range(3)]
    assert await tracker.lose((await claimed(tracker, 8)).tasks, "A forward pass hung.", suspects=True) == 3
    for _ in jobs:
        [task] = (await claimed(tracker, 8)).tasks
        assert task.alone
    found = [await tracker.read(job.id, "ann") for job in jobs]
    assert [(job.deliveries, job.strikes) for job in found] == [(2, 0)] * 3


async def test_three_strikes_make_a_job_dead(tracker: Tracker, redis: Redis) -> None:
    job, task = await suspect(tracker)
    for strike in range(1, MAX_STRIKES + 1):
        assert (await tracker.read(job.id, "ann")).status is JobStatus.PROCESSING
        assert await tracker.start_alone(task)
        await tracker.lose([task], "killed by signal 9")
        assert (await tracker.read(job.id, "ann")).strikes == strike
        if strike < MAX_STRIKES:
            [task] = (await claimed(tracker)).tasks
    dead = await tracker.read(job.id, "ann")
    assert dead.status is JobStatus.FAILED
    assert dead.failure is not None
    assert dead.failure.slug == "job-dead"
    assert "killed by signal 9" in dead.failure.detail
    ledger = await tracker.ledger(MODEL)
    assert (ledger.dead, ledger.failed) == (1, 0)
    assert await redis.ttl(f"job:{job.id}") == -1
    [(_, event)] = await redis.xrange("outbox")
    assert (event[b"dead"], event[b"slug"]) == (b"1", b"job-dead")


async def test_a_loss_before_the_start_was_reported_is_no_strike(tracker: Tracker) -> None:
    job, task = await suspect(tracker)
    assert await tracker.start_alone(task)
    await tracker.give_back([task])
    for _ in range(5):
        await tracker.lose((await claimed(tracker)).tasks, "the replica was killed")
    assert (await tracker.read(job.id, "ann")).strikes == 0


async def test_a_dead_job_that_fits_nowhere_is_known_as_dead(redis: Redis, settings: Settings) -> None:
    tracker = Tracker(redis, settings.model_copy(update={"queue_max_bytes": 400}))
    job = await tracker.submit(submission(stored=await store(redis, "blob:large", 100)))
    for _ in range(MAX_DELIVERIES):
        await tracker.lose((await claimed(tracker)).tasks, "lost")
    dead = await tracker.read(job.id, "ann")
    assert dead.failure is not None
    assert (dead.failure.slug, await redis.get(f"dead-bytes:{MODEL}")) == ("job-dead", b"0")
    assert not await redis.exists("blob:large")
    with pytest.raises(RetryRefused):
        await Desk(redis, settings).retry(job.id, "ann")


async def test_ended_jobs_leave_after_their_time(tracker: Tracker, redis: Redis, settings: Settings) -> None:
    failed = await tracker.submit(submission(stored=await store(redis, "blob:f")))
    done = await tracker.submit(submission(stored=await store(redis, "blob:d")))
    tasks = (await claimed(tracker)).tasks
    assert await redis.ttl(f"job:{done.id}") == -1
    await tracker.fail([(tasks[0], Failure("model-rejected", "no"))])
    await tracker.complete([(tasks[1], {})])
    for key in (f"job:{failed.id}", f"job:{done.id}", "blob:f"):
        assert timedelta(seconds=settings.job_ttl - 5).seconds <= await redis.ttl(key) <= settings.job_ttl
    assert not await redis.exists("blob:d")


@pytest.mark.parametrize("result", [{"x": "y" * RESULT_MAX_BYTES}, {"x": float("nan")}, {"x": object()}])
async def test_a_result_that_cannot_be_kept_fails_the_job(tracker: Tracker, result: dict[str, object]) -> None:
    job = await tracker.submit(submission())
    [task] = (await claimed(tracker)).tasks
    assert await tracker.complete([(task, result)]) == [True]
    failed = await tracker.read(job.id, "ann")
    assert failed.failure is not None
    assert failed.failure.slug == "model-rejected"


async def test_a_reason_that_is_no_text_or_long_does_not_keep_a_job_from_its_end(tracker: Tracker) -> None:
    job = await tracker.submit(submission())
    await tracker.lose((await claimed(tracker)).tasks, "\udcff" * 1000)
    [task] = (await claimed(tracker)).tasks
    assert await tracker.fail([(task, Failure("model-rejected", "\udcff" * 1000))]) == [True]
    failed = await tracker.read(job.id, "ann")
    assert failed.failure == Failure("model-rejected", "?" * 500)


async def test_an_input_that_got_lost_is_still_delivered(tracker: Tracker, redis: Redis) -> None:
    await tracker.submit(submission(stored=await store(redis, "blob:a")))
    await redis.delete("blob:a")
    assert (await claimed(tracker)).tasks[0].input == JobInput("blob:a", 10, 10, "image/png")


async def test_a_counter_of_a_newer_release_is_not_looked_at(tracker: Tracker, redis: Redis) -> None:
    await tracker.submit(submission())
    await redis.hset(f"ledger:{MODEL}", "expired", "7")
    assert (await tracker.ledger(MODEL)).in_flight == 1


async def test_the_ledger_is_compared_with_the_jobs(tracker: Tracker, redis: Redis) -> None:
    jobs = [await tracker.submit(submission(owner)) for owner in ("ann", "bob", "ann")]
    await claimed(tracker, 1)
    queue = await tracker.queue(MODEL)
    assert (queue.waiting, queue.leased, queue.difference) == (2, 1, 0)
    await redis.zrem(f"wait:{MODEL}:normal:ann", jobs[2].id)
    assert (await tracker.queue(MODEL)).difference == 1


async def test_a_record_removed_by_hand_blocks_nobody(tracker: Tracker, redis: Redis) -> None:
    removed = await tracker.submit(submission())
    job = await tracker.submit(submission())
    await redis.delete(f"job:{removed.id}")
    assert [task.job_id for task in (await claimed(tracker)).tasks] == [job.id]
    assert (await tracker.ledger(MODEL)).in_flight == 1


async def test_scripts_are_sent_again_to_a_server_that_forgot_them(tracker: Tracker, redis: Redis) -> None:
    first = await tracker.submit(submission())
    await redis.script_flush()
    second = await tracker.submit(submission())
    await redis.script_flush()
    assert [task.job_id for task in (await claimed(tracker)).tasks] == [first.id, second.id]


async def test_replicas_count_while_they_beat(tracker: Tracker, redis: Redis) -> None:
    replica = ReplicaCard(MODEL, "r1", "v", "cpu", {"labels": ["Tips"], "µ": 1})
    await tracker.beat(replica)
    await tracker.beat(replica)
    assert await tracker.replicas(MODEL) == [replica]
    assert 0 < await redis.pttl(f"replicas:{MODEL}") <= 6000
    [member] = await redis.zrange(f"replicas:{MODEL}", 0, -1)
    await redis.zadd(f"replicas:{MODEL}", {member: 1})
    assert await tracker.replicas(MODEL) == []


async def test_a_full_redis_refuses_new_jobs_and_ends_those_it_has(folder: Path, settings: Settings) -> None:
    server = Valkey(folder, maxmemory="8mb")
    server.start()
    redis = connect_redis(settings.model_copy(update={"redis_url": SecretStr(server.url)}))
    try:
        tracker = Tracker(redis, settings)
        done, lost = await tracker.submit(submission()), await tracker.submit(submission())
        tasks = (await claimed(tracker)).tasks
        keys = await redis.dbsize()
        await redis.config_set("maxmemory", 1)
        with pytest.raises(StoreFull):
            await tracker.submit(submission())
        assert await redis.dbsize() == keys
        assert (await tracker.ledger(MODEL)).accepted == 2
        assert await tracker.complete([(tasks[0], {"label": "Tips"})]) == [True]
        assert await tracker.lose([tasks[1]], "lost") == 1
        chunk = await claimed(tracker)
        assert chunk.tasks[0].job_id == lost.id
        assert await tracker.renew(chunk) == chunk.tasks
        assert await tracker.start_alone(chunk.tasks[0])
        assert await tracker.give_back(chunk.tasks) == 1
        await tracker.close_chunk(chunk)
        [task] = (await claimed(tracker)).tasks
        assert await tracker.fail([(task, Failure("model-rejected", "no"))]) == [True]
        assert (await tracker.read(done.id, "ann")).result == {"label": "Tips"}
    finally:
        await redis.aclose()
        server.stop()


async def test_a_redis_that_is_away_is_said_in_our_words(settings: Settings) -> None:
    away = settings.model_copy(update={"redis_url": SecretStr("redis://127.0.0.1:1/0")})
    redis = connect_redis(away)
    tracker = Tracker(redis, away)
    for call in (tracker.submit(submission()), tracker.backlog(MODEL), claim(tracker)):
        with pytest.raises(TrackerUnavailable):
            await call
    await redis.aclose()


async def test_of_an_owners_idempotency_keys_the_latest_are_remembered(
    redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.jobs.limits.IDEMPOTENCY_MAX", 3)
    tracker = Tracker(redis, settings)
    sent = [submission("ann", idempotency=Idempotency(f"n{place}", "f")) for place in range(5)]
    for one in [*sent, submission("bob", idempotency=Idempotency("b", "f"))]:
        assert await tracker.earlier(one) is None
        await tracker.submit(one)
    again = [await tracker.earlier(replace(one, id=submission().id)) for one in sent]
    assert [job.id if job else None for job in again] == [None, None, *(one.id for one in sent[2:])]
    assert await redis.zrange("idems:ann", 0, -1) == [b"n2", b"n3", b"n4"]
    for name in ("idems:ann", "idem:n2", "idem:n4", "idem:b"):
        assert 0 < await redis.ttl(name) <= 24 * 3600
    await redis.zadd("idems:ann", {"n2": 1})
    await tracker.submit(submission("ann", idempotency=Idempotency("n6", "f")))
    assert await redis.zrange("idems:ann", 0, -1) == [b"n3", b"n4", b"n6"]


async def test_a_long_list_of_old_idempotency_keys_leaves_bit_by_bit(redis: Redis, settings: Settings) -> None:
    tracker = Tracker(redis, settings)
    await redis.zadd("idems:ann", {f"old-{number}": number for number in range(IDEMPOTENCY_SWEEP + 50)})
    for left in (50, 0):
        await tracker.submit(submission("ann", idempotency=Idempotency(f"n{left}", "f")))
        assert await redis.zcount("idems:ann", 0, 10**6) == left
