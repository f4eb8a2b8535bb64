"""The dispatcher finishes every job, whatever dies on the way: replica, model, Redis, another dispatcher."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from job_help import MODEL, VERSION, StubModel, card, submission
from pydantic import SecretStr
from redis.asyncio import Redis
from redis_address import Address
from waiting import until

from serve_app.connections import connect_redis, end_tasks
from serve_app.contracts import Failure, Job, JobStatus, ModelCard, Outcome, ReplicaCard, Task
from serve_app.errors import JobEnded, ModelUnready, ReplicaLost, ServiceError
from serve_app.jobs.dispatcher import Dispatcher
from serve_app.jobs.limits import TRANSIENT_TRIES
from serve_app.jobs.records import Backlog
from serve_app.jobs.store import JobStore
from serve_app.local.valkey import Valkey
from serve_app.settings import Settings


@pytest.fixture
def job_store(redis: Redis, settings: Settings) -> JobStore:
    return JobStore(redis, settings.model_copy(update={"lease_seconds": 1.0}))


@asynccontextmanager
async def running(
    job_store: JobStore, model: StubModel, model_card: ModelCard | None = None, attempt_s: float = 20.0
) -> AsyncIterator[Dispatcher]:
    dispatcher = Dispatcher(job_store, model, model_card or card(), version=VERSION, attempt_s=attempt_s)
    task = asyncio.create_task(dispatcher.run())
    try:
        yield dispatcher
    finally:
        await dispatcher.close(seconds=0.1)
        await end_tasks([task])
        assert task.cancelled() or task.exception() is None


async def submit(job_store: JobStore, count: int) -> list[Job]:
    return list(await asyncio.gather(*(job_store.submit(submission(params={"n": n})) for n in range(count))))


async def ended(job_store: JobStore, jobs: list[Job]) -> list[Job]:
    await until(lambda: job_store.ledger(MODEL), 30, fits=lambda found: found.in_flight == 0)
    return [await job_store.read(job.id, job.owner) for job in jobs]


def assert_right(jobs: list[Job]) -> None:
    assert [job.result for job in jobs] == [{"double": 2 * job.params["n"]} for job in jobs]


class Flaky(StubModel):
    """Fails a job in a way that may pass as often as its `n` says, then answers it."""

    def _answer(self, task: Task) -> Outcome:
        tries = sum(one.job_id == task.job_id for call in self.calls for one in call)
        if tries > task.params["n"]:
            return super()._answer(task)
        return Outcome(task.job_id, failure=Failure("transient-failure", "the device is busy"), transient=True)


async def test_a_job_whose_failure_may_pass_runs_three_times_and_then_is_dead_with_its_reason(
    job_store: JobStore,
) -> None:
    jobs = await submit(job_store, TRANSIENT_TRIES + 1)
    async with running(job_store, Flaky()) as dispatcher:
        *passed, poison = await ended(job_store, jobs)
        assert dispatcher.state == "ready"
    assert_right(passed)
    assert [job.deliveries for job in (*passed, poison)] == [1, 2, 3, 3]
    assert poison.failure is not None
    assert poison.failure.slug == "job-dead"
    assert "the device is busy" in poison.failure.detail
    assert (await job_store.ledger(MODEL)).dead == 1


async def state_is(dispatcher: Dispatcher, start: str) -> None:
    await until(lambda: dispatcher.state.startswith(start))


async def test_jobs_go_out_in_chunks_and_come_back_with_their_own_results(job_store: JobStore) -> None:
    model = StubModel()
    jobs = await submit(job_store, 40)
    async with running(job_store, model):
        assert_right(await ended(job_store, jobs))
    assert len(model.calls) == 10
    assert {len(chunk) for chunk in model.calls} == {4}


async def test_a_failure_is_the_end_of_its_own_job_alone(job_store: JobStore) -> None:
    bad = await job_store.submit(submission(params={"n": -1}))
    good = await job_store.submit(submission(params={"n": 1}))
    async with running(job_store, StubModel()):
        bad, good = await ended(job_store, [bad, good])
    assert bad.failure is not None
    assert bad.failure.slug == "model-rejected"
    assert good.status is JobStatus.COMPLETED


async def test_calls_in_flight_stay_within_the_window_of_the_running_replicas(job_store: JobStore) -> None:
    model = StubModel()
    model.gate.clear()
    await job_store.beat(ReplicaCard(MODEL, "r0", VERSION, "cpu"))
    jobs = await submit(job_store, 40)
    async with running(job_store, model), running(job_store, model):
        await until(lambda: len(model.calls) >= 2)
        assert (await job_store.backlog(MODEL)).leased == 8
        assert len(model.calls) == 2
        model.gate.set()
        assert_right(await ended(job_store, jobs))


async def test_the_lease_is_held_while_the_call_runs(job_store: JobStore, redis: Redis) -> None:
    model = StubModel()
    model.gate.clear()
    [job] = await submit(job_store, 1)
    async with running(job_store, model):
        await until(lambda: redis.zscore(f"lease:{MODEL}", job.id))
        first = await redis.zscore(f"lease:{MODEL}", job.id)

        async def was_renewed_past_its_first_term() -> bool:
            now, _ = await redis.time()
            return now * 1000 > first and await redis.zscore(f"lease:{MODEL}", job.id) > first

        await until(was_renewed_past_its_first_term)
        model.gate.set()
        [job] = await ended(job_store, [job])
    assert job.deliveries == 1


@pytest.mark.slow(reason="a silent connection costs a timeout")
async def test_a_lease_outlives_connections_that_fell_silent(redis: Redis, settings: Settings, valkey: Valkey) -> None:
    """Their commands fail by their deadline, which is as long as a lease."""
    model, others = StubModel(), StubModel()
    model.gate.clear()
    url = settings.redis_url.get_secret_value()
    async with Address(valkey.port) as address:
        through = url.replace(f":{valkey.port}", f":{address.port}")
        cut_off = connect_redis(settings.model_copy(update={"redis_url": SecretStr(through)}))
        job_store = JobStore(redis, settings)
        [job] = await submit(job_store, 1)
        async with running(JobStore(cut_off, settings), model):

            async def is_begun() -> bool:
                return bool(model.calls)

            await until(is_begun)
            begun = await redis.zscore(f"lease:{MODEL}", job.id)
            address.silence()
            async with running(job_store, others):

                async def is_past_its_second_term() -> bool:
                    now, _ = await redis.time()
                    return bool(now * 1000 > begun + settings.lease_seconds * 1000)

                await until(is_past_its_second_term)
                model.gate.set()
                [job] = await ended(job_store, [job])
        await cut_off.aclose()
    assert others.calls == []
    assert job.deliveries == 1


async def test_a_lost_replica_costs_a_delivery_and_no_job(job_store: JobStore) -> None:
    model = StubModel()
    model.gate.clear()
    jobs = await submit(job_store, 3)
    async with running(job_store, model):
        await until(lambda: model.calls)
        model.trouble = ReplicaLost("killed")
        model.gate.set()
        await until(is_probed_again(model))
        model.trouble = None
        jobs = await ended(job_store, jobs)
    assert_right(jobs)
    assert all(job.deliveries == 2 for job in jobs)


def is_probed_again(model: StubModel) -> Callable[[], Awaitable[bool]]:
    before = model.warm_ups

    async def probed() -> bool:
        return model.warm_ups > before

    return probed


async def test_a_call_that_never_answers_is_lost(job_store: JobStore) -> None:
    model = StubModel()
    model.gate.clear()
    jobs = await submit(job_store, 1)
    async with running(job_store, model, attempt_s=0.2):
        await until(lambda: len(model.calls) > 1)
        model.gate.set()
        [job] = await ended(job_store, jobs)
    assert job.deliveries >= 2
    assert job.strikes == 0


@pytest.mark.parametrize("trouble", [ModelUnready("no weights"), ValueError("a defect")])
async def test_a_model_that_is_not_ready_costs_nothing_and_is_tried_again(
    job_store: JobStore, trouble: Exception
) -> None:
    model = StubModel()
    async with running(job_store, model) as dispatcher:
        await state_is(dispatcher, "ready")
        model.trouble = trouble
        jobs = await submit(job_store, 3)
        await state_is(dispatcher, f"breaker: {trouble}")

        async def all_wait() -> bool:
            return await job_store.backlog(MODEL) == Backlog(waiting=3, leased=0)

        await until(all_wait)
        await until(is_probed_again(model))
        assert await all_wait()
        model.trouble = None
        jobs = await ended(job_store, jobs)
    assert_right(jobs)
    assert all(job.deliveries == 1 for job in jobs)


async def test_no_job_goes_to_another_version_of_the_model(job_store: JobStore) -> None:
    model = StubModel()
    model.version = "v0"
    jobs = await submit(job_store, 1)
    async with running(job_store, model) as dispatcher:
        await state_is(dispatcher, "breaker: The model runs version v0")
        assert not model.calls
        model.version = VERSION
        assert_right(await ended(job_store, jobs))


async def test_a_model_at_zero_is_warmed_only_once_a_job_waits(job_store: JobStore, redis: Redis) -> None:
    model = StubModel()
    async with running(job_store, model, card(wakes_from_zero=True)) as dispatcher:
        await until(lambda: redis.pubsub_numsub("wake"), fits=lambda found: found[0][1] > 0)
        assert (dispatcher.state, model.warm_ups) == ("waiting", 0)
        assert_right(await ended(job_store, await submit(job_store, 1)))
        assert model.warm_ups >= 1


async def test_closing_gives_back_what_did_not_finish(job_store: JobStore) -> None:
    model = StubModel()
    model.gate.clear()
    jobs = await submit(job_store, 3)
    async with running(job_store, model):
        await until(lambda: model.calls)
    backlog = await job_store.backlog(MODEL)
    assert (backlog.waiting, backlog.leased) == (3, 0)
    assert [(await job_store.read(job.id, "ann")).deliveries for job in jobs] == [0, 0, 0]


async def test_closing_lets_running_calls_finish(job_store: JobStore) -> None:
    model = StubModel()
    model.gate.clear()
    jobs = await submit(job_store, 3)
    dispatcher = Dispatcher(job_store, model, card(), version=VERSION)
    running_task = asyncio.create_task(dispatcher.run())
    await until(lambda: model.calls)
    closing = asyncio.create_task(dispatcher.close())
    model.gate.set()
    await closing
    await running_task
    assert_right([await job_store.read(job.id, "ann") for job in jobs])


async def test_redis_may_be_killed_and_come_back(folder: Path, settings: Settings) -> None:
    server = Valkey(folder)
    server.start()
    settings = settings.model_copy(update={"redis_url": SecretStr(server.url), "lease_seconds": 1.0})
    redis = connect_redis(settings)
    job_store, model = JobStore(redis, settings), StubModel()
    try:
        async with running(job_store, model) as dispatcher:
            model.gate.clear()
            jobs = await submit(job_store, 12)
            await until(lambda: model.calls)
            server.kill()
            model.gate.set()  # the answer comes while nobody can take it
            await state_is(dispatcher, "tracker: ")
            server.start()
            jobs = await ended(job_store, jobs)
            await state_is(dispatcher, "ready")
        assert_right(jobs)
        assert (await job_store.ledger(MODEL)).dead == 0
    finally:
        await redis.aclose()
        server.stop()


@contextmanager
def process(settings: Settings, mode: str) -> Iterator[subprocess.Popen[bytes]]:
    script = Path(__file__).with_name("dispatcher_process.py")
    started = subprocess.Popen([sys.executable, str(script), settings.redis_url.get_secret_value(), mode])
    try:
        yield started
    finally:
        started.kill()
        started.wait()


async def test_a_dispatcher_killed_with_claimed_jobs_loses_none(job_store: JobStore, settings: Settings) -> None:
    jobs = await submit(job_store, 200)
    with process(settings, "stuck") as stuck:
        await until(lambda: job_store.backlog(MODEL), 30, fits=lambda found: found.leased > 0)
        with process(settings, "works") as works:
            stuck.send_signal(signal.SIGKILL)
            stuck.wait()
            assert (await job_store.backlog(MODEL)).leased > 0
            jobs = await ended(job_store, jobs)
            assert works.poll() is None
    assert_right(jobs)
    assert max(job.deliveries for job in jobs) >= 2
    assert (await job_store.ledger(MODEL)).dead == 0


async def test_a_storm_of_cancels_leaves_nothing_undone(job_store: JobStore, redis: Redis, settings: Settings) -> None:
    """A thousand jobs, most of the first 400 with the model, are all cancelled while it begins to answer."""
    model, many = StubModel(), card(max_batch_size=32, chunks_per_replica=12)
    model.gate.clear()
    jobs = [job for _ in range(40) for job in await submit(job_store, 25)]
    replies: list[Job | ServiceError] = []

    async def cancel(some: list[Job]) -> None:
        for job in some:
            try:
                replies.append(await job_store.cancel(job.id, job.owner))
            except JobEnded as refusal:
                replies.append(refusal)
            if len(replies) == 250:
                model.gate.set()

    await job_store.beat(ReplicaCard(MODEL, "r0", VERSION, "cpu"))
    async with running(job_store, model, many) as dispatcher:

        async def enough_are_running() -> bool:
            await job_store.beat(ReplicaCard(MODEL, "r0", VERSION, "cpu"))
            return (await job_store.backlog(MODEL)).leased >= 300

        await until(enough_are_running)
        states = {job.id: (await job_store.read(job.id, job.owner)).status for job in jobs}
        await asyncio.gather(*(cancel(jobs[place::20]) for place in range(20)))
        done = await ended(job_store, jobs)
        assert dispatcher.state == "ready"
        [last] = await submit(job_store, 1)
        assert (await ended(job_store, [last]))[0].status is JobStatus.COMPLETED
    assert len(replies) == 1000
    assert {job.status for job in done} <= {JobStatus.CANCELLED, JobStatus.COMPLETED}
    cancelled = [job for job in done if job.status is JobStatus.CANCELLED]
    assert sum(states[job.id] is JobStatus.PROCESSING for job in cancelled) >= 200
    ledger = await job_store.ledger(MODEL)
    assert (ledger.accepted, ledger.cancelled) == (1001, len(cancelled))
    assert (ledger.completed, ledger.failed, ledger.dead) == (1001 - len(cancelled), 0, 0)
    assert await redis.xlen("outbox") == 1001
    assert not await redis.exists(f"lease:{MODEL}", f"ring:{MODEL}:normal")
