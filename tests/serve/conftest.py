"""One running service for all tests of this folder. Each test leaves it whole."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from collector import Collector, listening_collector
from loadtest.bare import answers_one_at_a_time
from loadtest.service import laptop_models
from pictures import encode, texture
from redis import Redis
from running_service import BATCH, HELD, MODEL, PACED, WORDS, RunningService
from service_client import Client, connected, until
from stray_keys import strays
from web_server import Handler, web_server

from serve_app.contracts import Json

JOBS = 96
START_S = 300
WEIGHTS = {"MODEL_SOURCE": "demo", "ENGINE": "torch", "INFERENCE_THREADS": "1"}  # replicas share the processors


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first one's time holds the start of the service. The logs are read when all others have been through it."""
    folder = Path(__file__).parent
    items.sort(key=lambda item: item.path == folder / "test_logs.py")
    for item in items:
        if folder in item.path.parents:
            item.add_marker(pytest.mark.timeout(START_S))


@pytest.fixture(scope="session")
def pictures() -> list[bytes]:
    """As many different micrographs as a burst has jobs."""
    return [encode(texture(240, 320, seed), "JPEG") for seed in range(JOBS)]


@pytest.fixture(scope="session")
def picture_url() -> Iterator[str]:
    """Where a web server has a picture, on loopback."""
    body = encode(texture(480, 640, 1), "JPEG")

    class Picture(Handler):
        def reply(self) -> None:
            self.answer(body, Content_Type="image/jpeg")

    with web_server(Picture) as url:
        yield f"{url}/micrograph.jpg"


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """Where the running service sends its traces."""
    with listening_collector() as listening:
        yield listening


@pytest.fixture(scope="session")
def service(servers_folder: Path, picture_url: str, collector: Collector) -> Iterator[RunningService]:
    """The running service: two gateways, two classifiers, a toy that sleeps, one that scales, one that holds many jobs
    at once, and the sleeping models of `make run`."""
    classifier = {"implementation": "serve_app.models.sem_classifier:SemClassifier", "max_batch_size": BATCH}
    sleeper = {"implementation": "toy_model:WordStatistics", "min_replicas": 0, "downscale_delay_s": 1}
    paced = {"implementation": "toy_model:PacedWords", "max_batch_size": 2, "max_replicas": 2}
    paced |= {"jobs_per_replica": 4, "upscale_delay_s": 0, "downscale_delay_s": 1}
    held = {"implementation": "toy_model:PacedWords", "max_batch_size": 32, "chunks_per_replica": 16}
    models = [
        {"name": MODEL, **classifier, "min_replicas": 2, "max_replicas": 2},
        {"name": WORDS, **sleeper},
        {"name": PACED, **paced},
        {"name": HELD, **held},
        *({**model, "downscale_delay_s": 1} for model in laptop_models() if model.get("min_replicas") == 0),
    ]
    environment = {**WEIGHTS, "IMAGE_URL_PRIVATE_HOSTS": picture_url.split("/")[2]}
    environment["TRACES_ENDPOINT"] = collector.url
    folder = servers_folder / "serve"
    folder.mkdir(mode=0o711)
    with RunningService(folder, [{**model, "num_cpus": 0.1} for model in models], environment) as running:
        yield running
        with Redis.from_url(running.stack.environment["REDIS_URL"]) as redis:
            assert strays(redis) == []


@pytest.fixture
async def client(service: RunningService) -> AsyncIterator[Client]:
    """A user whom no other test knows. The service is whole again, whatever the test before replaced."""
    await until(service.is_whole, 60)
    async with connected(service, f"ada-{uuid.uuid4().hex[:8]}") as connection:
        yield connection


@pytest.fixture(scope="session")
def picture_files(servers_folder: Path, pictures: list[bytes]) -> list[Path]:
    """The pictures as files, in a folder of their own."""
    folder = servers_folder / "pictures"
    folder.mkdir()
    paths = [folder / f"{number:03}.jpg" for number in range(len(pictures))]
    for path, picture in zip(paths, pictures, strict=True):
        path.write_bytes(picture)
    return paths


@pytest.fixture(scope="session")
def references(picture_files: list[Path]) -> list[Json]:
    """What the model answers to each picture when it gets one at a time, without service, queue or batch."""
    return answers_one_at_a_time(picture_files[0].parent, WEIGHTS)
