"""Models in real replicas: batches, failures, suspects, deaths and hangs, seen from where the dispatcher stands."""

import asyncio
import io
import random
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
import ray
from job_help import configured, submission
from PIL import Image
from ray import serve
from redis import Redis as BlockingRedis
from redis.asyncio import Redis

from serve_app.app import Gateway
from serve_app.connections import connect_redis
from serve_app.contracts import JobInput, JobStatus, Outcome, ReplicaCard, Task
from serve_app.errors import ModelUnready, ReplicaLost
from serve_app.images.store import ImageStore
from serve_app.jobs.breaker import Breaker
from serve_app.jobs.dispatcher import attempt
from serve_app.jobs.records import Backlog
from serve_app.jobs.store import JobStore
from serve_app.local.valkey import Valkey
from serve_app.models.handle import ServeHandle
from serve_app.models.registry import ModelConfig, card
from serve_app.models.server import ModelServer
from serve_app.settings import Settings
from tests.services.replica import Turnstile, make_reporter
from tests.tiny_vit import LABELS, write_snapshot

VERSION = "v1"
FORWARD_TIMEOUT_S = 2
CONFIGS = {
    "words": ModelConfig(name="words", implementation="tests.services.replica:HostileWords", num_cpus=0.1),
    "bright": ModelConfig(name="bright", implementation="tests.toy_files:BrightMask", num_cpus=0.1),
    "sem": ModelConfig(name="sem", implementation="serve_app.models.sem_classifier:SemClassifier", num_cpus=0.1),
}
TURNSTILE = card(
    ModelConfig(
        name="turnstile", implementation="tests.toy_model:WordStatistics", max_batch_size=1, chunks_per_replica=2
    )
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def service(valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ServeHandle]]:
    with BlockingRedis.from_url(valkey.url) as client:
        client.flushall()
    cache = tmp_path_factory.mktemp("cache")
    write_snapshot(cache)
    environment = {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "REDIS_URL": valkey.url,
        "MODEL_SOURCE": "private",
        "MODEL_ID": "org/tiny",
        "MODEL_CACHE_DIR": str(cache),
        "INFERENCE_THREADS": "1",
        "FORWARD_TIMEOUT_S": str(FORWARD_TIMEOUT_S),
        "RAY_AUTH_TOKEN": secrets.token_hex(32),  # or Ray would write one into the home folder
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():  # the replicas inherit it, faster than by a runtime_env
            patch.setenv(name, value)
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        serve.start(proxy_location="Disabled")
        yield deploy()
        serve.shutdown()
        ray.shutdown()


def deploy() -> dict[str, ServeHandle]:
    targets = []
    for name, config in CONFIGS.items():
        deployment = serve.deployment(
            ModelServer,
            name=name,
            max_ongoing_requests=config.chunks_per_replica,
            health_check_period_s=0.5,
            health_check_timeout_s=5,
            ray_actor_options={"num_cpus": config.num_cpus},
        )
        bound = deployment.bind(config, VERSION, make_reporter)
        targets.append(serve.RunTarget(bound, name=name, route_prefix=None))
    handles = serve.run_many(targets)
    return {name: ServeHandle(handle) for name, handle in zip(CONFIGS, handles, strict=True)}


@pytest.fixture
def stop_gateway(service: dict[str, ServeHandle]) -> Iterator[Callable[[], None]]:
    """A gateway is before the turnstile, whose one replica takes a chunk at a time; what has Serve stop the gateway."""
    options = {"ray_actor_options": {"num_cpus": 0.1}}
    turnstile = serve.deployment(Turnstile, name="turnstile", max_ongoing_requests=1, **options).bind(VERSION)
    handles = {"turnstile": serve.run(turnstile, name="turnstile", route_prefix=None)}
    gateway = Gateway.options(num_replicas=1, **options).bind([TURNSTILE], handles, VERSION)
    serve.run(gateway, name="gateway", route_prefix="/")
    yield lambda: serve.delete("gateway")
    serve.delete("turnstile")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def redis(valkey: Valkey) -> AsyncIterator[Redis]:
    client = connect_redis(Settings(redis_url=valkey.url))
    yield client
    await client.aclose()


def task(number: int, text: str = "one two", **more: object) -> Task:
    return Task(job_id=f"job-{number}", token="now", params={"text": text}, input=None, **more)


def scores(outcomes: list[Outcome]) -> np.ndarray:
    return np.array([[one.result["all_scores"][label] for label in LABELS] for one in outcomes])


async def until(condition: Callable[[], Awaitable[bool]], seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110  what changes is in another process
            await asyncio.sleep(0.05)


def slugs(outcomes: list[Outcome]) -> list[str | None]:
    return [outcome.failure.slug if outcome.failure else None for outcome in outcomes]


async def stored_pictures(redis: Redis, count: int) -> list[Task]:
    """Tasks with a picture each, all different."""
    store = ImageStore(redis, Settings())
    source = np.random.default_rng(5)
    tasks = []
    for number in range(count):
        file = io.BytesIO()
        Image.fromarray(source.integers(number * 8, number * 8 + 40, (60, 80), np.uint8)).save(file, "PNG")
        reference = await store.put(f"image-{number}", file.getvalue())
        held = JobInput(reference, len(file.getvalue()), 4800, "image/png")
        tasks.append(Task(f"image-{number}", "now", {}, held))
    return tasks


async def test_a_burst_is_batched_and_scores_as_its_images_alone(service: dict[str, ServeHandle], redis: Redis):
    tasks = await stored_pictures(redis, 24)
    chunks = [tasks[start : start + 8] for start in range(0, 24, 8)]
    together = [one for chunk in await asyncio.gather(*map(service["sem"].predict, chunks)) for one in chunk]
    alone = [(await service["sem"].predict([one]))[0] for one in tasks]
    assert [one.job_id for one in together] == [one.job_id for one in tasks]
    np.testing.assert_allclose(scores(together), scores(alone), atol=1e-4)
    assert together[0].result["image"]["read_as"] == "8-bit greyscale"


@pytest.mark.slow(reason="100 chunks")
async def test_every_answer_is_its_own_image_s_in_random_chunks(service: dict[str, ServeHandle], redis: Redis):
    """Chunks of random pictures, three at once, so that they share batches; 10,000 batches: tests/unit."""
    tasks = await stored_pictures(redis, 24)
    alone = scores([(await service["sem"].predict([one]))[0] for one in tasks])
    apart = np.abs(alone[:, None] - alone).max(axis=2)[np.triu_indices(len(tasks), 1)]
    assert apart.min() > 2e-4, "the tolerance would not tell these pictures apart"
    chance = random.Random(20261121)
    chunks = iter([chance.sample(range(24), chance.randint(1, 8)) for _ in range(100)])

    async def send() -> None:
        for places in chunks:
            answers = await service["sem"].predict([tasks[place] for place in places])
            np.testing.assert_allclose(scores(answers), alone[places], atol=1e-4)

    await asyncio.gather(send(), send(), send())


async def test_chunks_fill_batches(service: dict[str, ServeHandle]):
    chunks = [[task(8 * chunk + place, "batch") for place in range(8)] for chunk in range(3)]
    outcomes = await asyncio.gather(*map(service["words"].predict, chunks))
    sizes = [one.result["words"] for chunk in outcomes for one in chunk]
    batches = sum(1 / size for size in sizes)
    assert 24 / batches >= 0.5 * CONFIGS["words"].max_batch_size
    assert max(sizes) <= CONFIGS["words"].max_batch_size


async def test_each_input_s_failure_is_its_own(service: dict[str, ServeHandle], redis: Redis):
    store = ImageStore(redis, Settings())
    file = io.BytesIO()
    Image.linear_gradient("L").save(file, "PNG")
    good = JobInput(await store.put("good", file.getvalue()), 1, 1, "image/png")
    cut = JobInput(await store.put("cut", file.getvalue()[:100]), 1, 1, "image/png")
    gone = JobInput("blob:gone", 1, 1, "image/png")
    chunk = [Task(name, "now", {}, held) for name, held in (("good", good), ("cut", cut), ("gone", gone))]
    chunk.append(Task("none", "now", {}, None))
    chunk.append(Task("odd", "now", {"unknown": 1}, good))
    outcomes = await service["sem"].predict(chunk)
    assert slugs(outcomes) == [None, "image-undecodable", "input-lost", "model-rejected", "model-rejected"]
    assert all((one.result is None) != (one.failure is None) for one in outcomes)


async def test_files_that_find_no_room_fail_their_job_alone(service: dict[str, ServeHandle], redis: Redis):
    used = (await redis.info("memory"))["used_memory"]
    chunk = await stored_pictures(redis, 2)
    await redis.delete("blob:image-1")
    for task in chunk:
        await redis.hset(f"job:{task.job_id}", mapping={"status": "PROCESSING", "token": task.token})

    async def ends_as(*expected: str | None) -> bool:
        return slugs(await service["bright"].predict(chunk)) == list(expected)

    async with configured(redis, "maxmemory", int(used * 1.4)):  # above the images' share, and not full
        await until(lambda: ends_as("outputs-unstored", "input-lost"), 10)
    await until(lambda: ends_as(None, "input-lost"), 10)
    await redis.hset("job:image-0", "token", "another")  # a lease that is no longer ours
    assert slugs(await service["bright"].predict(chunk[:1])) == ["replica-lost"]


async def test_an_item_that_fails_the_batch_fails_alone(service: dict[str, ServeHandle]):
    outcomes = await service["words"].predict([task(1), task(2, "please fail"), task(3, "a b c")])
    assert slugs(outcomes) == [None, "model-rejected", None]
    assert outcomes[2].result == {"words": 3, "most_common": "a", "mean_length": 1.0}


async def test_a_suspect_reports_its_start_and_a_late_one_does_not_run(service: dict[str, ServeHandle], redis: Redis):
    await redis.delete("started-alone")  # of the tests before
    late = Task("job-3", "late", {"text": "x"}, None, alone=True)
    outcomes = await service["words"].predict([task(1, alone=True), task(2), late])
    assert slugs(outcomes) == [None, None, "replica-lost"]
    assert await redis.lrange("started-alone", 0, -1) == [b"job-1"]


async def test_warm_up_tells_the_version_and_replicas_beat(service: dict[str, ServeHandle], redis: Redis):
    assert [await handle.warm_up() for handle in service.values()] == [VERSION] * len(CONFIGS)
    await redis.delete("beats")  # of replicas that tests before have killed

    beats = [f"{name} {VERSION} cpu".encode() for name in sorted(CONFIGS)]

    async def all_beat() -> bool:
        return sorted((await redis.hgetall("beats")).values()) == beats

    await until(all_beat, 10)


@pytest.mark.slow(reason="a replica starts again")
async def test_a_killed_replica_loses_its_chunk_and_comes_back(service: dict[str, ServeHandle]):
    with pytest.raises(ReplicaLost):
        await service["words"].predict([task(1, "die")])
    assert await service["words"].warm_up() == VERSION


@pytest.mark.fault(reason="decode workers die and start again")
async def test_an_input_that_breaks_the_decode_workers_every_time_ends_dead_and_stops_nobody(
    service: dict[str, ServeHandle], redis: Redis
):
    job_store, breaker = JobStore(redis, Settings()), Breaker()
    texts = ("a b", "trap", "c")
    jobs = [await job_store.submit(submission(model="words", params={"text": text})) for text in texts]

    async def ended() -> bool:
        while chunk := await job_store.claim("words", limit=8, max_bytes=10**9, max_pixels=10**9, chunks_per_replica=1):
            for task in chunk.tasks:
                if task.alone:  # the replica reports it, and the reporter of this test stores it elsewhere
                    await job_store.start_alone(task)
            await attempt(job_store, service["words"], chunk, breaker, 60)
        return (await job_store.backlog("words")).waiting == 0

    await until(ended, 60)
    found = [await job_store.read(job.id, job.owner) for job in jobs]
    assert [job.status for job in found] == [JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.COMPLETED]
    assert found[1].failure.slug == "job-dead"
    assert "The decode workers broke" in found[1].failure.detail


async def replaced(redis: Redis, before: set[bytes]) -> None:
    async def another_beats() -> bool:
        return not set(await redis.hkeys("beats")) <= before

    await until(another_beats, 60)


@pytest.mark.fault(reason="a forward pass runs into its deadline, and a replica starts again")
async def test_a_hung_replica_loses_its_chunk_blames_no_other_and_is_replaced(
    service: dict[str, ServeHandle], redis: Redis, tmp_path: Path
):
    before = set(await redis.hkeys("beats"))
    gate = tmp_path / "gate"  # never opened
    hanging = asyncio.create_task(service["words"].predict([task(1, f"stall {gate}"), task(2)]))
    await until(lambda: exists(f"{gate}.begun"), 20)  # or the suspect could arrive first, and run
    suspect = asyncio.create_task(service["words"].predict([task(9, alone=True)]))  # waits its turn behind it
    with pytest.raises(ReplicaLost) as caught:
        await hanging
    assert caught.value.hung
    with pytest.raises(ModelUnready):
        await suspect
    assert b"job-9" not in await redis.lrange("started-alone", 0, -1)
    await replaced(redis, before)
    assert slugs(await service["words"].predict([task(2)])) == [None]


@pytest.mark.fault(reason="two forward passes run into their deadline, and replicas start again")
async def test_a_job_that_hangs_alone_ends_failed_after_its_deadline_and_those_beside_it_complete(
    service: dict[str, ServeHandle], redis: Redis
):
    job_store, breaker = JobStore(redis, Settings()), Breaker()
    texts = ("a b", "hang", "c")
    jobs = [await job_store.submit(submission(model="words", params={"text": text})) for text in texts]

    async def send() -> int:
        chunk = await job_store.claim("words", limit=8, max_bytes=10**9, max_pixels=10**9, chunks_per_replica=1)
        assert chunk
        await attempt(job_store, service["words"], chunk, breaker, 60)
        return len(chunk.tasks)

    async def states() -> list[tuple[JobStatus, int]]:
        found = [await job_store.read(job.id, job.owner) for job in jobs]
        return [(job.status, job.deliveries) for job in found]

    before = set(await redis.hkeys("beats"))
    assert await send() == 3
    assert await states() == [(JobStatus.PENDING, 1)] * 3
    await replaced(redis, before)

    before = set(await redis.hkeys("beats"))
    assert await send() == 1
    began = time.monotonic()
    assert await send() == 1
    assert time.monotonic() - began < 2 * FORWARD_TIMEOUT_S
    ended = await job_store.read(jobs[1].id, jobs[1].owner)
    assert (ended.status, ended.deliveries, ended.failure.slug) == (JobStatus.FAILED, 2, "model-timeout")
    await replaced(redis, before)
    assert await send() == 1
    assert await states() == [(JobStatus.COMPLETED, 2), (JobStatus.FAILED, 2), (JobStatus.COMPLETED, 2)]


async def test_a_suspect_waits_for_what_is_left_of_a_chunk_that_failed(
    service: dict[str, ServeHandle], redis: Redis, tmp_path: Path
):
    gate = tmp_path / "gate"
    await redis.lpush("blob:unreadable", "a list cannot be read as an image")
    unreadable = Task("job-31", "now", {"text": "x"}, JobInput("blob:unreadable", 1, 1, "image/png"))
    failing = asyncio.create_task(service["words"].predict([unreadable, task(32, f"decode {gate}")]))
    await until(lambda: exists(f"{gate}.begun"), 20)
    await begins_only_after(gate, service, redis, 33)
    with pytest.raises(ModelUnready):
        await failing


async def test_a_suspect_waits_for_a_forward_pass_whose_caller_has_gone(
    service: dict[str, ServeHandle], redis: Redis, tmp_path: Path
):
    gate = tmp_path / "gate"
    going = asyncio.create_task(service["words"].predict([task(41, f"stall {gate}")]))
    await until(lambda: exists(f"{gate}.begun"), 20)
    going.cancel()
    await begins_only_after(gate, service, redis, 42)
    await asyncio.wait((going,))


async def exists(file: str) -> bool:
    return await asyncio.to_thread(Path(file).exists)


async def begins_only_after(gate: Path, service: dict[str, ServeHandle], redis: Redis, number: int) -> None:
    """A suspect is sent, does not begin while the gate is closed, and ends well when it is open."""
    name = f"job-{number}".encode()
    suspect = asyncio.create_task(service["words"].predict([task(number, alone=True)]))
    await asyncio.wait((suspect,), timeout=1.0)
    assert name not in await redis.lrange("started-alone", 0, -1)
    await asyncio.to_thread(gate.touch)
    assert slugs(await suspect) == [None]
    assert name in await redis.lrange("started-alone", 0, -1)


async def test_a_gateway_that_is_stopped_gives_back_at_once_what_no_replica_has(
    stop_gateway: Callable[[], None], redis: Redis
):
    job_store = JobStore(redis, Settings())
    jobs = [await job_store.submit(submission(model="turnstile", params={"text": "x"})) for _ in range(2)]

    async def one_runs_and_one_waits_for_a_replica() -> bool:
        await job_store.beat(ReplicaCard("turnstile", "r0", VERSION, "cpu"))
        leased = (await job_store.backlog("turnstile")).leased
        return leased == 2 and await redis.llen("turnstile") == 1

    async def one_was_given_back() -> bool:
        return await job_store.backlog("turnstile") == Backlog(waiting=1, leased=1)

    await until(one_runs_and_one_waits_for_a_replica, 30)
    stopping = asyncio.create_task(asyncio.to_thread(stop_gateway))
    await until(one_was_given_back, 30)
    await redis.set("turnstile-open", "1")
    await stopping
    first, second = [await job_store.read(job.id, job.owner) for job in jobs]
    assert (first.status, first.deliveries) == (JobStatus.COMPLETED, 1)
    assert (second.status, second.deliveries) == (JobStatus.PENDING, 0)
