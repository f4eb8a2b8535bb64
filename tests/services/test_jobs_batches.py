"""Batches in Redis: whole or not at all, each item ends once, and the counts are those of the items."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from job_help import MODEL, claimed
from redis.asyncio import Redis

from serve_app.contracts import AuditEvent, Failure, JobInput
from serve_app.errors import BatchNotEnded, BatchUnknown, JobEnded, JobUnknown, QueueFull, RetryRefused
from serve_app.jobs.batches import BatchStore, BatchView, ItemStatus, NewBatch, NewItem
from serve_app.jobs.limits import FETCH_FAULTS_MAX
from serve_app.jobs.records import Idempotency, StopName
from serve_app.jobs.store import JobStore
from serve_app.settings import Settings

NONE = JobInput("", 0, 0, "")
ENDED = {ItemStatus.COMPLETED, ItemStatus.FAILED, ItemStatus.CANCELLED, ItemStatus.REFUSED}
STEPS = 1500
ADMIN = AuditEvent("e", 1, "p", "root", "stop", "intake", "", "127.0.0.1", "r")


@pytest.fixture
def batches(redis: Redis, settings: Settings) -> BatchStore:
    return BatchStore(JobStore(redis, settings))


def item(kind: str = "job", name: str = "a") -> NewItem:
    if kind == "job":
        return NewItem(name, {"n": 1}, job_id=str(uuid.uuid4()))
    if kind == "url":
        return NewItem(name, {"n": 1}, url="https://images.example.org/a.png")
    return NewItem(name, {}, refusal=Failure("image-unreadable", "The image is empty."))


def batch(*kinds: str, owner: str = "ann", key: Idempotency | None = None) -> NewBatch:
    items = tuple(item(kind, f"{place}.png") for place, kind in enumerate(kinds))
    return NewBatch(str(uuid.uuid4()), owner, MODEL, items, idempotency=key)


async def seen(batches: BatchStore, batch_id: str, owner: str = "ann") -> BatchView:
    return await batches.read(batch_id, owner, limit=500)


async def test_parameters_of_all_items_weigh_on_the_queue_and_urls_that_wait_too(
    redis: Redis, settings: Settings, job_store: JobStore
) -> None:
    each = len('{"n": 1}')
    batches = BatchStore(JobStore(redis, settings.model_copy(update={"queue_max_bytes": 4 * each})))
    with pytest.raises(QueueFull):
        await batches.accept(batch("job", "job", "url", "url", "url"))
    asked = batch("job", "url", "url", "refused")
    await batches.accept(asked)
    assert int(await redis.get("held-bytes") or 0) == 3 * each
    first, second = await batches.claim_fetches(2)
    await batches.refuse_item(first, Failure("image-url-failed", "gone"))
    assert int(await redis.get("held-bytes") or 0) == 2 * each
    await batches.accept_item(second, str(uuid.uuid4()), NONE)
    assert int(await redis.get("held-bytes") or 0) == 2 * each
    await job_store.complete([(task, {}) for task in (await claimed(job_store)).tasks])
    assert int(await redis.get("held-bytes") or 0) == 0
    await batches.accept(batch("job", "url", key=None))
    await batches.cancel((await batches.page("ann", limit=1)).batches[0].id, "ann")
    assert int(await redis.get("held-bytes") or 0) == 0


async def hold_together(batches: BatchStore, redis: Redis, batch_id: str, size: int) -> BatchView:
    """What must be true of a batch whatever has happened to its items."""
    view = await seen(batches, batch_id)
    statuses = [one.status for one in view.items]
    assert {status: number for status, number in view.counts.items() if number} == Counter(statuses)
    assert [one.index for one in view.items] == list(range(size))
    assert sum(view.counts.values()) == size
    assert view.batch.open == sum(status not in ENDED for status in statuses)
    assert (view.batch.completed_at is not None) == (view.batch.open == 0)
    ttls = [await redis.ttl(f"{name}:{batch_id}") for name in ("batch", "items")]
    assert all((ttl > 0) == (view.batch.open == 0) for ttl in ttls)
    assert int(await redis.get("fetches") or 0) == statuses.count(ItemStatus.FETCHING)
    return view


class Chance:
    """Things that happen to the items of one batch, in any order."""

    def __init__(self, redis: Redis, settings: Settings, job_store: JobStore, batches: BatchStore) -> None:
        self.redis, self.job_store, self.batches = redis, job_store, batches
        self.random = random.Random(7)

    async def happen(self, batch_id: str) -> None:
        jobs = [one.job_id for one in (await seen(self.batches, batch_id)).items if one.job_id]
        names = ["work", "work", "fetch", "fetch", "lose_fetch", "cancel", "retry", "remove", "expire"]
        with suppress(JobEnded, JobUnknown, RetryRefused):
            await getattr(self, self.random.choice(names))(self.random.choice(jobs) if jobs else "")

    async def work(self, _: str) -> None:
        with suppress(AssertionError):  # nothing waits
            chunk = await claimed(self.job_store, self.random.randint(1, 4))
            for task in chunk.tasks:
                match self.random.randrange(4):
                    case 0:
                        await self.job_store.fail([(task, Failure("model-rejected", "No."))])
                    case 1:
                        await self.job_store.give_back([task])
                    case _:
                        await self.job_store.complete([(task, {"double": 2})])

    async def fetch(self, _: str) -> None:
        for found in await self.batches.claim_fetches(self.random.randint(1, 3)):
            if self.random.random() < 0.3:
                await self.batches.refuse_item(found, Failure("image-url-failed", "Gone."))
            else:
                await asyncio.gather(*(self.batches.accept_item(found, str(uuid.uuid4()), NONE) for _ in range(2)))

    async def lose_fetch(self, _: str) -> None:
        await self.batches.claim_fetches(1)
        members: Any = await self.redis.zrange("fetching", 0, -1)
        for member in members:
            await self.redis.zadd("fetching", {member: 0})  # its time is over

    async def cancel(self, job_id: str) -> None:
        await self.job_store.cancel(job_id, "ann")

    async def retry(self, job_id: str) -> None:
        await self.job_store.retry(job_id, "ann")

    async def remove(self, job_id: str) -> None:
        if (await self.job_store.read(job_id, "ann")).ended:
            await self.job_store.remove(job_id, "ann")

    async def expire(self, job_id: str) -> None:
        if (await self.job_store.read(job_id, "ann")).ended:
            await self.redis.delete(f"job:{job_id}")


async def test_counts_are_those_of_the_items_whatever_happens(
    redis: Redis, settings: Settings, job_store: JobStore, batches: BatchStore
) -> None:
    chance, done = Chance(redis, settings, job_store, batches), 0
    kinds = ("job", "url", "refused")
    while done < STEPS:
        size = chance.random.randint(1, 12)
        batch_id = await batches.accept(batch(*chance.random.choices(kinds, weights=(3, 3, 1), k=size)))
        view = await hold_together(batches, redis, batch_id, size)
        for _ in range(60):
            await chance.happen(batch_id)
            view = await hold_together(batches, redis, batch_id, size)
            done += 1
        await batches.cancel(batch_id, "ann")
        view = await hold_together(batches, redis, batch_id, size)
        assert view.batch.open == 0
        await batches.remove(batch_id, "ann")
    ledger = await job_store.ledger(MODEL)
    assert ledger.in_flight == 0
    names: Any = await redis.keys()
    left = {name.split(b":")[0] for name in names}
    assert not left & {b"batch", b"items", b"batches", b"fetch", b"fetch-ring", b"fetching", b"job"}


async def test_a_full_queue_lets_an_item_wait_and_refuses_it_never(redis: Redis, settings: Settings) -> None:
    small = settings.model_copy(update={"queue_max_jobs": 2})
    batches, job_store = BatchStore(JobStore(redis, small)), JobStore(redis, small)
    waiting = await batches.accept(batch("url"))
    [found] = await batches.claim_fetches(5)
    batch_id = await batches.accept(batch("job", "job"))
    with pytest.raises(QueueFull):
        await batches.accept_item(found, str(uuid.uuid4()), NONE)
    assert [one.status for one in (await seen(batches, waiting)).items] == [ItemStatus.FETCHING]
    await redis.zadd("fetching", {found.item: 0})  # its time is over
    for _ in range(3):
        assert await batches.claim_fetches(5) == []  # fetched again it would be in vain
    await batches.cancel(batch_id, "ann")
    [again] = await batches.claim_fetches(5)
    assert await batches.accept_item(again, str(uuid.uuid4()), NONE)
    assert not await batches.accept_item(again, str(uuid.uuid4()), NONE)
    assert (await job_store.ledger(MODEL)).accepted == 3


async def test_nothing_is_fetched_for_a_stopped_model_and_others_go_on(
    job_store: JobStore, batches: BatchStore
) -> None:
    other = replace(batch("url"), model="other")
    stopped = await batches.accept(batch(*["url"] * 60))
    await batches.accept(other)
    await job_store.add_stop(StopName("intake", MODEL), {"message": "", "retry_after_s": 5}, ADMIN)
    found = [one for _ in range(3) for one in await batches.claim_fetches(5)]
    assert [one.item for one in found] == [f"{other.id}/0"]
    await job_store.remove_stop(f"intake:{MODEL}", ADMIN)
    assert [one.item.split("/")[0] for one in await batches.claim_fetches(60)] == [stopped] * 60


async def test_an_item_outlives_faults_of_the_service_but_not_any_number(redis: Redis, batches: BatchStore) -> None:
    batch_id = await batches.accept(batch("url"))
    for fault in range(FETCH_FAULTS_MAX):
        assert [one.status for one in (await seen(batches, batch_id)).items] == [ItemStatus.FETCHING]
        [found] = await batches.claim_fetches(1)
        await batches.count_fault(found, Failure("internal-error", f"Fault {fault}."))
        await redis.zadd("fetching", {found.item: 0})  # its time is over
    [refused] = (await hold_together(batches, redis, batch_id, 1)).items
    assert (refused.status, refused.failure) == (ItemStatus.REFUSED, Failure("internal-error", "Fault 4."))
    await batches.count_fault(found, Failure("internal-error", "Once more."))
    assert (await hold_together(batches, redis, batch_id, 1)).items == (refused,)


async def test_owners_of_urls_take_turns(batches: BatchStore) -> None:
    await batches.accept(batch(*["url"] * 50, owner="ann"))
    taken = [found.owner for found in await batches.claim_fetches(3)]
    await batches.accept(batch("url", owner="bob"))
    taken += [found.owner for found in await batches.claim_fetches(2)]
    assert (taken[:3], "bob" in taken[3:]) == (["ann"] * 3, True)


async def test_an_owner_with_enough_under_way_keeps_their_turn_and_holds_nobody_back(batches: BatchStore) -> None:
    for owner in ("ann", "eve", "bob"):
        await batches.accept(batch("url", "url", owner=owner))
    busy = ["ann", "eve"]
    assert [found.owner for found in await batches.claim_fetches(5, without=busy)] == ["bob", "bob"]
    assert await batches.claim_fetches(5, without=busy) == []
    assert [found.owner for found in await batches.claim_fetches(5)] == ["ann", "eve", "ann", "eve"]


async def test_only_its_owner_knows_a_batch(batches: BatchStore) -> None:
    batch_id = await batches.accept(batch("job"))
    for one, owner in ((batch_id, "bob"), (str(uuid.uuid4()), "ann"), ("no-uuid", "ann")):
        for ask in (batches.read, batches.cancel, batches.remove):
            with pytest.raises(BatchUnknown):
                await ask(one, owner)
    assert (await batches.page("bob", limit=10)).batches == ()
    with pytest.raises(BatchNotEnded):
        await batches.remove(batch_id, "ann")


async def test_results_come_only_where_they_are_asked_for(batches: BatchStore, job_store: JobStore) -> None:
    batch_id = await batches.accept(batch("job", "job"))
    first, second = (await claimed(job_store)).tasks
    await job_store.complete([(first, {"double": 2})])
    await job_store.fail([(second, Failure("model-rejected", "No."))])
    without = (await batches.read(batch_id, "ann", limit=2)).items
    with_results = await batches.read(batch_id, "ann", limit=2, results=True)
    results = with_results.items
    assert with_results.counts == {}  # they look at every item, for each piece of the results
    assert [one.result for one in without] == [None, None]
    assert [one.result for one in results] == [{"double": 2}, None]
    assert [one.failure for one in without] == [None, Failure("model-rejected", "No.")]
    assert [replace(one, result=None) for one in results] == list(without)


async def test_items_of_a_batch_that_is_gone_are_not_fetched_and_count_no_more(
    redis: Redis, batches: BatchStore
) -> None:
    gone, there = batch("url", "url"), batch("url")
    for one in (gone, there):
        await batches.accept(one)
    await redis.delete(f"batch:{gone.id}", f"items:{gone.id}")
    found = [*await batches.claim_fetches(1), *await batches.claim_fetches(5)]
    assert [fetch.item for fetch in found] == [f"{there.id}/0"]
    assert (await redis.get("fetches"), await redis.exists("fetch:ann", "fetch-ring")) == (b"1", 0)


async def test_batches_are_listed_page_by_page(batches: BatchStore) -> None:
    ids = [await batches.accept(batch("job")) for _ in range(5)]
    first = await batches.page("ann", limit=3)
    second = await batches.page("ann", limit=3, after=first.end)
    assert [one.id for one in (*first.batches, *second.batches)] == ids[::-1]
    assert second.end is None
