"""The jobs in Redis: the only code that changes a job. Each change is one Lua script (`lua/`), which runs completely or
not at all.

Every method raises TrackerUnavailable when Redis is down, and StoreFull when it is full and the call needs room.
Methods with an owner raise JobUnknown for an id that is unknown, malformed or another owner's.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict
from operator import itemgetter
from typing import Any, Final, Literal, get_args

from redis.asyncio import Redis

from serve_app.connections import connect_redis, redis_errors
from serve_app.contracts import AuditEvent, Failure, Job, JobInput, JobStatus, Json, ReplicaCard, Task
from serve_app.errors import (
    IdempotencyKeyReused,
    InputGone,
    IntakeStopped,
    InternalError,
    JobEnded,
    JobNotFinished,
    JobUnknown,
    QueueFull,
    RetryRefused,
    ServiceError,
    StopUnknown,
    StoreUnavailable,
)
from serve_app.jobs import limits
from serve_app.jobs.messages import Messages
from serve_app.jobs.records import (
    JOB_ID,
    Backlog,
    Chunk,
    FirstAccepted,
    Idempotency,
    Ledger,
    Page,
    PageEnd,
    QueuePosition,
    QueueState,
    StopName,
    Stopped,
    Submission,
    decode,
    decode_pairs,
    no_such_job,
    of_newer_release,
    page_start,
    read_job,
    read_ledger,
    read_page_end,
    read_queue_position,
    read_row,
    read_task,
    result_text,
    sentence,
)
from serve_app.jobs.scripts import Scripts
from serve_app.keyspace import IDEM, JOB, LEASE, LEDGER, REMOVED, STOPS
from serve_app.settings import Settings, read_settings

Loss = Literal["", "suspects", "transient"]
"""Why a delivery ended without an answer, for `release_as_lost`."""


class JobStore:
    """Jobs in Redis. One per Redis client and event loop; tasks may share it. It claims jobs on behalf of `cluster`."""

    def __init__(self, redis: Redis, settings: Settings, *, cluster: str = "") -> None:
        self._redis = redis
        self.scripts = Scripts(redis, settings)
        self.cluster = cluster
        self.lease_seconds = settings.lease_seconds
        self.messages = Messages(redis)

    # Submit and read

    async def submit(self, submission: Submission) -> Job:
        """Accept a job: when this returns, Redis has it. A second call with the same id returns the first call's job.

        Its input must already be stored; from now on it stays until the job ends. If the idempotency key was used
        before, nothing is accepted, and the first submit's job is returned as it was then. Raises IdempotencyKeyReused,
        QueueFull, StoreFull, IntakeStopped, and StoreUnavailable when the stored input is gone already.
        """
        stored = submission.input or JobInput("", 0, 0, "")
        with redis_errors():
            reply = await self.scripts.run(
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
            first = check_repeated(submission.idempotency, reply[1:])
            return _accepted(submission, first.id, first.at)
        if reply[0] == b"known":
            return await self.read(submission.id, submission.owner)
        if reply[0] != b"accepted":
            raise refusal(reply)
        return _accepted(submission, submission.id, reply[1])

    async def find_earlier(self, submission: Submission) -> Job | None:
        """The job of the first submit with this idempotency key, to be called before the input is stored; None for a
        new key.

        Raises IdempotencyKeyReused.
        """
        first = await self.first_accepted(submission.idempotency)
        return _accepted(submission, first.id, first.at) if first else None

    async def first_accepted(self, asked: Idempotency | None) -> FirstAccepted | None:
        """The job or batch that was accepted first with this key; None for a new key. Raises IdempotencyKeyReused."""
        if asked is None:
            return None
        with redis_errors():
            found: Any = await self._redis.hmget(IDEM(hash=asked.hash), "fingerprint", "id", "at")
        return check_repeated(asked, found) if found[0] else None

    async def read(self, job_id: str, owner: str) -> Job:
        """The job, if it belongs to this owner."""
        if JOB_ID.fullmatch(job_id):
            record = await self._hash(JOB(id=job_id))
            if record and record["owner"] == owner:
                return read_job(job_id, record)
        raise no_such_job()

    async def page(
        self,
        owner: str,
        *,
        limit: int,
        after: PageEnd | None = None,
        since: int | None = None,
        status: JobStatus | None = None,
        model: str | None = None,
    ) -> Page:
        """Up to `limit` of the owner's jobs, newest first. A page may hold fewer jobs, even none, and not be the last.

        `after` is the `end` of the page before; `since` is in microseconds of Redis' clock.
        """
        oldest = "-inf" if since is None else str(since)
        asked = (*page_start(after), oldest, limit, status or "", model or "")
        with redis_errors():
            at, entry, *rows = await self.scripts.run("page", owner, *asked)
        return Page(tuple(read_row(owner, *row) for row in rows), read_page_end(at, entry))

    async def queue_position(self, job_id: str) -> QueuePosition | None:
        """The job's queue position; None if it does not wait."""
        with redis_errors():
            reply = await self.scripts.run("queue_position", job_id)
        return read_queue_position(reply) if reply else None

    # Changes by the owner

    async def cancel(self, job_id: str, owner: str) -> Job:
        """Cancel a job that waits or runs, at once; returns the job. A second call changes nothing.

        Raises JobEnded when it is COMPLETED or FAILED.
        """
        return await self._change("cancel", job_id, owner)

    async def retry(self, job_id: str, owner: str) -> Job:
        """Start the next run of a failed job, with the same input and parameters; returns the job. The limits of a
        submit apply.

        Raises RetryRefused when it did not fail or is dead, InputGone, QueueFull, StoreFull.
        """
        return await self._change("retry", job_id, owner)

    async def remove(self, job_id: str, owner: str) -> None:
        """Remove an ended job: record, input and outcome. The ledger still counts it. Raises JobNotFinished."""
        await self._ask("remove", job_id, owner)

    async def removed(self, job_ids: Sequence[str]) -> set[str]:
        """Those of the jobs that were removed within a day. PostgreSQL may still have their outcomes: do not show
        them."""
        if not job_ids:
            return set()
        with redis_errors():
            found: Any = await self._redis.mget([REMOVED(id=job_id) for job_id in job_ids])
        return {job_id for job_id, mark in zip(job_ids, found, strict=True) if mark is not None}

    async def _change(self, script: str, job_id: str, owner: str) -> Job:
        [fields] = await self._ask(script, job_id, owner)
        return read_job(job_id, decode_pairs(fields))

    async def _ask(self, script: str, job_id: str, owner: str) -> Sequence[Any]:
        """The script's reply after `done`."""
        if not JOB_ID.fullmatch(job_id):
            raise no_such_job()
        with redis_errors():
            reply: Sequence[Any] = await self.scripts.run(script, job_id, owner)
        if reply[0] != b"done":
            raise refusal(reply)
        return reply[1:]

    # Leases of dispatchers

    async def claim(
        self, model: str, *, limit: int, max_bytes: int, max_pixels: int, chunks_per_replica: int
    ) -> Chunk | None:
        """Claim up to `limit` waiting jobs under one lease. None: nothing waits, the window is full, or another cluster
        is active.

        The window is the number of chunks that all claimers together may hold: `chunks_per_replica` for each running
        replica, and at least one. The first job is claimed whatever its size; the size limits apply to the following
        ones.
        """
        token = secrets.token_hex(16)
        with redis_errors():
            reply = await self.scripts.run(
                "claim", model, token, limit, max_bytes, max_pixels, chunks_per_replica, self.cluster
            )
        return Chunk(model, token, tuple(read_task(token, task) for task in reply)) if reply else None

    async def renew(self, chunk: Chunk) -> tuple[Task, ...]:
        """Extend the chunk's lease by another term; returns the tasks that it still holds."""
        with redis_errors():
            held = await self.scripts.run("renew", chunk.model, chunk.token, *(task.job_id for task in chunk.tasks))
        return tuple(task for task in chunk.tasks if task.job_id.encode() in held)

    async def give_back(self, tasks: Sequence[Task]) -> int:
        """Return unstarted jobs to their old place in the queue without counting the delivery; returns their number."""
        return await self._release("give_back", tasks)

    async def release_as_lost(self, tasks: Sequence[Task], reason: str, kind: Loss = "") -> int:
        """Return jobs whose replica was lost. The delivery counts, and may make a job dead. Returns how many were
        counted.

        `suspects`: each job runs alone from now on, however few losses it has, because one of them is likely the cause.
        `transient`: the model failed for a reason that may pass; the job is dead after `limits.TRANSIENT_TRIES`.
        """
        return await self._release("release_as_lost", tasks, sentence(reason), kind.encode())

    async def _release(self, script: str, tasks: Sequence[Task], *arguments: bytes) -> int:
        if not tasks:
            return 0
        with redis_errors():
            reply = await self.scripts.run(script, tasks[0].token, *arguments, *(task.job_id for task in tasks))
        return int(reply)

    async def start_alone(self, task: Task) -> bool:
        """Report that a suspect starts alone. False: the lease no longer holds it, do not start."""
        with redis_errors():
            return bool(await self.scripts.run("start_alone", task.job_id, task.token))

    async def complete(self, results: Sequence[tuple[Task, Json]]) -> list[bool]:
        """End jobs as COMPLETED; False for each that had ended before. No lease is needed: finished work counts.

        If a result is not JSON or larger than RESULT_MAX_BYTES, its job ends as FAILED, provided that the lease still
        holds it.
        """
        texts = [(task, result_text(result)) for task, result in results]
        good = [(task, text) for task, text in texts if isinstance(text, str)]
        ended = {}
        if good:
            arguments = (part for task, text in good for part in (task.job_id, text))
            with redis_errors():
                reply = await self.scripts.run("complete", *arguments)
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
            part for task, failure in failures for part in (task.job_id, failure.slug, sentence(failure.detail))
        )
        with redis_errors():
            return [bool(done) for done in await self.scripts.run("fail", failures[0][0].token, *arguments)]

    async def close_chunk(self, chunk: Chunk) -> None:
        """Remove the chunk from the window of claims."""
        with redis_errors():
            await self.scripts.run("close_chunk", chunk.model, chunk.token)

    # Replicas and counts of a model

    async def beat(self, card: ReplicaCard) -> None:
        """Report that a replica runs; the report is valid for HEARTBEAT_S."""
        with redis_errors():
            await self.scripts.run("beat", card.model, json.dumps(asdict(card), sort_keys=True))

    async def replicas(self, model: str) -> list[ReplicaCard]:
        """The running replicas of a model."""
        with redis_errors():
            return [ReplicaCard(**json.loads(card)) for card in await self.scripts.run("replicas", model)]

    async def ledger(self, model: str) -> Ledger:
        """The model's counters."""
        return read_ledger(await self._hash(LEDGER(model=model)))

    async def backlog(self, model: str) -> Backlog:
        """How many jobs of the model wait and run, read in one step."""
        with redis_errors():
            async with self._redis.pipeline(transaction=True) as pipeline:
                pipeline.hgetall(LEDGER(model=model))
                pipeline.zcard(LEASE(model=model))
                counters, leased = await pipeline.execute()
        return Backlog(waiting=read_ledger(decode(counters)).in_flight - leased, leased=leased)

    async def queue_state(self, model: str) -> QueueState:
        """Every count of a model's queue, read in one step."""
        with redis_errors():
            leased, dead, replicas, oldest_ms, waiting, ledger = await self.scripts.run("queue_state", model)
        return QueueState(leased, dead, replicas, oldest_ms / 1000, waiting, read_ledger(decode_pairs(ledger)))

    # Dead letters: jobs that used up their strikes or deliveries, kept until an admin requeues or drops them

    async def dead_page(
        self, models: Sequence[str], limit: int, after: PageEnd | None = None
    ) -> tuple[list[Job], PageEnd | None]:
        """The newest `limit` dead jobs of these models after that position, and the end of this page; None on the last
        page.

        A page may hold fewer jobs, even none, and not be the last: jobs that are gone, and records of a newer release,
        are left out. Times are in milliseconds.
        """
        start = page_start(after)
        with redis_errors():
            pages = [await self.scripts.run("dead_page", model, *start, limit + 1) for model in models]
        found = [
            (PageEnd(int(at), job_id.decode()), decode_pairs(hash_)) for page in pages for job_id, at, hash_ in page
        ]
        found.sort(key=itemgetter(0), reverse=True)
        shown = found[:limit]
        jobs = [
            read_job(end.id, fields) for end, fields in shown if 0 < int(fields.get("v", 0)) <= limits.RECORD_VERSION
        ]
        return jobs, shown[-1][0] if len(found) > limit else None

    async def read_dead(self, job_id: str) -> tuple[Job, bool]:
        """A dead job, and whether its input still exists. Raises JobUnknown for any other id."""
        reply = await self._ask_dead("dead_read", job_id)
        return read_job(job_id, decode_pairs(reply[0])), bool(reply[1])

    async def requeue_dead(self, job_id: str, event: AuditEvent) -> int:
        """Start the next run of a dead job, without strikes or deliveries, at its old place; returns the run's number.

        The audit event is written in the same step. The limits of a submit apply. Raises JobUnknown, InputGone, and as
        `submit` when the queue or Redis is full.
        """
        reply = await self._ask_dead("dead_requeue", job_id, *event.pairs())
        if reply[0] == b"input-gone":
            raise InputGone("The job's input is gone, so it cannot run again. Drop it; its owner may send it anew.")
        if reply[0] != b"reopened":
            raise refusal(reply)
        return int(reply[1])

    async def drop_dead(self, job_id: str, event: AuditEvent) -> None:
        """Remove a dead job's record, input and outcome; the ledger still counts it as dead. Raises JobUnknown."""
        await self._ask_dead("dead_drop", job_id, *event.pairs())

    async def _ask_dead(self, script: str, job_id: str, *arguments: str | int) -> Any:
        reply = None
        if JOB_ID.fullmatch(job_id):
            with redis_errors():
                reply = await self.scripts.run(script, job_id, *arguments)
        if not reply:
            raise JobUnknown("There is no dead job with this id. It may have been dropped or requeued.")
        return reply

    # Stops: an admin refuses new jobs, of all models or of one, or lets a model's jobs wait. Accepted jobs stay. The
    # scripts of submits and claims check them, so a stop is in force in every gateway once it is written.

    async def add_stop(self, name: StopName, notice: Json, event: AuditEvent) -> None:
        """Set a stop, in place of the last one of this name. `notice`: `message` and `retry_after_s` for users."""
        with redis_errors():
            await self.scripts.run("stop", str(name), json.dumps(notice), *event.pairs())

    async def remove_stop(self, name: str, event: AuditEvent) -> None:
        """Lift a stop. Raises StopUnknown."""
        what, _, model = name.partition(":")
        with redis_errors():
            done = await self.scripts.run("resume", name, model if what == "work" else "", *event.pairs())
        if not done:
            raise StopUnknown("There is no stop of this name in force. GET /api/v1/admin/stops lists them.")

    async def stops(self) -> dict[str, Json]:
        """All stops in force, by name: the notice of each, with its author and time."""
        with redis_errors():
            found: Any = await self._redis.hgetall(STOPS())
        return {name.decode(): json.loads(notice) for name, notice in sorted(found.items())}

    async def stopped(self, models: Sequence[str]) -> dict[str, list[Stopped]]:
        """The kinds of stops in force for each of these models; a stop without a model applies to all."""
        stops, kinds = await self.stops(), get_args(Stopped)
        return {model: [kind for kind in kinds if {kind, f"{kind}:{model}"} & stops.keys()] for model in models}

    async def _hash(self, name: str) -> dict[str, str]:
        with redis_errors():
            return decode(await self._redis.hgetall(name))


class ReplicaHeartbeat:
    """A `contracts.ReplicaReporter`. Serve sends it to the replica, where it connects at its first use, with the
    settings of the replica's environment."""

    def __init__(self) -> None:
        self._store: JobStore | None = None

    async def beat(self, card: ReplicaCard) -> None:
        """As `ReplicaReporter.beat`."""
        await self._connected().beat(card)

    async def start_alone(self, task: Task) -> bool:
        """As `ReplicaReporter.start_alone`."""
        return await self._connected().start_alone(task)

    def _connected(self) -> JobStore:
        if self._store is None:
            settings = read_settings()
            self._store = JobStore(connect_redis(settings, max_connections=4), settings)
        return self._store


def check_repeated(asked: Idempotency | None, found: Sequence[bytes]) -> FirstAccepted:
    """The first request with this key, from its stored fingerprint, id and time. Raises IdempotencyKeyReused if that
    was another request."""
    fingerprint, first, at = found
    if asked is None or asked.fingerprint != fingerprint.decode():
        raise IdempotencyKeyReused("This Idempotency-Key was used for another request. Use a new one.")
    return FirstAccepted(first.decode(), int(at))


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


_REFUSALS: Final[dict[bytes, Callable[[], ServiceError]]] = {
    b"unknown": no_such_job,
    b"foreign": of_newer_release,
    b"ended": lambda: JobEnded("The job has ended already; its outcome stays."),
    b"unended": lambda: JobNotFinished("The job has not ended. Cancel it first.", retry_after=1),
    b"unfailed": lambda: RetryRefused("Only a job that failed can run again."),
    b"dead": lambda: RetryRefused("The job is dead after repeated losses; only an admin can requeue it."),
    b"input-gone": lambda: InputGone("The job's input is gone, so it cannot run again. Submit it anew."),
    b"input": lambda: StoreUnavailable(
        "The stored input was deleted before the job was accepted. Send it again.", retry_after=1
    ),
    b"jobs": lambda: QueueFull("Too many jobs wait for this model. Try again later.", retry_after=limits.RETRY_AFTER_S),
    b"bytes": lambda: QueueFull(
        "The waiting inputs fill the queue. Try again later.", retry_after=limits.RETRY_AFTER_S
    ),
}


def refusal(reply: Sequence[bytes]) -> ServiceError:
    """The error for a script's reply that refuses the call; `InternalError` for an unknown reply."""
    word = reply[0]
    if word == b"stopped":
        notice = json.loads(reply[1])
        return IntakeStopped(f"No jobs are taken in now: {notice['message']}", retry_after=notice["retry_after_s"])
    if make := _REFUSALS.get(word):
        return make()
    return InternalError(f"The job tracker gave an unknown reply: {word.decode(errors='replace')}.")
