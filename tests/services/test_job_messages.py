"""What scripts publish of jobs, and how it reaches those who wait, against a real server."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator

import pytest
from job_help import claimed, submission
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from waiting import until

from serve_app.connections import end_tasks
from serve_app.contracts import ENDED, Failure
from serve_app.jobs import messages
from serve_app.jobs.messages import Messages
from serve_app.jobs.store import JobStore
from serve_app.local.valkey import Valkey

LONG_S = 30.0


@pytest.fixture
async def changes(redis: Redis) -> AsyncIterator[PubSub]:
    """A subscriber that has been let in."""
    async with redis.pubsub() as subscription:
        await subscription.subscribe("changes")
        assert await subscription.get_message(timeout=LONG_S)
        yield subscription


async def heard(subscription: PubSub, seconds: float = 0.05) -> list[list[str]]:
    """The messages that are there, each as its words."""
    messages = []
    while message := await subscription.get_message(ignore_subscribe_messages=True, timeout=seconds):
        messages.append(message["data"].decode().split())
    return messages


async def test_a_script_tells_all_that_it_changed_in_one_message(job_store: JobStore, changes: PubSub) -> None:
    first, second = [(await job_store.submit(submission())).id for _ in range(2)]
    chunk = await claimed(job_store)
    await job_store.give_back(chunk.tasks)
    again = await claimed(job_store)
    await job_store.complete([(task, {}) for task in again.tasks])
    statuses = ("PROCESSING", "PENDING", "PROCESSING", "COMPLETED")
    assert await heard(changes) == [[first, status, second, status] for status in statuses]


async def test_what_changes_nothing_tells_nothing(job_store: JobStore, changes: PubSub) -> None:
    await job_store.submit(submission())
    chunk = await claimed(job_store)
    assert len(await heard(changes)) == 1
    await job_store.renew(chunk)
    await job_store.submit(submission())
    await job_store.close_chunk(chunk)
    assert await heard(changes) == []


async def test_an_expired_lease_is_told_although_nothing_was_claimed(
    job_store: JobStore, redis: Redis, changes: PubSub
) -> None:
    job = await job_store.submit(submission())
    await claimed(job_store)
    await heard(changes)
    await redis.zadd("lease:stub", {job.id: 1})
    await redis.delete("replicas:stub")
    await redis.zadd("chunks:stub", {"another": 2**52})
    limits = {"limit": 1, "max_bytes": 1, "max_pixels": 1, "chunks_per_replica": 1}
    assert await job_store.claim("stub", **limits) is None, "the window is full"
    assert await heard(changes) == [[job.id, "PENDING"]]


async def test_a_waiter_hears_of_the_statuses_it_asked_for(job_store: JobStore) -> None:
    job, other = await job_store.submit(submission()), await job_store.submit(submission())
    async with job_store.messages.watch(job.id, ENDED) as watch, job_store.messages.watch(other.id) as bystander:
        await settled(job_store.messages)
        await watch.rest(0)
        await bystander.rest(0)
        ending, changing = asyncio.create_task(watch.rest(LONG_S)), asyncio.create_task(bystander.rest(LONG_S))
        [task, *_] = (await claimed(job_store)).tasks
        await asyncio.wait_for(changing, LONG_S / 2)
        assert not ending.done()
        await job_store.fail([(task, Failure("model-rejected", "too dark"))])
        await asyncio.wait_for(ending, LONG_S / 2)


async def test_a_rest_ends_by_itself(job_store: JobStore) -> None:
    async with job_store.messages.watch("any") as watch:
        await settled(job_store.messages)
        await watch.rest(0)
        begun = time.monotonic()
        await watch.rest(0.2)
        assert 0.19 < time.monotonic() - begun < LONG_S


async def test_a_lost_subscription_wakes_all_who_wait_when_it_is_back(job_store: JobStore, valkey: Valkey) -> None:
    async with job_store.messages.watch("any") as watch, job_store.messages.wake("stub") as wake:
        await settled(job_store.messages)
        await watch.rest(0)
        wake.clear()
        valkey.kill()
        valkey.start()
        await asyncio.wait_for(watch.rest(LONG_S), LONG_S / 2)
        await asyncio.wait_for(wake.wait(), LONG_S / 2)


async def test_a_subscription_on_which_nothing_comes_is_held_only_while_the_server_answers_pings(
    job_store: JobStore, valkey: Valkey, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the other end has vanished no error comes, and all would wait for their polls for ever."""
    monkeypatch.setattr(messages, "LISTEN_S", 0.1)
    async with job_store.messages.watch("any") as watch:
        await settled(job_store.messages)
        await watch.rest(1.0)  # ten pings are answered
        assert "lost" not in caplog.text
        os.kill(valkey.pid, signal.SIGSTOP)
        try:
            await until(lambda: "The subscription was lost: TimeoutError('no answer to a ping')" in caplog.text)
        finally:
            os.kill(valkey.pid, signal.SIGCONT)
        await asyncio.wait_for(watch.rest(LONG_S), LONG_S / 2)


async def test_a_listener_that_ended_is_begun_again_by_the_next_who_waits(job_store: JobStore) -> None:
    """redis-py may lose or raise a cancellation that was meant for something else."""
    job = await job_store.submit(submission())
    async with job_store.messages.watch("any"):
        await settled(job_store.messages)
        ended = job_store.messages._listening
        assert ended
        await end_tasks([ended])
        async with job_store.messages.watch(job.id) as watch:
            await settled(job_store.messages)
            await watch.rest(0)
            changing = asyncio.create_task(watch.rest(LONG_S))
            await claimed(job_store)
            await asyncio.wait_for(changing, LONG_S / 2)


async def test_nothing_is_kept_of_those_who_left(job_store: JobStore, redis: Redis) -> None:
    async with job_store.messages.watch("any"), job_store.messages.watch("any"):
        await settled(job_store.messages)

    async def subscribed() -> bool:
        return (await redis.pubsub_numsub("changes"))[0][1] > 0

    await until(lambda: subscribed(), fits=lambda found: not found)
    assert job_store.messages._watches == {}


async def settled(messages: Messages) -> None:
    """Return when the subscription stands."""

    async def told() -> bool:
        async with messages.watch("settling") as watch:
            await watch.rest(0.2)
        return (await messages._redis.pubsub_numsub("changes"))[0][1] > 0

    await until(told)
