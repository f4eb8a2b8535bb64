"""Admin routes: request bodies, queries and answers."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, NotRequired, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from typing_extensions import TypedDict

from serve_app.contracts import Job, Json
from serve_app.gateway.schemas.common import (
    PRINCIPAL_ID,
    Count,
    JobProblem,
    Moment,
    Text,
    job_problem,
    lower_case,
    timestamp,
    timestamp_or_none,
)
from serve_app.jobs.records import QueueState, Stopped
from serve_app.settings import Rate

LIMIT: Final = 50
LIMIT_MAX: Final = 100
CURSOR: Final = r"^(\d{1,15})-([0-9a-f-]{36})$"
RETRY_AFTER_S: Final = 300
RETRY_AFTER_MAX_S: Final = 24 * 3600


class Decision(BaseModel):
    """Fields of all decisions. The id identifies the user; the name is for readers."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    principal_id: Annotated[str, BeforeValidator(lower_case), Field(pattern=f"^{PRINCIPAL_ID}$")]
    name: Text = ""
    reason: Annotated[Text, Field(min_length=1)]


class Block(Decision):
    """The user gets 403 with this reason until the block is removed."""


class Override(Decision):
    """Rates and quota of one user; values left out stay the general ones. A quota of 0 means no quota."""

    submits_per_s: Rate | None = None
    reads_per_s: Rate | None = None
    submits_per_day: Annotated[int, Field(ge=0, le=1_000_000_000)] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Override:
        if self.submits_per_s is None and self.reads_per_s is None and self.submits_per_day is None:
            raise ValueError("give at least one of submits_per_s, reads_per_s and submits_per_day")
        return self


class Stop(BaseModel):
    """A stop to be set. Refused users read the message."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    what: Stopped = "intake"
    model: str | None = None
    message: Annotated[Text, Field(min_length=1)]
    retry_after_s: Annotated[int, Field(ge=1, le=RETRY_AFTER_MAX_S)] = RETRY_AFTER_S

    @model_validator(mode="after")
    def _names_its_model(self) -> Stop:
        if self.what == "work" and self.model is None:
            raise ValueError("work is stopped model by model: name one")
        return self


class DeadJobsQuery(BaseModel):
    """Filters of dead jobs."""

    model_config = ConfigDict(frozen=True)

    model: str | None = None
    limit: Annotated[int, Field(ge=1, le=LIMIT_MAX)] = LIMIT
    cursor: Annotated[str, Field(pattern=CURSOR)] | None = None


class States(TypedDict):
    """Jobs since the beginning, by state; `total_jobs` and `queue_size` are older names."""

    total: Count
    total_jobs: Count
    pending: Count
    processing: Count
    completed: Count
    failed: Count
    cancelled: Count
    queue_size: Count


class Queue(States):
    """All models together, and each."""

    models: dict[str, States]


class Counters(TypedDict):
    """accepted + reopened = completed + failed + cancelled + dead + in_flight, and in_flight = waiting + running +
    difference. A difference other than 0 is a job that was lost or counted twice."""

    accepted: Count
    reopened: Count
    completed: Count
    failed: Count
    cancelled: Count
    dead: Count
    in_flight: int
    waiting: Count
    running: Count
    difference: int


class Ledgers(TypedDict):
    """Each model's counters."""

    models: dict[str, Counters]


class UserLimits(TypedDict):
    """Limits of one user; a quota of 0 means no quota."""

    submits_per_s: float
    reads_per_s: float
    submits_per_day: Count


class GlobalLimits(TypedDict):
    """Limits of all users together."""

    submits_per_s: float
    reads_per_s: float


class Limits(TypedDict):
    """The general limits in force, and how many users have a decision of their own."""

    burst_s: float
    user: UserLimits
    house: GlobalLimits
    submits_per_day_of_roles: dict[str, int]
    blocks: Count
    overrides: Count


class KeptBlock(TypedDict):
    """A block in force, its author and time."""

    principal_id: str
    name: str
    reason: str
    by: str
    by_id: str
    at: Moment


class KeptOverride(KeptBlock):
    """Rates in force for one user, their author and time."""

    submits_per_s: NotRequired[float]
    reads_per_s: NotRequired[float]
    submits_per_day: NotRequired[Count]


class Blocks(TypedDict):
    """Newest first."""

    blocks: list[KeptBlock]


class Overrides(TypedDict):
    """Newest first."""

    overrides: list[KeptOverride]


class DeadJob(TypedDict):
    """A job that was given up. `owner` is a principal id."""

    job_id: str
    model: str
    owner: str
    died_at: Moment
    run: Count
    deliveries: Count
    strikes: Count
    problem: JobProblem | None


class DeadJobs(TypedDict):
    """Newest first; `next_cursor` is null on the last page."""

    data: list[DeadJob]
    next_cursor: str | None


class DeadJobInput(TypedDict):
    """The input of the job, without its bytes."""

    media_type: str
    bytes: Count
    pixels: Count
    kept: bool


class DeadJobDetail(DeadJob):
    """All data of a dead job."""

    submitted_at: Moment
    started_at: Moment | None
    params: dict[str, Any]
    input: DeadJobInput | None


class Requeued(TypedDict):
    """The new run, which waits."""

    job_id: str
    status: Literal["PENDING"]
    run: Count


class KeptStop(TypedDict):
    """A stop in force, its author and time; without a model it applies to all."""

    stop: str
    what: Stopped
    model: str | None
    message: str
    retry_after_s: Count
    by: str
    by_id: str
    at: Moment


class Stops(TypedDict):
    """The stops in force, ordered by name."""

    stops: list[KeptStop]


def states(queue: QueueState) -> States:
    """The shape of the predecessor, plus `cancelled`, which the predecessor did not have; it counted dead jobs as
    failed."""
    ledger = queue.ledger
    return {
        "total": ledger.accepted,
        "total_jobs": ledger.accepted,
        "pending": queue.waiting,
        "processing": queue.leased,
        "completed": ledger.completed,
        "failed": ledger.failed + ledger.dead,
        "cancelled": ledger.cancelled,
        "queue_size": queue.waiting,
    }


def queue(each: dict[str, States]) -> Queue:
    """All models together, and each model."""
    words = next(iter(each.values()))
    total = {word: sum(cast(dict[str, int], states)[word] for states in each.values()) for word in words}
    return cast(Queue, {**total, "models": each})


def counters(queue: QueueState) -> Counters:
    """The counters of one model, and its jobs in flight: by these counters, and as counted in the queues."""
    ledger = queue.ledger
    return {
        "accepted": ledger.accepted,
        "reopened": ledger.reopened,
        "completed": ledger.completed,
        "failed": ledger.failed,
        "cancelled": ledger.cancelled,
        "dead": ledger.dead,
        "in_flight": ledger.in_flight,
        "waiting": queue.waiting,
        "running": queue.leased,
        "difference": queue.difference,
    }


def dead_job(job: Job) -> DeadJob:
    """The dead job as in a list."""
    failure = job.failure
    return {
        "job_id": job.id,
        "model": job.model,
        "owner": job.owner,
        "died_at": cast(str, timestamp_or_none(job.completed_at)),  # a dead job has ended
        "run": job.run,
        "deliveries": job.deliveries,
        "strikes": job.strikes,
        "problem": job_problem(failure.slug, failure.detail) if failure else None,
    }


def dead_job_detail(job: Job, *, input_is_kept: bool) -> DeadJobDetail:
    """The dead job with all its data except the image itself."""
    stored: DeadJobInput | None = None
    if job.input is not None:
        stored = {
            "media_type": job.input.media_type,
            "bytes": job.input.bytes,
            "pixels": job.input.pixels,
            "kept": input_is_kept,
        }
    return {
        **dead_job(job),
        "submitted_at": timestamp(job.submitted_at),
        "started_at": timestamp_or_none(job.started_at),
        "params": job.params,
        "input": stored,
    }


def decision(kept: Json) -> Any:
    """A block or an override (`KeptBlock`, `KeptOverride`) as stored in Redis, with its time as text."""
    return {**kept, "at": timestamp(kept["at"])}


def stop_object(name: str, kept: Json) -> KeptStop:
    """The stop of this name (`intake`, `intake:MODEL`, `work:MODEL`) with its record in Redis."""
    what, _, model = name.partition(":")
    return cast(KeptStop, {"stop": name, "what": what, "model": model or None, **kept, "at": timestamp(kept["at"])})
