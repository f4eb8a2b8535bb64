"""What the tests of jobs share: submissions, a card, and a stub model that answers from a task's parameters."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Redis

from serve_app.contracts import Failure, JobInput, ModelCard, Outcome, Output, Priority, ReplicaCard, Task
from serve_app.images.store import ImageStore
from serve_app.jobs.records import Chunk, Submission
from serve_app.jobs.store import JobStore

MODEL = "stub"
VERSION = "v1"


def submission(owner: str = "ann", *, stored: JobInput | None = None, **changes: Any) -> Submission:
    values: dict[str, Any] = {"id": str(uuid.uuid4()), "model": MODEL, "params": {"n": 1}, "priority": Priority.NORMAL}
    return Submission(owner=owner, input=stored, **{**values, **changes})


async def stored_image(redis: Redis, reference: str = "blob:a", size: int = 10, pixels: int = 10) -> JobInput:
    """An input that is in Redis, as an upload leaves it there."""
    await redis.set(reference, b"x" * size, ex=900)
    return JobInput(reference, size, pixels, "image/png")


async def claim(
    job_store: JobStore, limit: int = 100, *, max_bytes: int = 10**9, max_pixels: int = 10**9
) -> Chunk | None:
    """Claim as if a replica ran that takes any number of chunks."""
    await job_store.beat(ReplicaCard(MODEL, "r0", VERSION, "cpu"))
    return await job_store.claim(
        MODEL, limit=limit, max_bytes=max_bytes, max_pixels=max_pixels, chunks_per_replica=1000
    )


async def claim_one(job_store: JobStore, chunks_per_replica: int) -> Chunk | None:
    """Claim a chunk of one job, within the window of the replicas that the test made beat."""
    return await job_store.claim(
        MODEL, limit=1, max_bytes=10**9, max_pixels=10**9, chunks_per_replica=chunks_per_replica
    )


async def claimed(job_store: JobStore, limit: int = 100, **caps: int) -> Chunk:
    chunk = await claim(job_store, limit, **caps)
    assert chunk is not None
    return chunk


def card(*, max_batch_size: int = 4, chunks_per_replica: int = 2, wakes_from_zero: bool = False) -> ModelCard:
    return ModelCard(
        name=MODEL,
        implementation="stub:Stub",
        input_layer="none",
        params_schema={},
        result_schema={},
        max_batch_size=max_batch_size,
        chunks_per_replica=chunks_per_replica,
        wakes_from_zero=wakes_from_zero,
    )


@asynccontextmanager
async def configured(redis: Redis, name: str, value: object) -> AsyncIterator[None]:
    """While this lasts the server has this setting; afterwards the one from before."""
    before = (await redis.config_get(name))[name]
    await redis.config_set(name, value)
    try:
        yield
    finally:
        await redis.config_set(name, before)


async def store_files(store: ImageStore, redis: Redis, job_id: str, outputs: Mapping[str, Output]) -> None:
    """Store them as the replica that works on the job does."""
    await redis.hset(f"job:{job_id}", mapping={"status": "PROCESSING", "token": "now"})
    assert await store.put_outputs(job_id, "now", outputs)
    await redis.delete(f"job:{job_id}")


class StubModel:
    """Doubles `n`. `trouble` is raised instead of an answer; `gate` holds every call while it is closed."""

    def __init__(self) -> None:
        self.version = VERSION
        self.trouble: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.calls: list[list[Task]] = []
        self.warm_ups = 0

    async def predict(self, chunk: Sequence[Task]) -> list[Outcome]:
        self.calls.append(list(chunk))
        await self.gate.wait()
        if self.trouble:
            raise self.trouble
        return [self._answer(task) for task in chunk]

    async def warm_up(self) -> str:
        self.warm_ups += 1
        if self.trouble:
            raise self.trouble
        return self.version

    def drain(self) -> None:
        """It has all chunks that it was sent: none is to be taken back."""

    def _answer(self, task: Task) -> Outcome:
        if task.params["n"] < 0:
            return Outcome(task.job_id, failure=Failure("model-rejected", "n is negative"))
        return Outcome(task.job_id, result={"double": 2 * task.params["n"]})
