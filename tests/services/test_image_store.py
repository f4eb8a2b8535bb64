"""Stored images come back as they went in, leave by themselves when nobody submits them, and never fill Redis."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import pytest
from job_help import configured, store_files
from pydantic import SecretStr
from redis.asyncio import Redis

from serve_app.connections import connect_redis
from serve_app.contracts import Output
from serve_app.errors import StoreFull, TrackerUnavailable
from serve_app.images import store as store_module
from serve_app.images.store import OUTPUTS_MARGIN_S, UNCLAIMED_S, ImageStore, StoredOutput
from serve_app.settings import MIB, Settings

pytestmark = pytest.mark.usefixtures("own_keys")


@pytest.fixture
async def limited(redis: Redis) -> AsyncIterator[Redis]:
    """A Redis with 40 MiB to give beyond what it holds empty."""
    used = (await redis.info("memory"))["used_memory"]
    async with configured(redis, "maxmemory", used + 40 * MIB):
        yield redis


async def test_bytes_come_back_and_leave(redis: Redis, settings: Settings) -> None:
    store = ImageStore(redis, settings)
    data = os.urandom(3 * MIB)
    reference = await store.put("one", data)
    assert reference == "blob:one"
    assert await store.get(reference) == data
    assert UNCLAIMED_S - 5 <= await redis.ttl(reference) <= UNCLAIMED_S
    await store.delete(reference)
    await store.delete(reference)
    assert await store.get(reference) is None


async def test_a_put_is_one_round_trip(redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "MEASURED_S", 60.0)
    store = ImageStore(redis, settings)
    await store.put("first", b"x")
    before = (await redis.info("stats"))["total_commands_processed"]
    for number in range(10):
        await store.put(f"job{number}", b"x")
    after = (await redis.info("stats"))["total_commands_processed"]
    assert after - before == 10 + 1  # the reading itself


async def test_images_stop_at_their_share_and_leave_the_rest_free(limited: Redis, settings: Settings) -> None:
    """Within one measurement too: what was put since counts, and so do puts at the same moment."""
    store = ImageStore(limited, settings)
    results = await asyncio.gather(
        *(store.put(f"job{number}", bytes(4 * MIB)) for number in range(20)), return_exceptions=True
    )
    refused = [result for result in results if isinstance(result, StoreFull)]
    assert 0 < len(refused) < 20
    assert len(refused) + sum(isinstance(result, str) for result in results) == 20
    assert refused[0].retry_after
    stored = await limited.keys("blob:*")
    assert len(stored) == 20 - len(refused)
    limit = (await limited.info("memory"))["maxmemory"]
    assert sum([await limited.strlen(key) for key in stored]) <= limit * settings.image_store_share
    await limited.set("job:other", bytes(100_000))


async def test_files_come_back_and_end_with_their_job(redis: Redis, settings: Settings) -> None:
    store = ImageStore(redis, settings)
    await store_files(
        store, redis, "one", {"mask.png": Output("image/png", b"mask"), "empty": Output("text/plain", b"")}
    )
    assert await store.get_output("one", "mask.png") == StoredOutput("image/png", b"mask")
    assert await store.get_output("one", "empty") == StoredOutput("text/plain", b"")
    assert settings.job_ttl < await redis.ttl("outputs:one") <= settings.job_ttl + OUTPUTS_MARGIN_S
    await store_files(store, redis, "one", {"table.csv": Output("text/csv", b"1,2")})  # an attempt that ran again
    assert await store.get_output("one", "mask.png") is None
    assert await store.get_output("two", "table.csv") is None


async def test_files_share_the_room_of_the_images(limited: Redis, settings: Settings) -> None:
    store = ImageStore(limited, settings)
    with pytest.raises(StoreFull):
        await store_files(store, limited, "one", {"large": Output("image/png", bytes(39 * MIB))})
    assert await limited.exists("outputs:one") == 0


async def test_files_are_taken_under_the_lease_of_their_job_alone(redis: Redis, settings: Settings) -> None:
    """A zombie neither replaces the files of a job that ended, nor makes those of a deleted one again."""
    store, mask = ImageStore(redis, settings), {"mask.png": Output("image/png", b"mask")}
    await store_files(store, redis, "one", mask)
    late = {"mask.png": Output("image/png", b"late")}
    for record in ({}, {"status": "COMPLETED"}, {"status": "PENDING"}, {"status": "PROCESSING", "token": "another"}):
        await redis.delete("job:one", "job:two")
        for job_id in ("one", "two"):
            await redis.hset(f"job:{job_id}", mapping={"v": "1", **record})
            assert not await store.put_outputs(job_id, "now", late)
    assert await store.get_output("one", "mask.png") == StoredOutput("image/png", b"mask")
    assert await redis.exists("outputs:two") == 0


async def test_a_full_redis_refuses_files_and_keeps_those_it_has(
    redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "MEASURED_S", 60.0)
    store = ImageStore(redis, settings)
    await store_files(store, redis, "one", {"mask.png": Output("image/png", b"mask")})
    await redis.hset("job:one", mapping={"status": "PROCESSING", "token": "now"})
    async with configured(redis, "maxmemory", 1):
        with pytest.raises(StoreFull):
            await store.put_outputs("one", "now", {"mask.png": Output("image/png", b"again")})
    assert await store.get_output("one", "mask.png") == StoredOutput("image/png", b"mask")


async def room(store: ImageStore) -> bool:
    try:
        await store.put("next", bytes(4 * MIB))
    except StoreFull:
        return False
    return True


async def test_room_is_seen_again_after_deletion(
    limited: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "MEASURED_S", 0.0)
    store = ImageStore(limited, settings)

    async def fill() -> None:
        for number in range(20):
            await store.put(f"job{number}", bytes(4 * MIB))

    with pytest.raises(StoreFull):
        await fill()
    for number in range(20):
        await store.delete(f"blob:job{number}")
    for _ in range(500):  # freed in the background
        if await room(store):
            return
        await asyncio.sleep(0.01)
    pytest.fail("no room after everything was deleted")


async def test_a_store_that_is_away_is_said_so() -> None:
    gone = Settings(redis_url=SecretStr("redis://127.0.0.1:1"))
    client = connect_redis(gone)
    store = ImageStore(client, gone)
    for attempt in (store.put("one", b"x"), store.get("blob:one"), store.delete("blob:one")):
        with pytest.raises(TrackerUnavailable):
            await attempt
    await client.aclose()
