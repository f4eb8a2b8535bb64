"""Images in a bucket of a real S3-compatible server: they come back, are bounded by marks in Redis, and leave."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import httpx2
import pytest
from job_help import store_files
from object_store import SeaweedFS
from redis.asyncio import Redis

from serve_app.contracts import JobInput, JobStatus, Output
from serve_app.errors import StoreUnavailable
from serve_app.images import bucket as bucket_module
from serve_app.images import bucket_store as store_module
from serve_app.images.bucket import PART_BYTES
from serve_app.images.bucket_store import BucketStore, OrphanSweeper, open_store
from serve_app.images.store import UNCLAIMED_S, ImageStore
from serve_app.jobs.records import Submission
from serve_app.jobs.store import JobStore
from serve_app.keyspace import SWEEP_TURN
from serve_app.settings import Settings

JOB = "00000000-0000-4000-8000-000000000001"
EDGES = (0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 2 * PART_BYTES, 3 * PART_BYTES + 7)


@pytest.fixture
async def store(redis: Redis, settings: Settings, in_bucket: dict[str, object]) -> AsyncIterator[BucketStore]:
    opened = open_store(redis, settings.model_copy(update=in_bucket))
    assert isinstance(opened, BucketStore)
    yield opened
    opened.close()


@pytest.fixture
def sweeper(store: BucketStore, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> OrphanSweeper:
    """One to whom every object is old enough."""
    monkeypatch.setattr(store_module, "YOUNG_S", -60)
    return OrphanSweeper(store, redis)


async def stored(store: BucketStore) -> list[str]:
    return list(await store.bucket.keys("", 1000))


@pytest.mark.parametrize("size", EDGES)
async def test_bytes_come_back_and_leave(store: BucketStore, redis: Redis, size: int) -> None:
    data = os.urandom(size)
    reference = await store.put(JOB, data)
    back = await store.get(reference)
    assert back is not None
    assert hashlib.sha256(back).digest() == hashlib.sha256(data).digest()
    assert UNCLAIMED_S - 60 <= await redis.ttl(reference) <= UNCLAIMED_S
    assert await redis.strlen(reference) < 100
    await store.delete(reference)
    await store.delete(reference)
    assert await store.get(reference) is None
    assert await stored(store) == []


async def test_bytes_from_before_the_bucket_are_read(store: BucketStore, redis: Redis, settings: Settings) -> None:
    reference = await ImageStore(redis, settings).put(JOB, b"\x89PNG older")
    assert await store.get(reference) == b"\x89PNG older"


async def test_the_sweep_deletes_only_what_nobody_keeps(
    store: BucketStore, sweeper: OrphanSweeper, redis: Redis, settings: Settings
) -> None:
    """A waiting job keeps its input, an upload under way its own, a record its outputs; ended and lost ones do not."""
    job_store = JobStore(redis, settings)
    waiting, lost, coming = (JOB[:-1] + str(number) for number in (2, 3, 4))
    for job_id in (waiting, lost, coming):
        await store.put(job_id, job_id.encode())
        await store_files(store, redis, job_id, {"mask.png": Output("image/png", b"mask")})
    await submit(job_store, waiting)
    await redis.delete(f"blob:{lost}", f"outputs:{lost}")
    await store.bucket.put("someone-elses", b"x", "text/plain")
    assert await sweeper.sweep() == 2
    kept = [f"{kind}/{job_id}" for kind in ("inputs", "outputs") for job_id in (waiting, coming)]
    assert [key.removesuffix("/mask.png") for key in await stored(store)] == [*kept, "someone-elses"]
    assert await sweeper.sweep() == 0


async def test_a_redis_that_came_back_empty_costs_no_young_object(store: BucketStore, redis: Redis) -> None:
    await store.put(JOB, b"image")
    await redis.flushdb()
    assert await OrphanSweeper(store, redis).sweep() == 0
    assert await stored(store) == [f"inputs/{JOB}"]


async def test_the_input_of_a_completed_job_leaves(
    store: BucketStore, sweeper: OrphanSweeper, redis: Redis, settings: Settings
) -> None:
    job_store = JobStore(redis, settings)
    await store.put(JOB, b"image")
    await submit(job_store, JOB)
    chunk = await job_store.claim("m", limit=1, max_bytes=100, max_pixels=100, chunks_per_replica=1)
    assert chunk is not None
    assert chunk.tasks[0].input is not None
    assert await store.get(chunk.tasks[0].input.reference) == b"image"
    assert await sweeper.sweep() == 0
    await job_store.complete([(chunk.tasks[0], {"label": "Tips"})])
    assert (await job_store.read(JOB, "ada")).status is JobStatus.COMPLETED
    assert await store.get(f"blob:{JOB}") is None
    assert await sweeper.sweep() == 1
    assert await stored(store) == []


async def test_a_sweep_of_many_pages_sees_all(
    store: BucketStore, sweeper: OrphanSweeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "PAGE_KEYS", 2)
    monkeypatch.setattr(store_module, "PAGES_OF_A_PASS", 2)
    for number in range(7):
        await store.bucket.put(f"inputs/{number}", b"x", "text/plain")
    assert [await sweeper.sweep(), await sweeper.sweep()] == [4, 3]
    assert await stored(store) == []


async def test_of_several_gateways_one_sweeps(store: BucketStore, redis: Redis) -> None:
    sweepers = [OrphanSweeper(store, redis) for _ in range(5)]
    turns = await asyncio.gather(*(one._is_my_turn() for one in sweepers))
    assert sorted(turns) == [False] * 4 + [True]
    assert 0 < await redis.ttl(SWEEP_TURN()) <= store_module.SWEEP_EVERY_S


async def test_a_failed_upload_leaves_no_parts(store: BucketStore) -> None:
    """Its bytes cannot be read to the end; boto3 then ends the upload it began."""

    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() >= 2 * PART_BYTES:
                raise OSError("the disk is gone")
            return super().read(size)

    bucket = store.bucket
    arguments = (Broken(bytes(3 * PART_BYTES)), bucket._bucket, bucket._prefix + "inputs/broken")
    with pytest.raises(OSError, match="the disk is gone"):
        await asyncio.to_thread(bucket._client.upload_fileobj, *arguments, Config=bucket._transfer)
    assert await bucket.unfinished() == []
    assert await stored(store) == []


async def test_parts_of_an_upload_whose_gateway_died_leave(
    store: BucketStore, sweeper: OrphanSweeper, redis: Redis
) -> None:
    bucket = store.bucket
    await redis.set("blob:under-way", b"s3:inputs/under-way", ex=60)
    for name in ("dead", "under-way"):
        where = {"Bucket": bucket._bucket, "Key": f"{bucket._prefix}inputs/{name}"}
        begun = bucket._client.create_multipart_upload(**where)
        bucket._client.upload_part(**where, UploadId=begun["UploadId"], PartNumber=1, Body=bytes(PART_BYTES))
    assert await sweeper.sweep() == 1
    assert [key for key, _ in await bucket.unfinished()] == ["inputs/under-way"]


@pytest.mark.slow(reason="a URL expires")
async def test_outputs_are_given_by_a_url_that_ends(store: BucketStore, redis: Redis) -> None:
    await store_files(
        store, redis, JOB, {"mask.png": Output("image/png", b"a mask"), "notes.txt": Output("text/plain", b"")}
    )
    found = await store.get_output(JOB, "mask.png")
    assert found is not None
    assert "X-Amz-Expires=3600" in found.url
    short = await store.bucket.presign(f"outputs/{JOB}/mask.png", "mask.png", 5, "image/png")
    async with httpx2.AsyncClient() as client:
        answers = [await client.get(url) for url in (found.url, short)]
        for answer in answers:
            assert (answer.status_code, answer.content) == (200, b"a mask")
            assert answer.headers["content-type"] == "image/png"
            assert answer.headers["content-disposition"] == 'attachment; filename="mask.png"'
        assert (await client.get(found.url.replace("mask.png?", "notes.txt?"))).status_code == 403
        ended = time.monotonic() + 20
        while (await client.get(short)).status_code == 200:
            assert time.monotonic() < ended, "the URL still works"
            await asyncio.sleep(0.2)
        assert (await client.get(short)).status_code == 403
        assert (await client.get(found.url)).status_code == 200
    assert await store.get_output(JOB, "other.png") is None
    assert await store.get_output("another", "mask.png") is None


@pytest.mark.slow(reason="the object store is killed and reads its data again")
async def test_a_server_that_is_killed_is_said_so_and_used_again(
    store: BucketStore, sweeper: OrphanSweeper, redis: Redis, object_store: SeaweedFS
) -> None:
    reference = await store.put(JOB, b"safe")
    await sweeper.check()
    assert store.trouble == ""
    object_store.kill()
    try:
        calls: tuple[Callable[[], object], ...] = (lambda: store.put("other", b"x"), lambda: store.get(reference))
        for call in calls:
            with pytest.raises(StoreUnavailable) as caught:
                await call()  # type: ignore[misc]
            assert caught.value.retry_after
        await sweeper.check()
        assert store.trouble.startswith("away: ")
        assert not await redis.exists("blob:other")
        with pytest.raises(StoreUnavailable):
            await sweeper.sweep()
        assert await redis.exists(reference)
    finally:
        object_store.start()
    ended = time.monotonic() + 30
    while store.trouble:
        assert time.monotonic() < ended, "the bucket is not seen again"
        await sweeper.check()
    while (found := await read_again(store, reference)) is None:  # it answers before it has found all its data
        assert time.monotonic() < ended, "the object does not come back"
    assert found == b"safe"


async def test_a_server_that_hangs_is_known_after_one_look_and_costs_no_submit_its_time(
    redis: Redis,
    settings: Settings,
    in_bucket: dict[str, object],
    object_store: SeaweedFS,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bucket_module, "READ_TIMEOUT_S", 1.0)
    store = open_store(redis, settings.model_copy(update=in_bucket))
    assert isinstance(store, BucketStore)
    sweeper = OrphanSweeper(store, redis)
    os.kill(object_store.pid, signal.SIGSTOP)
    try:
        hanging = [asyncio.create_task(store.put(f"job-{number}", b"x")) for number in range(bucket_module.THREADS)]
        await sweeper.check()
        assert "timeout" in store.trouble.lower()
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await store.put(JOB, b"x")
        assert time.monotonic() - began < bucket_module.READ_TIMEOUT_S
        for answer in await asyncio.gather(*hanging, return_exceptions=True):
            assert isinstance(answer, StoreUnavailable)
        assert await redis.keys("blob:*") == []
    finally:
        os.kill(object_store.pid, signal.SIGCONT)
    ended = time.monotonic() + 30
    while store.trouble:
        assert time.monotonic() < ended, "the bucket is not seen again"
        await sweeper.check()
    await store.put(JOB, b"x")
    assert f"inputs/{JOB}" in await stored(store)
    store.close()


async def test_urls_name_the_server_as_clients_reach_it(
    redis: Redis, settings: Settings, in_bucket: dict[str, object], object_store: SeaweedFS
) -> None:
    public = f"http://localhost:{object_store.port}"
    store = open_store(redis, settings.model_copy(update={**in_bucket, "s3_public_url": public}))
    await store_files(store, redis, JOB, {"notes.txt": Output("text/plain", b"notes")})
    found = await store.get_output(JOB, "notes.txt")
    assert found is not None
    assert found.url.startswith(f"{public}/")
    async with httpx2.AsyncClient() as client:
        assert (await client.get(found.url)).content == b"notes"
    store.close()


async def read_again(store: BucketStore, reference: str) -> bytes | None:
    with suppress(StoreUnavailable):
        return await store.get(reference)
    return None


async def submit(job_store: JobStore, job_id: str) -> None:
    held = JobInput(f"blob:{job_id}", 5, 1, "image/png")
    await job_store.submit(Submission(id=job_id, owner="ada", model="m", params={}, input=held))
