"""A gateway without Ray, on the session's servers, for the tests that send it requests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import jwt
import pytest
import uvicorn
from described import hold_to_description
from redis.asyncio import Redis
from starlette.applications import Starlette
from waiting import until

from serve_app.connections import connect_redis
from serve_app.contracts import Failure, Json, ModelCard, Outcome, Output, ReplicaCard, Task
from serve_app.errors import ReplicaLost
from serve_app.gateway.app import Gateway, build_gateway
from serve_app.gateway.auth import principal_of
from serve_app.images.store import ImageStore
from serve_app.jobs.limits import MAX_DELIVERIES
from serve_app.jobs.store import JobStore
from serve_app.local.issuer import DevIssuerServer, Issuer, SigningKeys
from serve_app.models.detection import Detections, detection
from serve_app.models.registry import ModelConfig, card
from serve_app.settings import Settings
from serve_app.tracing import Tracer
from tests.pictures import encode, gradient

VERSION = "release-1"
NO_TRACES = Tracer(None)
AUDIENCE = "sem-image-classifier"
PICTURE = encode(gradient(), "PNG")
UNKNOWN_ID = "2f0c1c1e-8a39-4d4e-9d0a-000000000000"
FORM = {"Content-Type": "multipart/form-data; boundary=b"}
HEAD = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
END = b"--b--\r\n"
IMAGE_MODEL = card(ModelConfig(name="sem-classifier", implementation="serve_app.models.sem_classifier:SemClassifier"))
TEXT_MODEL = card(ModelConfig(name="words", implementation="tests.toy_model:WordStatistics"))
DETECTOR = card(
    ModelConfig(name="dummy-detector", implementation="serve_app.models.dummy_detector:DummyDetector", min_replicas=0)
)
IMAGES_API: dict[str, Any] = {"cards": (IMAGE_MODEL, TEXT_MODEL, DETECTOR), "images_model": DETECTOR.name}
"""What `running_gateway` needs for the images API."""
CIRCLES = (detection("0" * 64, (10, 10.4, 50, 49.6), 0.9, "coin"), detection("0" * 64, (1, 2, 5, 6), 0.5, "coin"))
DETECTIONS: Json = Detections(count=2, detections=CIRCLES, model={}, image={}).model_dump(mode="json")
RESULT = {"label": "Tips", "confidence": 0.9, "all_scores": {"Tips": 0.9, "Powder": 0.1}, "device_used": "cpu"}


def part(disposition: str, body: bytes, *headers: str) -> bytes:
    """A part of a form whose boundary is that of `FORM`."""
    head = "\r\n".join((f"Content-Disposition: {disposition}", *headers))
    return b"--b\r\n" + head.encode() + b"\r\n\r\n" + body + b"\r\n"


IMAGE = part('form-data; name="image"; filename="a.png"', PICTURE)


async def stuck(begin: bytes = HEAD, arriving: asyncio.Event | None = None) -> AsyncIterator[bytes]:
    """A body that begins and never ends; `arriving` is set once its beginning was taken."""
    yield begin
    if arriving:
        arriving.set()
    await asyncio.Event().wait()


class Answering:
    """A model that answers every task when it is let, with what `answer` says or by raising `trouble`."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.answer: Callable[[Task], Outcome] = lambda task: Outcome(task.job_id, result=RESULT)
        self.trouble: Exception | None = None
        self.tasks: list[Task] = []

    async def predict(self, chunk: Sequence[Task]) -> list[Outcome]:
        self.tasks.extend(chunk)
        await self.open.wait()
        if self.trouble:
            raise self.trouble
        return [self.answer(task) for task in chunk]

    async def warm_up(self) -> str:
        return VERSION

    def drain(self) -> None:
        """It has all chunks that it was sent: none is to be taken back."""


class Running:
    """A running gateway, a client of it, and what stands behind it."""

    detector: Answering
    """The model of the images API."""

    def __init__(
        self,
        application: Starlette,
        client: httpx2.AsyncClient,
        redis: Redis,
        model: Answering,
        authority: DevIssuerServer,
    ) -> None:
        self.application, self.client, self.redis, self.model = application, client, redis, model
        self.issuer = Issuer(authority.url, SigningKeys(authority.data))

    def bearer(self, user: str = "ada", **claims: Any) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.issuer.mint(user, **claims)}"}

    async def get(self, path: str, user: str = "ada") -> httpx2.Response:
        return await self.client.get(path, headers=self.bearer(user))

    async def post(self, path: str, user: str = "ada", **body: Any) -> httpx2.Response:
        return await self.client.post(path, headers=self.bearer(user), **body)

    async def submit(self, user: str = "ada", picture: bytes = PICTURE, **fields: str) -> str:
        answer = await self.post("/api/v1/jobs", user, files={"image": ("a.png", picture)}, data=fields)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["job_id"])

    async def completed_with_file(self, user: str) -> str:
        """A job that has ended, kept its image and gave the file `mask.png`."""
        files = [{"name": "mask.png", "media_type": "image/png", "bytes": 6}]
        usual = self.model.answer
        self.model.answer = lambda task: Outcome(task.job_id, result={**RESULT, "outputs": files})
        job_id = await self.submit_with_files({"mask.png": Output("image/png", b"a mask")}, user, keep="true")
        self.model.answer = usual
        return job_id

    async def send_image(self, user: str = "ada", picture: bytes = PICTURE, **headers: str) -> httpx2.Response:
        """The answer to an image, sent to the images API."""
        files = {"file": ("a.png", picture)}
        return await self.client.post("/api/v1/images", headers={**self.bearer(user), **headers}, files=files)

    async def submit_with_files(self, outputs: Mapping[str, Output], user: str = "ada", **fields: str) -> str:
        """A job that has ended, whose files were stored as a replica stores them: while it works on it."""
        self.model.open.clear()
        job_id = await self.submit(user, **fields)
        task: Task = await until(lambda: next((task for task in self.model.tasks if task.job_id == job_id), None))
        assert await ImageStore(self.redis, Settings()).put_outputs(job_id, task.token, outputs)
        self.model.open.set()
        await self.ended(job_id, user)
        return job_id

    async def failed_job(self, user: str = "ada") -> str:
        """A job that the model rejected."""
        usual, self.model.answer = self.model.answer, failed("model-rejected", "no")
        job_id = await self.submit(user)
        await self.ended(job_id, user)
        self.model.answer = usual
        return job_id

    async def dead_job(self, user: str = "ada", **fields: str) -> str:
        """A job that died: every replica that had it was lost. Deliveries before the last are written down."""
        self.model.open.clear()
        job_id = await self.submit(user, **fields)
        await self.redis.hset(f"job:{job_id}", "deliveries", MAX_DELIVERIES - 1)
        self.model.trouble = ReplicaLost("The replica was killed by signal 9.")
        self.model.open.set()
        assert (await self.ended(job_id, user))["problem"]["type"] == "/problems/job-dead"
        self.model.trouble = None
        return job_id

    async def ended(self, job_id: str, user: str = "ada") -> Json:
        """The job object, once the job has ended."""
        job: Json = await until(lambda: self._ended(job_id, user))
        return job

    async def _ended(self, job_id: str, user: str) -> Json | None:
        job: Json = (await self.get(f"/api/v1/jobs/{job_id}", user)).json()
        return job if job["completed_at"] else None

    async def usage(self) -> list[Json]:
        """The usage events in the outbox, oldest first."""
        stream: Any = await self.redis.xrange("outbox")
        return [json.loads(entry[b"event"]) for _, entry in stream if entry[b"kind"] == b"usage"]

    async def keys(self) -> set[str]:
        """The keys in Redis beside the outbox's and the limiter's own."""
        names: Any = await self.redis.keys()
        return {name.decode() for name in names if not name.startswith((b"outbox", b"rate:"))}

    async def beat(self, model: str = IMAGE_MODEL.name, **description: Any) -> None:
        """Say that a replica of the model runs."""
        job_store = JobStore(self.redis, Settings())
        await job_store.beat(ReplicaCard(model, "replica-1", VERSION, "cpu", description))


@asynccontextmanager
async def running_gateway(
    settings: Settings,
    authority: DevIssuerServer,
    *,
    cards: Sequence[ModelCard] = (IMAGE_MODEL, TEXT_MODEL),
    model: Answering | None = None,
    tracer: Tracer = NO_TRACES,
    cluster: str = "",
    **changes: Any,
) -> AsyncIterator[Running]:
    """A gateway whose settings are `settings` with `changes`, before one model under all names."""
    changes = {"oidc_issuers": (authority.url,), "oidc_audience": (AUDIENCE,), **changes}
    settings = settings.model_copy(update=changes)
    model = model or Answering()
    detector = Answering()
    detector.answer = lambda task: Outcome(task.job_id, result=DETECTIONS)
    handles = {card.name: detector if card is DETECTOR else model for card in cards}
    application = build_gateway(settings, cards, handles, version=VERSION, tracer=tracer, cluster=cluster)
    redis = connect_redis(settings)
    transport = httpx2.ASGITransport(application)
    async with (
        application.router.lifespan_context(application),
        httpx2.AsyncClient(
            transport=transport,
            base_url="http://gateway",
            timeout=30,
            event_hooks={"response": [hold_to_description]},
        ) as client,
    ):
        running = Running(application, client, redis, model, authority)
        running.detector = detector
        if any(name.endswith("_timeout_s") for name in changes):
            await _keys_known(running)
        yield running
        model.open.set()
        detector.open.set()
    await redis.aclose()


async def _keys_known(gateway: Running) -> None:
    """Fetch the issuer's keys, as the first token would: a short deadline is then for the request alone."""
    header = jwt.get_unverified_header(gateway.issuer.mint("ada"))
    await service_of(gateway).keys.find(gateway.issuer.url, header["kid"], header["alg"])


@asynccontextmanager
async def listening(application: Starlette) -> AsyncIterator[str]:
    """The URL of an application that answers on a real socket; its lifespan is someone else's."""
    config = uvicorn.Config(application, host="127.0.0.1", port=0, lifespan="off", log_level="warning")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


async def as_admin(gateway: Running, method: str, path: str, **parts: Any) -> httpx2.Response:
    """What root, an admin, is answered."""
    headers = {**gateway.bearer("root", realm_access={"roles": ["sem-admin"]}), **parts.pop("headers", {})}
    return await gateway.client.request(method, path, headers=headers, **parts)


def id_of(gateway: Running, user: str) -> str:
    """The principal id of whom `gateway.bearer(user)` is a token."""
    return principal_of({"iss": gateway.issuer.url, "sub": user}, Settings()).id


def audit_lines(caplog: pytest.LogCaptureFixture) -> list[Json]:
    """The lines of the audit log so far."""
    return [json.loads(record.message) for record in caplog.records if record.name == "serve_app.audit"]


def service_of(gateway: Running) -> Gateway:
    """The parts of the gateway, to see what it holds."""
    parts: Gateway = gateway.application.state.gateway
    return parts


async def held_back(gateway: Running, count: int = 1) -> None:
    """Return when so many requests wait."""
    service = service_of(gateway)
    await until(lambda: service.watch.waits.taken.total() == count)


def failed(slug: str, detail: str) -> Callable[[Task], Outcome]:
    """An answer that ends a job FAILED."""
    return lambda task: Outcome(task.job_id, failure=Failure(slug, detail))
