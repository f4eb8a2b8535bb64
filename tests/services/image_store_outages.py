"""Images in a bucket, from the upload through a real model replica to its files; and what a lost bucket does."""

from __future__ import annotations

import asyncio
import io
import json
import os
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import ray
from object_store import SeaweedFS
from PIL import Image
from pydantic import SecretStr
from ray import serve
from ray.serve.handle import DeploymentHandle

from serve_app.contracts import Json, Outcome, Task
from serve_app.images import bucket_store
from serve_app.images.bucket import PART_BYTES, Bucket
from serve_app.jobs.store import ReplicaHeartbeat
from serve_app.local.issuer import DevIssuerServer
from serve_app.models.handle import ServeHandle
from serve_app.models.registry import ModelConfig, card
from serve_app.models.server import ModelServer
from serve_app.settings import Settings
from tests.pictures import encode
from tests.services.gateway_parts import PICTURE, VERSION, Answering, Running, running_gateway, until

CONFIG = ModelConfig(name="bright", implementation="tests.toy_files:BrightMask", num_cpus=0.1)
SIZE = (5000, 4200)
LARGE = encode(Image.frombytes("L", SIZE, os.urandom(SIZE[0] * SIZE[1])), "PNG", compress_level=1)
"""A picture that no compression makes small: 20 MiB, three parts."""


class Replica(Answering):
    """The real replica behind a door: shut, chunks wait before it."""

    def __init__(self, handle: ServeHandle) -> None:
        super().__init__()
        self._handle = handle

    async def predict(self, chunk: Sequence[Task]) -> list[Outcome]:
        await self.open.wait()
        return await self._handle.predict(chunk)

    async def warm_up(self) -> str:
        return await self._handle.warm_up()

    def drain(self) -> None:
        self._handle.drain()


@contextmanager
def deployed(settings: Settings) -> Iterator[DeploymentHandle[Any]]:
    """A replica in a Ray of its own, with these settings in its environment."""
    names = ("redis_url", "image_store_url", "s3_endpoint_url", "s3_access_key_id", "s3_secret_access_key")
    values = {name: getattr(settings, name) for name in names}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name.upper(), value.get_secret_value() if isinstance(value, SecretStr) else value)
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))  # or Ray would write one into the home folder
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        serve.start(proxy_location="Disabled")
        deployment = serve.deployment(
            ModelServer,
            name=CONFIG.name,
            max_ongoing_requests=CONFIG.chunks_per_replica,
            ray_actor_options={"num_cpus": CONFIG.num_cpus},
        )
        bound = deployment.bind(CONFIG, VERSION, ReplicaHeartbeat)
        yield serve.run(bound, name=CONFIG.name, route_prefix=None)
        serve.shutdown()
        ray.shutdown()


@pytest.fixture(autouse=True)
def nothing_is_young(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody needs leaves with the next sweep."""
    monkeypatch.setattr(bucket_store, "YOUNG_S", -60)


@pytest.fixture(scope="module")
def stored(object_store: SeaweedFS, valkey: Any) -> Settings:
    return Settings(redis_url=SecretStr(valkey.url), **object_store.settings("whole-path"))


@pytest.fixture(scope="module")
def handle(stored: Settings) -> Iterator[DeploymentHandle[Any]]:
    with deployed(stored) as found:
        yield found


@pytest.fixture
async def gateway(
    settings: Settings, stored: Settings, database: str, handle: DeploymentHandle[Any], authority: DevIssuerServer
) -> AsyncIterator[Running]:
    whole = stored.model_copy(update={"database_url": SecretStr(database)})
    async with serving(whole, handle, authority) as running:
        yield running


@asynccontextmanager
async def serving(
    settings: Settings, handle: DeploymentHandle[Any], authority: DevIssuerServer, **more: Any
) -> AsyncIterator[Running]:
    """A gateway with a way of its own to the replica, as one that leaves never uses its way again."""
    model = Replica(ServeHandle(handle))
    async with running_gateway(settings, authority, cards=[card(CONFIG)], model=model, **more) as running:
        await until(lambda: ready(running), 30)
        yield running


@pytest.fixture
def bucket(stored: Settings) -> Iterator[Bucket]:
    opened = Bucket(stored)
    yield opened
    opened.close()


async def ready(running: Running) -> bool:
    return (await running.get("/readyz")).status_code == 200


async def parts(running: Running) -> Json:
    document: Json = (await running.get("/readyz?verbose")).json()
    return document


async def ended(running: Running, job_id: str) -> Json:
    """The job object, once the job has ended; large images take their time."""
    job: Json = await until(lambda: running._ended(job_id, "ada"), 90)
    return job


async def submitted(running: Running, **params: Any) -> httpx2.Response:
    form = {"params": json.dumps(params)}
    return await running.post("/api/v1/jobs", files={"image": ("a.png", PICTURE)}, data=form)


async def test_a_large_image_goes_the_whole_way_and_leaves(gateway: Running, bucket: Bucket) -> None:
    assert len(LARGE) > 2 * PART_BYTES
    job = await ended(gateway, await gateway.submit(picture=LARGE))
    assert job["status"] == "COMPLETED", job
    entry = job["result"]["outputs"][0]
    assert entry["name"] == "mask.png"
    answer = await gateway.get(f"/api/v1/jobs/{job['job_id']}/outputs/mask.png")
    assert answer.status_code == 307
    assert answer.headers["cache-control"] == "no-store"
    async with httpx2.AsyncClient() as client:
        file = await client.get(answer.headers["location"])
    assert (file.status_code, len(file.content)) == (200, entry["bytes"])
    assert file.headers["content-type"] == entry["media_type"] == "image/png"
    assert Image.open(io.BytesIO(file.content)).size == SIZE
    names = {f"outputs/{job['job_id']}/{name}" for name in ("mask.png", "share.txt")}
    await until(lambda: bucket.keys("", 1000), 60, fits=lambda found: set(found) == names)
    await gateway.redis.delete(f"outputs:{job['job_id']}")  # as its time does
    await until(lambda: bucket.keys("", 1000), 60, fits=lambda found: not found)


async def test_outputs_are_their_owners_and_those_listed(gateway: Running) -> None:
    job = await ended(gateway, (await submitted(gateway)).json()["job_id"])
    path = f"/api/v1/jobs/{job['job_id']}/outputs"
    assert [one["name"] for one in job["result"]["outputs"]] == ["mask.png", "share.txt"]
    assert (await gateway.get(f"{path}/share.txt")).status_code == 307
    for user, name, slug in (("bob", "share.txt", "job-unknown"), ("ada", "other.txt", "output-unknown")):
        answer = await gateway.get(f"{path}/{name}", user)
        assert (answer.status_code, answer.json()["type"]) == (404, f"/problems/{slug}")


async def test_a_model_that_gives_what_it_may_not_fails_its_job_alone(gateway: Running) -> None:
    answers = [await submitted(gateway, name=name) for name in ("../up", "fine.png")]
    bad, good = [await ended(gateway, answer.json()["job_id"]) for answer in answers]
    assert (bad["status"], bad["problem"]["type"]) == ("FAILED", "/problems/model-rejected")
    assert good["status"] == "COMPLETED"


async def test_a_bucket_that_is_killed_costs_no_job(gateway: Running, object_store: SeaweedFS) -> None:
    """Submits are refused and leave nothing; a job accepted before waits and ends when the bucket is back."""
    gateway.model.open.clear()
    waiting = await gateway.submit(picture=LARGE)
    before = await gateway.keys()
    object_store.kill()
    try:
        answer = await submitted(gateway)
        assert (answer.status_code, answer.json()["type"]) == (503, "/problems/store-unavailable")
        assert int(answer.headers["retry-after"]) > 0
        assert {key for key in await gateway.keys() if key.startswith(("blob:", "job:"))} <= before
        await until(lambda: parts(gateway), 30, fits=lambda found: str(found["store"]).startswith("away: "))
        assert (await gateway.client.get("/readyz?verbose")).json()["store"] == "away"
        assert (await gateway.get("/health")).json()["status"] == "degraded"
        gateway.model.open.set()
        await until(lambda: parts(gateway), 60, fits=lambda found: "image store" in str(found["models"][CONFIG.name]))

        async def it_waits_as_before() -> bool:
            """The model's door opens now and then for a try, whose claim is given back too."""
            job = (await gateway.get(f"/api/v1/jobs/{waiting}")).json()
            return (job["status"], job["deliveries"]) == ("PENDING", 0)

        await until(it_waits_as_before, 30)
    finally:
        gateway.model.open.set()
        object_store.start()
    job = await ended(gateway, waiting)
    assert (job["status"], job["deliveries"]) == ("COMPLETED", 1)
    await until(lambda: ready(gateway), 60)
    assert (await submitted(gateway)).status_code == 202


async def test_an_upload_under_way_when_the_bucket_is_killed_leaves_nothing(
    gateway: Running, bucket: Bucket, object_store: SeaweedFS
) -> None:
    asking = asyncio.create_task(gateway.post("/api/v1/jobs", files={"image": ("a.png", LARGE)}))
    await until(lambda: bucket.unfinished(), 30)
    object_store.kill()
    try:
        answer = await asking
        assert answer.json()["type"] == "/problems/store-unavailable"
        assert not [key for key in await gateway.keys() if key.startswith(("blob:", "job:"))]
    finally:
        object_store.start()

    async def nothing_is_left() -> bool:
        return await bucket.unfinished() == [] and not await bucket.keys("", 1000)

    await until(nothing_is_left, 90)
