"""The words every room shares: jobs, their inputs and outcomes, principals and events.

Plain frozen data, no behaviour beyond conversion, no imports from the rest of the package but none.
Times are integers: milliseconds since the Unix epoch, in the job Redis' clock where a job is meant.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Final, Literal, Protocol

SERVICE_NAME = "sem-image-classifier"

Json = dict[str, Any]

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")


def usable_request_id(given: str | None) -> str:
    """A caller's X-Request-ID when it is safe to log, store and echo, else a new one."""
    return given if given and _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def without_repeats(members: list[tuple[str, Any]]) -> Json:
    """The members of a JSON object; `object_pairs_hook` of `json.loads`. Raises ValueError for a name that is there
    twice: which of the two counts, no two readers agree (RFC 8259 section 4)."""
    found: Json = {}
    for name, value in members:
        if name in found:
            raise ValueError(f"it has {name[:100]!r} twice in one object")
        found[name] = value
    return found


class JobStatus(StrEnum):
    """The states of a job, the same words in the public API and in Redis."""

    PENDING = "PENDING"
    PROCESSING = "PROCESSING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


ENDED = frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED})


class Priority(StrEnum):
    """Classes of waiting jobs, the first served first. Within a class, owners take turns."""

    NORMAL = "normal"
    BULK = "bulk"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is asking, from a verified token only.

    `id` (hash of issuer and subject) owns jobs, records and limits. `name` is shown and reported, never compared.
    """

    id: str
    name: str
    group: str | None = None
    roles: frozenset[str] = frozenset()
    is_admin: bool = False


@dataclass(frozen=True, slots=True)
class JobInput:
    """A reference to stored bytes and what admission needs to know of them.

    `pixels` is the decoded size of the input in the unit its input layer counts (width x height x frames for images).
    """

    reference: str
    bytes: int
    pixels: int
    media_type: str


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job ended FAILED: the slug of a problem type (`errors.py`) and a sentence a person can act on."""

    slug: str
    detail: str


@dataclass(frozen=True, slots=True)
class Job:
    """One job as its record in Redis tells it."""

    id: str
    owner: str
    model: str
    status: JobStatus
    params: Json
    input: JobInput | None
    submitted_at: int
    started_at: int | None = None
    completed_at: int | None = None
    run: int = 1
    deliveries: int = 0
    strikes: int = 0
    result: Json | None = None
    failure: Failure | None = None
    traceparent: str | None = None
    priority: Priority = Priority.NORMAL
    keep: bool = False
    """Its owner asked to keep the input as long as the record."""

    @property
    def ended(self) -> bool:
        return self.status in ENDED


@dataclass(frozen=True, slots=True)
class Task:
    """One claimed job on its way to a model replica. `alone` marks a suspect: nothing else may run beside it."""

    job_id: str
    token: str
    params: Json
    input: JobInput | None
    alone: bool = False
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a model made of one task: exactly one of `result` and `failure` is set."""

    job_id: str
    result: Json | None = None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """A file that a model gives beside its result."""

    media_type: str
    data: bytes


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What the gateway needs to know of a served model. Built once by `app.build`; no weights, no torch."""

    name: str
    implementation: str
    """`module:Class`, importable without torch; its `Params` validates what a submit carries."""
    input_layer: Literal["image", "none"]
    params_schema: Json
    result_schema: Json
    max_batch_size: int
    chunks_per_replica: int
    """`max_ongoing_requests` of the deployment: chunks one replica holds at once."""
    wakes_from_zero: bool
    """True when the deployment may have no replica until a job comes."""


@dataclass(frozen=True, slots=True)
class ReplicaCard:
    """What a running model replica says of itself with every heartbeat."""

    model: str
    replica: str
    version: str
    device: str
    description: Json = field(default_factory=dict)
    """Model id, revision, weights' sha256, engine, precision, labels: shown by the API."""


class Registrar(Protocol):
    """The two things a model replica tells the tracker. `jobs` provides it, `app` hands it over."""

    def beat(self, card: ReplicaCard) -> Awaitable[None]:
        """Say that this replica runs; forgotten after a few missed beats."""
        ...

    def start_alone(self, task: Task) -> Awaitable[bool]:
        """Report that a suspect begins, alone. False: the lease is no longer ours, do not start."""
        ...


class ModelHandle(Protocol):
    """How the dispatcher reaches the replicas of one model."""

    def predict(self, chunk: Sequence[Task]) -> Awaitable[list[Outcome]]:
        """One outcome per task, in order. Raises `errors.ModelUnready` when the fault is not the input's,
        `errors.ReplicaLost` when the replica died or timed out while it held the chunk."""
        ...

    def warm_up(self) -> Awaitable[str]:
        """Send a warm-up input the whole way through one replica; its version. Raises as `predict` does."""
        ...

    def leave(self) -> None:
        """This gateway goes: chunks that no replica has yet, and those that come later, raise `errors.ModelUnready`."""
        ...


@dataclass(frozen=True, slots=True)
class UsageEvent:
    """One authenticated request, written before its response starts. Field names are the outbox's."""

    event_id: str
    timestamp: int
    principal_id: str
    username: str
    group: str
    endpoint_type: str
    status_code: int
    url_path: str
    latency_ms: float
    request_bytes: int
    job_id: str
    model: str
    request_id: str


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One thing an admin did, written by the script that does it. Field names are the outbox's."""

    event_id: str
    timestamp: int
    principal_id: str
    username: str
    action: str
    target: str
    detail: str
    address: str
    request_id: str

    def pairs(self) -> list[str | int]:
        """Field, value, field, value …: as a script hands it to the outbox."""
        return [part for field in fields(self) for part in (field.name, getattr(self, field.name))]


@dataclass(frozen=True, slots=True)
class OutcomeEvent:
    """One ended job, written by the script that ends it. Field names are the outbox's; the event id is `job_id:run`."""

    job_id: str
    run: int
    owner: str
    model: str
    status: str
    dead: bool
    slug: str
    detail: str
    result: str
    deliveries: int
    submitted_at: int
    started_at: int
    completed_at: int
