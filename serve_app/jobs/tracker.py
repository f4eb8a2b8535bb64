"""The only code that changes a job. Each change is one Lua script (`lua/`), so it happens whole or not at all.

Every method raises TrackerUnavailable when Redis is away and StoreFull when it is full (a submit only).
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from redis.asyncio import Redis

from serve_app.connections import redis_errors
from serve_app.contracts import Failure, Job, JobInput, JobStatus, Json, ReplicaCard, Task
from serve_app.errors import (
    IntakeStopped,
    InternalError,
    ModelRejected,
    QueueFull,
    ServiceError,
    StoreUnavailable,
)
from serve_app.jobs import limits
from serve_app.jobs.idempotency import earlier, first_of
from serve_app.jobs.keys import key
from serve_app.jobs.messages import Messages
from serve_app.jobs.records import (
    JOB_ID,
    Backlog,
    Chunk,
    Ledger,
    Place,
    QueueState,
    Submission,
    decode,
    decode_pairs,
    no_such_job,
    read_job,
    read_ledger,
    read_place,
    read_task,
)
from serve_app.jobs.scripts import Scripts
from serve_app.settings import Settings

_UNSTORABLE: Final = re.compile("[\0\ud800-\udfff]")
"""NUL and lone surrogates."""
_UNSTORABLE_ESCAPE: Final = re.compile(r"\\u(0000|d[89a-f])")
"""How a JSON text may show one of them; pairs of surrogates, which are no harm, look alike."""


class Tracker:
    """Jobs in Redis. One per process and event loop; safe to share between tasks. `cluster` is for whom it claims."""

    def __init__(self, redis: Redis, settings: Settings, *, cluster: str = "") -> None:
        self._redis = redis
        self._scripts = Scripts(redis, settings)
        self._cluster = cluster
        self.lease_seconds = settings.lease_seconds
        self.messages = Messages(redis)

    async def submit(self, submission: Submission) -> Job:
        """Accept a job: when this returns, Redis has it. A second call with the same id returns the first one's job.

        Its input must be stored: from now on it stays until the job ends. Where the idempotency key was used before,
        nothing is accepted and the job is that of the first submit, as it was then.
        Raises IdempotencyKeyReused, QueueFull, StoreFull, IntakeStopped, and StoreUnavailable when the stored input is
        gone already.
        """
        stored = submission.input or JobInput("", 0, 0, "")
        with redis_errors():
            reply = await self._scripts.run(
                "submit",
                submission.id,
                submission.owner,
                submission.model,
                submission.priority,
                json.dumps(submission.params, allow_nan=False),
                stored.reference,
                stored.bytes,
                stored.pixels,
                stored.media_type,
                submission.traceparent or "",
                submission.idempotency.hash if submission.idempotency else "",
                submission.idempotency.fingerprint if submission.idempotency else "",
                int(submission.keep),
            )
        if reply[0] == b"repeated":
            first = first_of(submission.idempotency, reply[1:])
            return _accepted(submission, first.id, first.at)
        if reply[0] == b"known":
            return await self.read(submission.id, submission.owner)
        if reply[0] != b"accepted":
            raise refused(reply)
        return _accepted(submission, submission.id, reply[1])

    async def earlier(self, submission: Submission) -> Job | None:
        """What `submit` would answer from memory, before the input is stored. Raises IdempotencyKeyReused."""
        first = await earlier(self._redis, submission.idempotency)
        return _accepted(submission, first.id, first.at) if first else None

    async def read(self, job_id: str, owner: str) -> Job:
        """The job, for its owner alone. Raises JobUnknown for an id that is unknown, malformed or someone else's."""
        if JOB_ID.fullmatch(job_id):
            record = await self._hash(key("job", id=job_id))
            if record and record["owner"] == owner:
                return read_job(job_id, record)
        raise no_such_job()

    async def claim(
        self, model: str, *, limit: int, max_bytes: int, max_pixels: int, chunks_per_replica: int
    ) -> Chunk | None:
        """Take up to `limit` waiting jobs under one lease. None: nothing waits, the window is full, or another cluster
        is active.

        The window is the number of chunks that all claimers together may hold: `chunks_per_replica` for each running
        replica, at least one. The first job is taken whatever its size; the caps are for those after it.
        """
        token = secrets.token_hex(16)
        with redis_errors():
            reply = await self._scripts.run(
                "claim", model, token, limit, max_bytes, max_pixels, chunks_per_replica, self._cluster
            )
        return Chunk(model, token, tuple(read_task(token, task) for task in reply)) if reply else None

    async def renew(self, chunk: Chunk) -> tuple[Task, ...]:
        """Hold the chunk's lease for another term: those of its tasks that are still its own."""
        with redis_errors():
            ours = await self._scripts.run("renew", chunk.model, chunk.token, *(task.job_id for task in chunk.tasks))
        return tuple(task for task in chunk.tasks if task.job_id.encode() in ours)

    async def give_back(self, tasks: Sequence[Task]) -> int:
        """Return jobs that were not begun, to their old place; the delivery does not count. How many it did return."""
        return await self._release("give_back", tasks)

    async def lose(self, tasks: Sequence[Task], reason: str, *, suspects: bool = False) -> int:
        """Return jobs whose replica was lost; the delivery counts, and may make a job dead. How many it did count.

        With `suspects` each runs alone from now on, however few losses it has: one of them is likely the cause.
        """
        return await self._release("lose", tasks, _sentence(reason), b"1" if suspects else b"0")

    async def _release(self, script: str, tasks: Sequence[Task], *arguments: bytes) -> int:
        if not tasks:
            return 0
        with redis_errors():
            reply = await self._scripts.run(script, tasks[0].token, *arguments, *(task.job_id for task in tasks))
        return int(reply)

    async def start_alone(self, task: Task) -> bool:
        """Report that a suspect begins alone. False: the lease is no longer ours, do not begin."""
        with redis_errors():
            return bool(await self._scripts.run("start_alone", task.job_id, task.token))

    async def complete(self, results: Sequence[tuple[Task, Json]]) -> list[bool]:
        """End jobs as COMPLETED; False for each that had ended before. No lease is needed: finished work counts.

        A result that is no JSON or larger than RESULT_MAX_BYTES ends its job as FAILED, if the lease still holds it.
        """
        texts = [(task, _result_text(result)) for task, result in results]
        good = [(task, text) for task, text in texts if isinstance(text, str)]
        ended = {}
        if good:
            arguments = (part for task, text in good for part in (task.job_id, text))
            with redis_errors():
                reply = await self._scripts.run("complete", *arguments)
            ended = {task.job_id: bool(done) for (task, _), done in zip(good, reply, strict=True)}
        for task, failure in texts:
            if isinstance(failure, Failure):
                [ended[task.job_id]] = await self.fail([(task, failure)])
        return [ended[task.job_id] for task, _ in texts]

    async def fail(self, failures: Sequence[tuple[Task, Failure]]) -> list[bool]:
        """End jobs of one chunk as FAILED; False for each that the lease no longer holds."""
        if not failures:
            return []
        arguments = (
            part for task, failure in failures for part in (task.job_id, failure.slug, _sentence(failure.detail))
        )
        with redis_errors():
            return [bool(done) for done in await self._scripts.run("fail", failures[0][0].token, *arguments)]

    async def close_chunk(self, chunk: Chunk) -> None:
        """Free the chunk's place in the window."""
        with redis_errors():
            await self._scripts.run("close_chunk", chunk.model, chunk.token)

    async def beat(self, card: ReplicaCard) -> None:
        """Say that a replica runs; it counts for HEARTBEAT_S."""
        with redis_errors():
            await self._scripts.run("beat", card.model, json.dumps(asdict(card), sort_keys=True))

    async def replicas(self, model: str) -> list[ReplicaCard]:
        """The running replicas of a model."""
        with redis_errors():
            return [ReplicaCard(**json.loads(card)) for card in await self._scripts.run("replicas", model)]

    async def ledger(self, model: str) -> Ledger:
        """The model's counters."""
        return read_ledger(await self._hash(key("ledger", model=model)))

    async def backlog(self, model: str) -> Backlog:
        """How many jobs of the model wait and run, at one moment."""
        with redis_errors():
            async with self._redis.pipeline(transaction=True) as pipeline:
                pipeline.hgetall(key("ledger", model=model))
                pipeline.zcard(key("lease", model=model))
                counters, leased = await pipeline.execute()
        return Backlog(waiting=read_ledger(decode(counters)).in_flight - leased, leased=leased)

    async def queue(self, model: str) -> QueueState:
        """All that is counted of a model's queue, at one moment."""
        with redis_errors():
            leased, dead, replicas, oldest_ms, waiting, ledger = await self._scripts.run("queue", model)
        return QueueState(leased, dead, replicas, oldest_ms / 1000, waiting, read_ledger(decode_pairs(ledger)))

    async def place(self, job_id: str) -> Place | None:
        """Where the job waits; None when it does not."""
        with redis_errors():
            reply = await self._scripts.run("place", job_id)
        return read_place(reply) if reply else None

    async def _hash(self, name: str) -> dict[str, str]:
        with redis_errors():
            return decode(await self._redis.hgetall(name))


def _accepted(submission: Submission, job_id: str, submitted_at: int) -> Job:
    return Job(
        id=job_id,
        owner=submission.owner,
        model=submission.model,
        status=JobStatus.PENDING,
        params=submission.params,
        input=submission.input,
        submitted_at=submitted_at,
        traceparent=submission.traceparent,
        priority=submission.priority,
        keep=submission.keep,
    )


def refused(reply: Sequence[bytes]) -> ServiceError:
    """The error for what a script replies that takes no job in now; `InternalError` for a word that none replies."""
    reason = reply[0]
    if reason == b"stopped":
        said = json.loads(reply[1])
        return IntakeStopped(f"No jobs are taken in now: {said['message']}", retry_after=said["retry_after_s"])
    if reason == b"jobs":
        return QueueFull("Too many jobs wait for this model. Try again later.", retry_after=limits.RETRY_AFTER_S)
    if reason == b"bytes":
        return QueueFull("The waiting inputs fill the queue. Try again later.", retry_after=limits.RETRY_AFTER_S)
    if reason == b"input":
        return StoreUnavailable("The stored input was gone before the job was accepted. Send it again.", retry_after=1)
    return InternalError(f"The job tracker replied what nobody here knows: {reason.decode(errors='replace')}.")


def _sentence(text: str) -> bytes:
    """What Redis keeps of a reason. It may quote a library or a file, so what is no Unicode text is replaced."""
    return text[: limits.REASON_MAX_CHARACTERS].encode(errors="replace")


def _result_text(result: Json) -> str | Failure:
    try:
        text = _as_json(result)
        if _UNSTORABLE_ESCAPE.search(text):
            text = _as_json(_storable(result))
    except (TypeError, ValueError, RecursionError):
        return ModelRejected("The model's result cannot be written as JSON.").as_failure()
    if len(text) > limits.RESULT_MAX_BYTES:  # ASCII: json.dumps escapes the rest
        return ModelRejected(f"The model's result is larger than {limits.RESULT_MAX_BYTES} bytes.").as_failure()
    return text


def _as_json(result: Any) -> str:
    return json.dumps(result, allow_nan=False, separators=(",", ":"))


def _storable(value: Any) -> Any:
    """The same without the characters that PostgreSQL takes in no text: each becomes U+FFFD, here, so that a result is
    the same from the record and from there."""
    if isinstance(value, str):
        return _UNSTORABLE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {_storable(name): _storable(part) for name, part in value.items()}
    return [_storable(part) for part in value] if isinstance(value, list | tuple) else value
