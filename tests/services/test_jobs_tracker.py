"""Promises of the job store, one by one, on a real server."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from job_help import MODEL, claim, claim_one, claimed, stored_image, submission
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
from serve_app.jobs.limits import (
    IDEMPOTENCY_SWEEP,
    MAX_DELIVERIES,
    MAX_STRIKES,
    RESULT_MAX_BYTES,
    SUSPECT_AFTER,
    TRANSIENT_TRIES,
)
from serve_app.jobs.records import Idempotency
from serve_app.jobs.store import JobStore, refusal
from serve_app.local.valkey import Valkey
from serve_app.settings import Settings


async def expire(redis: Redis, *tasks: Task) -> None:
    await redis.zadd(f"lease:{MODEL}", {task.job_id: 1 for task in tasks})


async def suspect(job_store: JobStore, owner: str = "ann") -> tuple[Job, Task]:
    """A job that was lost often enough to run alone from now on, claimed."""
    job = await job_store.submit(submission(owner))
    for _ in range(SUSPECT_AFTER):
        await job_store.release_as_lost((await claimed(job_store, 1)).tasks, "the replica was lost")
    return job, (await claimed(job_store, 1)).tasks[0]


async def test_a_job_lives_from_submit_to_result(job_store: JobStore, redis: Redis) -> None:
    stored = await stored_image(redis, "blob:a")
    job = await job_store.submit(submission("ann", stored=stored, params={"top": 3}, traceparent="00-1-2-03"))
    assert await job_store.read(job.id, "ann") == job
    assert await redis.ttl("blob:a") == -1
    chunk = await claimed(job_store)
    assert chunk.tasks == (Task(job.id, chunk.token, {"top": 3}, stored, traceparent="00-1-2-03"),)
    running = await job_store.read(job.id, "ann")
    assert (running.status, running.deliveries) == (JobStatus.PROCESSING, 1)
    assert await job_store.complete([(chunk.tasks[0], {"label": "Tips", "µ": "ü"})]) == [True]
    done = await job_store.read(job.id, "ann")
    assert (done.status, done.result) == (JobStatus.COMPLETED, {"label": "Tips", "µ": "ü"})
    assert done.started_at is not None
    assert done.completed_at is not None
    assert done.submitted_at <= done.started_at <= done.completed_at
    assert not await redis.exists("blob:a")


async def test_the_end_of_a_job_is_told_once(job_store: JobStore, redis: Redis) -> None:
    job = await job_store.submit(submission("ann"))
    [task] = (await claimed(job_store)).tasks
    await job_store.fail([(task, Failure("model-rejected", "too dark"))])
    await job_store.complete([(task, {})])
    [(_, event)] = await redis.xrange("outbox")
    ended = await job_store.read(job.id, "ann")
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


async def test_a_submit_that_is_repeated_makes_one_job(job_store: JobStore) -> None:
    first = submission("ann")
    assert await job_store.submit(first) == await job_store.submit(first)
    assert (await job_store.ledger(MODEL)).accepted == 1
    with pytest.raises(JobUnknown):
        await job_store.submit(replace(first, owner="bob"))


async def test_an_input_that_is_gone_is_not_accepted(job_store: JobStore, redis: Redis) -> None:
    with pytest.raises(StoreUnavailable):
        await job_store.submit(submission(stored=JobInput("blob:gone", 1, 1, "image/png")))
    assert await redis.dbsize() == 0


def test_a_reply_that_nobody_knows_is_a_defect_of_ours_and_no_deadline() -> None:
    assert isinstance(refusal([b"input"]), StoreUnavailable)
    assert isinstance(refusal([b"surprise"]), InternalError)


async def test_a_job_dies_also_where_the_bytes_of_the_dead_were_miscounted(job_store: JobStore, redis: Redis) -> None:
    """An error there would undo nothing of what the script had done, and the job would never be taken back."""
    await redis.set(f"dead-bytes:{MODEL}", 10**15)
    job = await job_store.submit(submission())
    await redis.hset(f"job:{job.id}", "deliveries", MAX_DELIVERIES - 1)
    assert await job_store.release_as_lost((await claimed(job_store)).tasks, "the replica was killed") == 1
    ended = await job_store.read(job.id, "ann")
    assert (ended.status, ended.failure and ended.failure.slug) == (JobStatus.FAILED, "job-dead")
    assert await redis.get(f"dead-bytes:{MODEL}") is None
    assert (await job_store.ledger(MODEL)).dead == 1


@pytest.mark.usefixtures("own_keys")
@pytest.mark.parametrize("status", sorted(set(JobStatus) - {JobStatus.PENDING}))
async def test_what_stands_among_the_waiting_by_mistake_is_not_begun(
    job_store: JobStore, redis: Redis, status: JobStatus
) -> None:
    wrong, right = [await job_store.submit(submission()) for _ in range(2)]
    await redis.hset(f"job:{wrong.id}", "status", status)
    assert [task.job_id for task in (await claimed(job_store)).tasks] == [right.id]
    assert await redis.hget(f"job:{wrong.id}", "status") == status.encode()
    assert await redis.zscore(f"wait:{MODEL}:normal:ann", wrong.id) is None


@pytest.mark.usefixtures("own_keys")
@pytest.mark.parametrize("status", sorted(set(JobStatus) - {JobStatus.PROCESSING}))
async def test_a_lease_that_ran_out_changes_only_a_job_that_runs(
    job_store: JobStore, redis: Redis, status: JobStatus
) -> None:
    job = await job_store.submit(submission())
    await claimed(job_store)
    await redis.hset(f"job:{job.id}", "status", status)
    await redis.zadd(f"lease:{MODEL}", {job.id: 1})
    assert await claim(job_store) is None
    assert await redis.hget(f"job:{job.id}", "status") == status.encode()
    assert await redis.zcard(f"lease:{MODEL}") == 0


async def test_the_queue_is_bounded_by_count(redis: Redis, settings: Settings) -> None:
    job_store = JobStore(redis, settings.model_copy(update={"queue_max_jobs": 3}))
    refused = await asyncio.gather(*(job_store.submit(submission()) for _ in range(8)), return_exceptions=True)
    errors = [error for error in refused if isinstance(error, QueueFull)]
    assert len(errors) == 5
    assert all(error.retry_after for error in errors)
    await job_store.complete([((await claimed(job_store, 1)).tasks[0], {})])
    await job_store.submit(submission())
    await job_store.submit(submission(model="another"))


async def test_the_queue_is_bounded_by_bytes_of_all_models(redis: Redis, settings: Settings) -> None:
    job_store = JobStore(redis, settings.model_copy(update={"queue_max_bytes": 100}))
    await job_store.submit(submission(stored=await stored_image(redis, "blob:a", 60)))
    with pytest.raises(QueueFull):
        await job_store.submit(submission(model="another", stored=await stored_image(redis, "blob:b", 60)))
    assert await redis.ttl("blob:b") > 0
    await job_store.complete([((await claimed(job_store)).tasks[0], {})])
    await job_store.submit(submission(model="another", stored=await stored_image(redis, "blob:b", 60)))


async def test_parameters_weigh_on_the_queue_until_their_job_ends(redis: Redis, settings: Settings) -> None:
    job_store = JobStore(redis, settings.model_copy(update={"queue_max_bytes": 150}))
    stored, params = await stored_image(redis, "blob:a", 60), {"text": "x" * 40}
    await job_store.submit(submission(stored=stored, params=params))
    assert int(await redis.get("held-bytes") or 0) == 60 + len(json.dumps(params))
    with pytest.raises(QueueFull):
        await job_store.submit(submission(params=params))
    await job_store.complete([((await claimed(job_store)).tasks[0], {})])
    assert int(await redis.get("held-bytes") or 0) == 0


async def test_one_job_behind_ten_thousand_is_in_the_next_chunk(redis: Redis, settings: Settings) -> None:
    job_store = JobStore(redis, settings.model_copy(update={"queue_max_jobs": 10_001}))
    for _ in range(100):
        await asyncio.gather(*(job_store.submit(submission("greedy")) for _ in range(100)))
    assert (await job_store.queue_state(MODEL)).waiting == 10_000
    single = await job_store.submit(submission("modest"))
    assert single.id in [task.job_id for task in (await claimed(job_store, 4)).tasks]


async def test_an_owner_is_served_in_order_and_a_given_back_job_keeps_its_place(job_store: JobStore) -> None:
    jobs = [(await job_store.submit(submission())).id for _ in range(6)]
    first = await claimed(job_store, 3)
    assert [task.job_id for task in first.tasks] == jobs[:3]
    assert await job_store.give_back(first.tasks) == 3
    again = await claimed(job_store, 6)
    assert [task.job_id for task in again.tasks] == jobs
    assert (await job_store.read(jobs[0], "ann")).deliveries == 1


async def test_an_earlier_class_goes_first(job_store: JobStore) -> None:
    bulk = await job_store.submit(submission(priority=Priority.BULK))
    normal = await job_store.submit(submission(priority=Priority.NORMAL))
    assert [task.job_id for task in (await claimed(job_store)).tasks] == [normal.id, bulk.id]


@pytest.mark.parametrize("cap", ["max_bytes", "max_pixels"])
async def test_a_chunk_is_capped_by_size(job_store: JobStore, redis: Redis, cap: str) -> None:
    for number in range(4):
        await job_store.submit(submission(stored=await stored_image(redis, f"blob:{number}", 100, 100)))
    assert len((await claimed(job_store, 4, **{cap: 250})).tasks) == 2
    assert len((await claimed(job_store, 4, **{cap: 50})).tasks) == 1


async def test_all_claimers_together_stay_within_the_window(job_store: JobStore) -> None:
    for number in range(3):
        await job_store.beat(ReplicaCard(MODEL, f"r{number}", "v", "cpu", {"labels": ["a"]}))
    await asyncio.gather(*(job_store.submit(submission()) for _ in range(100)))
    chunks = await asyncio.gather(*(claim_one(job_store, 2) for _ in range(60)))
    held = [chunk for chunk in chunks if chunk]
    assert len(held) == 6
    await job_store.close_chunk(held[0])
    assert await claim_one(job_store, 2)
    assert not await claim_one(job_store, 2)


async def test_a_deployment_without_replicas_gets_one_chunk_that_wakes_it(job_store: JobStore) -> None:
    for _ in range(3):
        await job_store.submit(submission())
    assert await claim_one(job_store, 4)
    assert not await claim_one(job_store, 4)


async def test_a_chunk_whose_claimer_is_gone_leaves_the_window(job_store: JobStore, redis: Redis) -> None:
    await job_store.submit(submission())
    chunk = await claim_one(job_store, 1)
    assert chunk
    await expire(redis, *chunk.tasks)
    assert not await claim_one(job_store, 1)
    await redis.zadd(f"chunks:{MODEL}", {chunk.token: 1})
    again = await claim_one(job_store, 1)
    assert again
    assert again.tasks[0].job_id == chunk.tasks[0].job_id
    assert (await job_store.read(chunk.tasks[0].job_id, "ann")).deliveries == 2


async def test_an_old_token_is_worth_nothing_but_finished_work_counts(job_store: JobStore, redis: Redis) -> None:
    job = await job_store.submit(submission())
    zombie = await claimed(job_store)
    await expire(redis, *zombie.tasks)
    await redis.zrem(f"chunks:{MODEL}", zombie.token)
    current = await claimed(job_store)
    assert await job_store.renew(zombie) == ()
    await job_store.close_chunk(zombie)
    assert await job_store.give_back(zombie.tasks) == 0
    assert await job_store.release_as_lost(zombie.tasks, "late") == 0
    assert await job_store.fail([(zombie.tasks[0], Failure("model-rejected", "late"))]) == [False]
    assert not await job_store.start_alone(zombie.tasks[0])
    assert await job_store.renew(current) == current.tasks
    assert await job_store.complete([(zombie.tasks[0], {"by": "zombie"})]) == [True]
    assert await job_store.complete([(current.tasks[0], {"by": "current"})]) == [False]
    assert (await job_store.read(job.id, "ann")).result == {"by": "zombie"}


async def test_jobs_of_a_forward_pass_that_hung_run_alone_at_their_first_loss_and_have_no_strike(
    job_store: JobStore,
) -> None:
    jobs = [await job_store.submit(submission("ann")) for _ in range(3)]
    assert await job_store.release_as_lost((await claimed(job_store, 8)).tasks, "A forward pass hung.", "suspects") == 3
    for _ in jobs:
        [task] = (await claimed(job_store, 8)).tasks
        assert task.alone
    found = [await job_store.read(job.id, "ann") for job in jobs]
    assert [(job.deliveries, job.strikes) for job in found] == [(2, 0)] * 3


async def test_a_failure_that_may_pass_is_tried_again_and_then_makes_the_job_dead_with_its_reason(
    job_store: JobStore,
) -> None:
    job = await job_store.submit(submission("ann"))
    for delivery in range(1, TRANSIENT_TRIES + 1):
        [task] = (await claimed(job_store)).tasks
        assert await job_store.release_as_lost([task], "the device is busy", "transient") == 1
        assert (await job_store.read(job.id, "ann")).deliveries == delivery
    dead = await job_store.read(job.id, "ann")
    assert (dead.status, dead.strikes) == (JobStatus.FAILED, 0)
    assert dead.failure is not None
    assert dead.failure.slug == "job-dead"
    assert f"after {TRANSIENT_TRIES} deliveries" in dead.failure.detail
    assert "the device is busy" in dead.failure.detail


async def test_three_strikes_make_a_job_dead(job_store: JobStore, redis: Redis) -> None:
    job, task = await suspect(job_store)
    for strike in range(1, MAX_STRIKES + 1):
        assert (await job_store.read(job.id, "ann")).status is JobStatus.PROCESSING
        assert await job_store.start_alone(task)
        await job_store.release_as_lost([task], "killed by signal 9")
        assert (await job_store.read(job.id, "ann")).strikes == strike
        if strike < MAX_STRIKES:
            [task] = (await claimed(job_store)).tasks
    dead = await job_store.read(job.id, "ann")
    assert dead.status is JobStatus.FAILED
    assert dead.failure is not None
    assert dead.failure.slug == "job-dead"
    assert "killed by signal 9" in dead.failure.detail
    ledger = await job_store.ledger(MODEL)
    assert (ledger.dead, ledger.failed) == (1, 0)
    assert await redis.ttl(f"job:{job.id}") == -1
    [(_, event)] = await redis.xrange("outbox")
    assert (event[b"dead"], event[b"slug"]) == (b"1", b"job-dead")


async def test_a_loss_before_the_start_was_reported_is_no_strike(job_store: JobStore) -> None:
    job, task = await suspect(job_store)
    assert await job_store.start_alone(task)
    await job_store.give_back([task])
    for _ in range(5):
        await job_store.release_as_lost((await claimed(job_store)).tasks, "the replica was killed")
    assert (await job_store.read(job.id, "ann")).strikes == 0


async def test_a_dead_job_that_fits_nowhere_is_known_as_dead(redis: Redis, settings: Settings) -> None:
    job_store = JobStore(redis, settings.model_copy(update={"queue_max_bytes": 400}))
    job = await job_store.submit(submission(stored=await stored_image(redis, "blob:large", 100)))
    for _ in range(MAX_DELIVERIES):
        await job_store.release_as_lost((await claimed(job_store)).tasks, "lost")
    dead = await job_store.read(job.id, "ann")
    assert dead.failure is not None
    assert (dead.failure.slug, await redis.get(f"dead-bytes:{MODEL}")) == ("job-dead", b"0")
    assert not await redis.exists("blob:large")
    with pytest.raises(RetryRefused):
        await JobStore(redis, settings).retry(job.id, "ann")


async def test_ended_jobs_leave_after_their_time(job_store: JobStore, redis: Redis, settings: Settings) -> None:
    failed = await job_store.submit(submission(stored=await stored_image(redis, "blob:f")))
    done = await job_store.submit(submission(stored=await stored_image(redis, "blob:d")))
    tasks = (await claimed(job_store)).tasks
    assert await redis.ttl(f"job:{done.id}") == -1
    await job_store.fail([(tasks[0], Failure("model-rejected", "no"))])
    await job_store.complete([(tasks[1], {})])
    for key in (f"job:{failed.id}", f"job:{done.id}", "blob:f"):
        assert timedelta(seconds=settings.job_ttl - 5).seconds <= await redis.ttl(key) <= settings.job_ttl
    assert not await redis.exists("blob:d")


@pytest.mark.parametrize("result", [{"x": "y" * RESULT_MAX_BYTES}, {"x": float("nan")}, {"x": object()}])
async def test_a_result_that_cannot_be_kept_fails_the_job(job_store: JobStore, result: dict[str, object]) -> None:
    job = await job_store.submit(submission())
    [task] = (await claimed(job_store)).tasks
    assert await job_store.complete([(task, result)]) == [True]
    failed = await job_store.read(job.id, "ann")
    assert failed.failure is not None
    assert failed.failure.slug == "model-rejected"


async def test_a_reason_that_is_no_text_or_long_does_not_keep_a_job_from_its_end(job_store: JobStore) -> None:
    job = await job_store.submit(submission())
    await job_store.release_as_lost((await claimed(job_store)).tasks, "\udcff" * 1000)
    [task] = (await claimed(job_store)).tasks
    assert await job_store.fail([(task, Failure("model-rejected", "\udcff" * 1000))]) == [True]
    failed = await job_store.read(job.id, "ann")
    assert failed.failure == Failure("model-rejected", "?" * 500)


async def test_an_input_that_got_lost_is_still_delivered(job_store: JobStore, redis: Redis) -> None:
    await job_store.submit(submission(stored=await stored_image(redis, "blob:a")))
    await redis.delete("blob:a")
    assert (await claimed(job_store)).tasks[0].input == JobInput("blob:a", 10, 10, "image/png")


async def test_a_counter_of_a_newer_release_is_not_looked_at(job_store: JobStore, redis: Redis) -> None:
    await job_store.submit(submission())
    await redis.hset(f"ledger:{MODEL}", "expired", "7")
    assert (await job_store.ledger(MODEL)).in_flight == 1


async def test_the_ledger_is_compared_with_the_jobs(job_store: JobStore, redis: Redis) -> None:
    jobs = [await job_store.submit(submission(owner)) for owner in ("ann", "bob", "ann")]
    await claimed(job_store, 1)
    queue = await job_store.queue_state(MODEL)
    assert (queue.waiting, queue.leased, queue.difference) == (2, 1, 0)
    await redis.zrem(f"wait:{MODEL}:normal:ann", jobs[2].id)
    assert (await job_store.queue_state(MODEL)).difference == 1


async def test_a_record_removed_by_hand_blocks_nobody(job_store: JobStore, redis: Redis) -> None:
    removed = await job_store.submit(submission())
    job = await job_store.submit(submission())
    await redis.delete(f"job:{removed.id}")
    assert [task.job_id for task in (await claimed(job_store)).tasks] == [job.id]
    assert (await job_store.ledger(MODEL)).in_flight == 1


async def test_scripts_are_sent_again_to_a_server_that_forgot_them(job_store: JobStore, redis: Redis) -> None:
    first = await job_store.submit(submission())
    await redis.script_flush()
    second = await job_store.submit(submission())
    await redis.script_flush()
    assert [task.job_id for task in (await claimed(job_store)).tasks] == [first.id, second.id]


async def test_replicas_count_while_they_beat(job_store: JobStore, redis: Redis) -> None:
    replica = ReplicaCard(MODEL, "r1", "v", "cpu", {"labels": ["Tips"], "µ": 1})
    await job_store.beat(replica)
    await job_store.beat(replica)
    assert await job_store.replicas(MODEL) == [replica]
    assert 0 < await redis.pttl(f"replicas:{MODEL}") <= 6000
    [member] = await redis.zrange(f"replicas:{MODEL}", 0, -1)
    await redis.zadd(f"replicas:{MODEL}", {member: 1})
    assert await job_store.replicas(MODEL) == []


async def test_a_full_redis_refuses_new_jobs_and_ends_those_it_has(folder: Path, settings: Settings) -> None:
    server = Valkey(folder, maxmemory="8mb")
    server.start()
    redis = connect_redis(settings.model_copy(update={"redis_url": SecretStr(server.url)}))
    try:
        job_store = JobStore(redis, settings)
        done, lost = await job_store.submit(submission()), await job_store.submit(submission())
        tasks = (await claimed(job_store)).tasks
        keys = await redis.dbsize()
        await redis.config_set("maxmemory", 1)
        with pytest.raises(StoreFull):
            await job_store.submit(submission())
        assert await redis.dbsize() == keys
        assert (await job_store.ledger(MODEL)).accepted == 2
        assert await job_store.complete([(tasks[0], {"label": "Tips"})]) == [True]
        assert await job_store.release_as_lost([tasks[1]], "lost") == 1
        chunk = await claimed(job_store)
        assert chunk.tasks[0].job_id == lost.id
        assert await job_store.renew(chunk) == chunk.tasks
        assert await job_store.start_alone(chunk.tasks[0])
        assert await job_store.give_back(chunk.tasks) == 1
        await job_store.close_chunk(chunk)
        [task] = (await claimed(job_store)).tasks
        assert await job_store.fail([(task, Failure("model-rejected", "no"))]) == [True]
        assert (await job_store.read(done.id, "ann")).result == {"label": "Tips"}
    finally:
        await redis.aclose()
        server.stop()


async def test_a_redis_that_is_away_is_said_in_our_words(settings: Settings) -> None:
    away = settings.model_copy(update={"redis_url": SecretStr("redis://127.0.0.1:1/0")})
    redis = connect_redis(away)
    job_store = JobStore(redis, away)
    for call in (job_store.submit(submission()), job_store.backlog(MODEL), claim(job_store)):
        with pytest.raises(TrackerUnavailable):
            await call
    await redis.aclose()


async def test_of_an_owners_idempotency_keys_the_latest_are_remembered(
    redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.jobs.limits.IDEMPOTENCY_MAX", 3)
    job_store = JobStore(redis, settings)
    sent = [submission("ann", idempotency=Idempotency(f"n{place}", "f")) for place in range(5)]
    for one in [*sent, submission("bob", idempotency=Idempotency("b", "f"))]:
        assert await job_store.find_earlier(one) is None
        await job_store.submit(one)
    again = [await job_store.find_earlier(replace(one, id=submission().id)) for one in sent]
    assert [job.id if job else None for job in again] == [None, None, *(one.id for one in sent[2:])]
    assert await redis.zrange("idems:ann", 0, -1) == [b"n2", b"n3", b"n4"]
    for name in ("idems:ann", "idem:n2", "idem:n4", "idem:b"):
        assert 0 < await redis.ttl(name) <= 24 * 3600
    await redis.zadd("idems:ann", {"n2": 1})
    await job_store.submit(submission("ann", idempotency=Idempotency("n6", "f")))
    assert await redis.zrange("idems:ann", 0, -1) == [b"n3", b"n4", b"n6"]


async def test_a_long_list_of_old_idempotency_keys_leaves_bit_by_bit(redis: Redis, settings: Settings) -> None:
    job_store = JobStore(redis, settings)
    await redis.zadd("idems:ann", {f"old-{number}": number for number in range(IDEMPOTENCY_SWEEP + 50)})
    for left in (50, 0):
        await job_store.submit(submission("ann", idempotency=Idempotency(f"n{left}", "f")))
        assert await redis.zcount("idems:ann", 0, 10**6) == left
