"""The tracker against a model of it in plain Python: after any sequence of calls both hold the same jobs."""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from redis import Redis as BlockingRedis

from serve_app.connections import connect_redis
from serve_app.contracts import AuditEvent, Failure, JobInput, Priority, Task
from serve_app.errors import IdempotencyKeyReused, JobUnknown, QueueFull, ServiceError, StoreUnavailable
from serve_app.jobs import limits
from serve_app.jobs.records import Chunk, Idempotency, Ledger, Submission
from serve_app.jobs.store import JobStore
from serve_app.settings import Settings

ACTIONS = ("complete", "complete_too_large", "fail", "give_back", "lose", "lose_chunk", "start_alone", "expire")
ASKED = ("submit_again", "cancel", "retry", "remove", "expire_record")
MODEL = "m"
STEPS = int(os.environ.get("JOBS_MODEL_STEPS", "2000"))
"""How many at least; a long run takes about 80 a second: CONTRIBUTING.md says how."""
SEQUENCE = 100
OWNERS = ("ann", "bob", "cyd")
MAX_JOBS, MAX_BYTES, MAX_DEAD = 8, 400, 2
COUNTERS = tuple(counter.name for counter in fields(Ledger))
DEAD_BYTES = MAX_BYTES // 8
EVENT = AuditEvent("e", 1, "p", "root", "requeue", "job", "", "127.0.0.1", "r")


def new_id(number: int) -> str:
    """Job ids that are the same in every run."""
    return str(uuid.UUID(int=number, version=4))


@dataclass
class Known:
    """What the model knows of a job. `place` orders the jobs of one owner."""

    owner: str
    priority: Priority
    place: int
    bytes: int
    status: str = "PENDING"
    run: int = 1
    deliveries: int = 0
    strikes: int = 0
    token: str = ""
    alone: str = ""
    expired: bool = False
    dead: bool = False
    evicted: bool = False
    """Dead, and no longer among those that are kept as such: its record goes as any other's."""
    kept: bool = True

    @property
    def in_flight(self) -> bool:
        return self.status in ("PENDING", "PROCESSING")

    @property
    def weight(self) -> int:
        return weight(self.bytes)


def weight(size: int) -> int:
    """What a job with an input of this size weighs: its parameters too."""
    return size + len(json.dumps({"n": size}))


class TrackerMachine(RuleBasedStateMachine):
    """Every rule does the same to both; the invariants compare everything that is in Redis."""

    service: Settings
    seen: ClassVar[Counter[str]]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.redis: BlockingRedis = BlockingRedis.from_url(
            self.service.redis_url.get_secret_value(), decode_responses=True
        )
        self.redis.flushall()
        self.client = connect_redis(self.service, max_connections=2)
        self.job_store = JobStore(self.client, self.service)
        self.audited = 0
        self.jobs: dict[str, Known] = {}
        self.handed: list[Task] = []
        self.chunks: dict[str, Chunk] = {}
        self.dead: list[str] = []
        self.ledger: Counter[str] = Counter()
        self.removals = 0

    def teardown(self) -> None:
        self.run(self.client.aclose())
        self.runner.close()
        self.redis.close()

    def run(self, call: Any) -> Any:
        return self.runner.run(call)

    # What happens.

    @rule(owner=st.sampled_from(OWNERS), priority=st.sampled_from(Priority), size=st.sampled_from([0, 10, 30, 200]))
    def submit(self, owner: str, priority: Priority, size: int) -> None:
        job_id = new_id(len(self.jobs))
        full = self.is_full(weight(size))
        stored = JobInput(f"blob:{job_id}", size, size, "image/png") if size else None
        if stored and not full:
            self.redis.set(stored.reference, b"x" * size, ex=900)
        try:
            once = Idempotency(job_id, "f")
            self.run(
                self.job_store.submit(Submission(job_id, owner, MODEL, {"n": size}, stored, priority, idempotency=once))
            )
        except QueueFull:
            assert full
            return
        assert not full
        self.ledger["accepted"] += 1
        self.jobs[job_id] = Known(owner, priority, self.ledger["accepted"], size)

    @precondition(lambda self: self.jobs)
    @rule(asked=st.lists(st.tuples(st.sampled_from(ASKED), st.integers(1, 7)), min_size=1, max_size=3))
    def ask(self, asked: list[tuple[str, int]]) -> None:
        """What owners ask about their jobs, the latest or older ones."""
        for name, back in asked:
            getattr(self, name)(list(self.jobs)[-min(back, len(self.jobs))])

    def submit_again(self, first: str) -> None:
        """Whatever became of the first, a repeated submit is that one, also while the queue is full."""
        again = Submission(new_id(998), self.jobs[first].owner, MODEL, {}, idempotency=Idempotency(first, "f"))
        assert self.run(self.job_store.submit(again)).id == first == self.run(self.job_store.find_earlier(again)).id
        self.seen["repeated"] += 1
        other = replace(again, idempotency=Idempotency(first, "g"))
        for call in (self.job_store.submit, self.job_store.find_earlier):
            with pytest.raises(IdempotencyKeyReused):
                self.run(call(other))

    @rule()
    def submit_without_its_input(self) -> None:
        missing = JobInput("blob:gone", 1, 1, "image/png")
        with pytest.raises((StoreUnavailable, QueueFull)):
            self.run(self.job_store.submit(Submission(new_id(999), "ann", MODEL, {}, missing)))

    @rule(limit=st.integers(1, 5), window=st.integers(1, 3))
    def claim(self, limit: int, window: int) -> None:
        chunk = self.run(
            self.job_store.claim(MODEL, limit=limit, max_bytes=60, max_pixels=60, chunks_per_replica=window)
        )
        self.expect_expired(limit)
        waiting = {job_id: job for job_id, job in self.jobs.items() if job.status == "PENDING"}
        if chunk is None:
            assert not waiting or len(self.chunks) >= 1  # no replica beats here, so the window is one chunk
            return
        assert not self.chunks
        self.chunks[chunk.token] = chunk
        self.expect_fair(chunk, waiting)
        for task in chunk.tasks:
            job = self.jobs[task.job_id]
            assert task.alone == (job.deliveries >= limits.SUSPECT_AFTER)
            assert not task.alone or len(chunk.tasks) == 1
            job.status, job.token, job.deliveries = "PROCESSING", chunk.token, job.deliveries + 1
            self.handed.append(task)
        self.seen["suspect"] += chunk.tasks[0].alone

    def expect_expired(self, limit: int) -> None:
        for _, job in sorted((job_id, job) for job_id, job in self.jobs.items() if job.expired)[:limit]:
            self.expect_lost(job)

    def expect_fair(self, chunk: Chunk, waiting: dict[str, Known]) -> None:
        assert 1 <= len(chunk.tasks) <= 5
        assert sum(task.input.bytes if task.input else 0 for task in chunk.tasks[1:]) <= 60
        taken = [(task.job_id, waiting[task.job_id]) for task in chunk.tasks]
        for priority in Priority:
            mine = [(job_id, job) for job_id, job in taken if job.priority is priority]
            turns = Counter(job.owner for _, job in mine)
            rest = [job for job_id, job in waiting.items() if job.priority is priority and (job_id, job) not in mine]
            for owner in {job.owner for job in rest}:
                left = min(job.place for job in rest if job.owner == owner)
                assert all(job.place < left for _, job in mine if job.owner == owner), "out of an owner's order"
                assert max(turns.values(), default=0) - turns[owner] <= 1, "an owner was passed over"
            if rest and priority is Priority.NORMAL:
                assert all(job.priority is Priority.NORMAL for _, job in taken), "a later class was served first"

    @precondition(lambda self: self.handed)
    @rule(actions=st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(1, 7)), min_size=1, max_size=6))
    def act(self, actions: list[tuple[str, int]]) -> None:
        """Do something with tasks that were handed out, now or long ago: most of the earlier ones are zombies."""
        for action, back in actions:
            getattr(self, action)(self.handed[-min(back, len(self.handed))])

    def expire(self, task: Task) -> None:
        job = self.jobs[task.job_id]
        if job.status == "PROCESSING":
            self.redis.zadd(f"lease:{MODEL}", {task.job_id: 1})
            job.expired = True

    def cancel(self, job_id: str) -> None:
        job = self.jobs[job_id]
        refused = "job-ended" if job.kept else "job-unknown"
        may = job.in_flight or (job.status == "CANCELLED" and job.kept)
        assert self.attempt(self.job_store.cancel(job_id, job.owner)) == ("done" if may else refused)
        self.seen[f"cancelled while {job.status}"] += job.in_flight
        if job.in_flight:
            self.expect_ended(job, "CANCELLED")

    def retry(self, job_id: str) -> None:
        """One that failed, if there is any: few do."""
        lost = [one for one, job in self.jobs.items() if job.kept and job.status == "FAILED" and not job.dead]
        job_id = lost[-1] if lost else job_id
        job = self.jobs[job_id]
        expected = "retry-refused"
        if not job.kept:
            expected = "job-unknown"
        elif job.status == "FAILED" and not job.dead:
            expected = "queue-full" if self.is_full(job.weight) else "done"
        assert self.attempt(self.job_store.retry(job_id, job.owner)) == expected
        if expected == "done":
            job.status, job.run, job.deliveries, job.strikes = "PENDING", job.run + 1, 0, 0
            self.ledger["reopened"] += 1
            self.seen["reopened"] += 1

    def remove(self, job_id: str) -> None:
        job = self.jobs[job_id]
        expected = "job-not-finished" if job.in_flight else "done" if job.kept else "job-unknown"
        assert self.attempt(self.job_store.remove(job_id, job.owner)) == expected
        if expected == "done":
            self.removals += 1
            self.seen["removed"] += 1
            self.forget(job_id)

    def expire_record(self, job_id: str) -> None:
        """JOB_TTL has passed since a job's end."""
        job = self.jobs[job_id]
        if job.kept and not job.in_flight and (not job.dead or job.evicted):
            self.redis.delete(f"job:{job_id}", f"blob:{job_id}")
            self.forget(job_id)

    def forget(self, job_id: str) -> None:
        self.jobs[job_id].kept = False
        if job_id in self.dead:
            self.dead.remove(job_id)

    def attempt(self, call: Any) -> str:
        """What a call of the desk came to: `done`, or the slug of its refusal."""
        try:
            self.run(call)
        except ServiceError as refusal:
            return refusal.slug
        return "done"

    @precondition(lambda self: self.chunks)
    @rule()
    def renew(self) -> None:
        chunk = next(iter(self.chunks.values()))
        ours = [task for task in chunk.tasks if self.holds(task)]
        assert list(self.run(self.job_store.renew(chunk))) == ours
        for task in ours:
            self.jobs[task.job_id].expired = False

    @precondition(lambda self: self.chunks)
    @rule()
    def close_chunk(self) -> None:
        self.run(self.job_store.close_chunk(self.chunks.popitem()[1]))

    def give_back(self, task: Task) -> None:
        assert self.run(self.job_store.give_back([task])) == self.holds(task)
        if self.holds(task):
            job = self.jobs[task.job_id]
            self.expect_waiting(job)
            job.deliveries -= 1

    def lose(self, task: Task) -> None:
        self.lose_all([task])

    def lose_chunk(self, task: Task) -> None:
        self.lose_all([other for other in self.handed if other.token == task.token])

    def lose_all(self, tasks: Sequence[Task]) -> None:
        held = [self.jobs[one.job_id] for one in tasks if self.holds(one)]
        assert self.run(self.job_store.release_as_lost(tasks, "the replica was lost")) == len(held)
        for job in held:
            self.expect_lost(job)

    @precondition(lambda self: not self.chunks)
    @rule(times=st.integers(1, 4))
    def crash(self, times: int) -> None:
        """Replicas die one after the other with what they claimed, which is the same jobs again and again."""
        for _ in range(times):
            self.claim(5, 1)
            for chunk in list(self.chunks.values()):
                for task in chunk.tasks:
                    if task.alone:
                        self.start_alone(task)
                self.lose_all(chunk.tasks)
                self.close_chunk()

    def start_alone(self, task: Task) -> None:
        assert self.run(self.job_store.start_alone(task)) == self.holds(task)
        if self.holds(task):
            self.jobs[task.job_id].alone = task.token

    def complete_too_large(self, task: Task) -> None:
        self.complete(task, large=True)

    def complete(self, task: Task, large: bool = False) -> None:
        job = self.jobs[task.job_id]
        takes = self.holds(task) if large else job.in_flight
        result = {"answer": "x" * 70_000 if large else "x"}
        assert self.run(self.job_store.complete([(task, result)])) == [takes]
        if takes:
            self.seen["late"] += not self.holds(task)
            self.expect_ended(job, "FAILED" if large else "COMPLETED")

    def fail(self, task: Task) -> None:
        held = self.holds(task)
        assert self.run(self.job_store.fail([(task, Failure("model-rejected", "no"))])) == [held]
        if held:
            self.expect_ended(self.jobs[task.job_id], "FAILED")

    @precondition(lambda self: self.dead)
    @rule(back=st.integers(0, MAX_DEAD - 1))
    def requeue(self, back: int) -> None:
        """The next run of a dead job; tokens of the run before are worth what those of any lost lease are."""
        job_id = self.dead[-min(back + 1, len(self.dead))]
        job = self.jobs[job_id]
        full = self.is_full(job.weight)
        try:
            job.run = self.run(self.job_store.requeue_dead(job_id, EVENT))
        except QueueFull:
            assert full
            return
        assert not full
        self.dead.remove(job_id)
        self.expect_waiting(job)
        job.dead, job.deliveries, job.strikes = False, 0, 0
        self.ledger["reopened"] += 1
        self.note("requeued")

    @precondition(lambda self: self.dead)
    @rule(back=st.integers(0, MAX_DEAD - 1))
    def drop(self, back: int) -> None:
        job_id = self.dead.pop(-min(back + 1, len(self.dead)))
        self.run(self.job_store.drop_dead(job_id, EVENT))
        self.removals += 1
        self.jobs[job_id].kept = False
        self.note("dropped")

    def expect_unknown(self) -> None:
        """What is not dead, or not any more, is neither requeued nor dropped."""
        others = [job_id for job_id in self.jobs if job_id not in self.dead]
        for call in (self.job_store.requeue_dead, self.job_store.drop_dead):
            with pytest.raises(JobUnknown):
                self.run(call(others[-1] if others else new_id(998), EVENT))

    def note(self, what: str) -> None:
        """An admin did it."""
        self.expect_unknown()
        self.audited += 1
        self.seen[what] += 1

    # What the model says to it.

    def is_full(self, more: int) -> bool:
        in_flight = [job for job in self.jobs.values() if job.in_flight]
        return len(in_flight) >= MAX_JOBS or sum(job.weight for job in in_flight) + more > MAX_BYTES

    def holds(self, task: Task) -> bool:
        job = self.jobs[task.job_id]
        return job.status == "PROCESSING" and job.token == task.token

    def expect_waiting(self, job: Known) -> None:
        job.status, job.token, job.alone, job.expired = "PENDING", "", "", False

    def expect_lost(self, job: Known) -> None:
        job.strikes += bool(job.alone) and job.alone == job.token
        if job.strikes >= limits.MAX_STRIKES or job.deliveries >= limits.MAX_DELIVERIES:
            self.expect_ended(job, "FAILED", dead=True)
        else:
            self.expect_waiting(job)

    def expect_ended(self, job: Known, status: str, dead: bool = False) -> None:
        self.expect_waiting(job)
        job.status, job.dead = status, dead
        self.ledger["dead" if dead else status.lower()] += 1
        self.seen["dead" if dead else status.lower()] += 1
        if not dead:
            return
        self.dead.append(next(job_id for job_id, other in self.jobs.items() if other is job))
        while len(self.dead) > MAX_DEAD or sum(self.jobs[job_id].bytes for job_id in self.dead) > DEAD_BYTES:
            oldest = min(self.dead, key=lambda job_id: (self.died_at(job_id), job_id))
            self.dead.remove(oldest)
            self.seen["evicted"] += 1
            self.jobs[oldest].evicted = True

    def died_at(self, job_id: str) -> int:
        """When Redis says that a job died: its record may be gone, its event is not."""
        return next(
            int(event["completed_at"])
            for _, event in self.redis.xrevrange("outbox")
            if (event.get("job_id"), event["kind"]) == (job_id, "outcome")
        )

    # What must hold after every step.

    @invariant()
    def the_ledger_balances(self) -> None:
        self.seen["steps"] += 1
        ledger = self.run(self.job_store.ledger(MODEL))
        with self.redis.pipeline() as pipeline:
            pipeline.get("held-bytes").get(f"dead-bytes:{MODEL}").xlen("outbox").zcard(f"lease:{MODEL}")
            held, dead, events, leased = pipeline.execute()
        in_flight = [job for job in self.jobs.values() if job.in_flight]
        assert asdict(ledger) == {name: self.ledger[name] for name in COUNTERS}
        assert ledger.in_flight == len(in_flight)
        assert leased == sum(job.status == "PROCESSING" for job in in_flight)
        assert int(held or 0) == sum(job.weight for job in in_flight)
        assert int(dead or 0) == sum(self.jobs[job_id].bytes for job_id in self.dead)
        ends = ledger.completed + ledger.failed + ledger.dead + ledger.cancelled
        assert events == ends + self.removals + self.audited

    @invariant()
    def the_records_are_right(self) -> None:
        kept = [job_id for job_id, job in self.jobs.items() if job.kept]
        with self.redis.pipeline() as pipeline:
            for job_id in kept:
                pipeline.hgetall(f"job:{job_id}").ttl(f"job:{job_id}").exists(f"blob:{job_id}").ttl(f"blob:{job_id}")
            replies = pipeline.execute()
        for place, job_id in enumerate(kept):
            record, ttl, blob, blob_ttl = replies[4 * place : 4 * place + 4]
            job = self.jobs[job_id]
            stays = job.in_flight or (job.dead and not job.evicted)
            assert (record["status"], int(record["deliveries"])) == (job.status, job.deliveries)
            assert (int(record["strikes"]), int(record["run"])) == (job.strikes, job.run)
            assert record.get("token", "") == job.token
            assert ttl == -1 if stays else 0 < ttl <= self.service.job_ttl
            has_blob = job.bytes > 0 and not job.evicted and job.status not in ("COMPLETED", "CANCELLED")
            assert blob == has_blob
            assert not blob or (blob_ttl == -1) == stays

    @invariant()
    def no_key_is_left_over(self) -> None:
        waiting = [job for job in self.jobs.values() if job.status == "PENDING"]
        expected = {"outbox", "held-bytes", f"ledger:{MODEL}", f"dead-bytes:{MODEL}", f"dead:{MODEL}"}
        expected |= {f"lease:{MODEL}", f"chunks:{MODEL}"}
        expected |= {f"wait:{MODEL}:{job.priority}:{job.owner}" for job in waiting}
        expected |= {f"idem:{job_id}" for job_id in self.jobs} | {
            f"{kind}:{owner}" for owner in OWNERS for kind in ("idems", "jobs")
        }
        expected |= {f"removed:{job_id}" for job_id, job in self.jobs.items() if not job.kept}
        expected |= {f"ring:{MODEL}:{job.priority}" for job in waiting}
        expected |= {f"{kind}:{job_id}" for job_id, job in self.jobs.items() if job.kept for kind in ("job", "blob")}
        with self.redis.pipeline() as pipeline:
            pipeline.keys().zrange(f"chunks:{MODEL}", 0, -1)
            for priority in Priority:
                pipeline.zrange(f"ring:{MODEL}:{priority}", 0, -1)
            keys, chunks, *rings = pipeline.execute()
        assert set(keys) <= expected
        assert set(chunks) == set(self.chunks)
        for priority, ring in zip(Priority, rings, strict=True):
            assert set(ring) == {job.owner for job in waiting if job.priority is priority}


@pytest.mark.fault(reason="2,000 random steps")
@pytest.mark.timeout(max(600, STEPS // 20))
def test_any_sequence_of_calls_keeps_the_books(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, number in (("limits.SUSPECT_AFTER", 1), ("limits.MAX_STRIKES", 2), ("limits.MAX_DELIVERIES", 4)):
        monkeypatch.setattr(f"serve_app.jobs.{name}", number)  # short lives: random calls reach their ends

    class Machine(TrackerMachine):
        service = settings.model_copy(
            update={
                "lease_seconds": 86_400,
                "queue_max_jobs": MAX_JOBS,
                "queue_max_bytes": MAX_BYTES,
                "dead_max_jobs": MAX_DEAD,
            }
        )
        seen: ClassVar[Counter[str]] = Counter()

    run_state_machine_as_test(
        Machine,
        settings=hypothesis_settings(
            max_examples=STEPS * 5 // (4 * SEQUENCE),
            stateful_step_count=SEQUENCE,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    tried = {"completed", "failed", "dead", "late", "suspect", "repeated", "reopened", "removed", "requeued", "dropped"}
    tried |= {"cancelled while PENDING", "cancelled while PROCESSING", "evicted"}
    assert tried <= set(+Machine.seen), f"tried: {Machine.seen}"
    assert Machine.seen["steps"] >= STEPS, f"tried: {Machine.seen}"
