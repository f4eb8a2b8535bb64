"""The types that all packages share: jobs, their inputs and outcomes, principals and events.

Plain frozen data without behaviour beyond conversion; imports nothing from the rest of the package. Times are integers:
milliseconds since the Unix epoch, by the job Redis' clock for jobs.
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
    """A caller's X-Request-ID if it is safe to log, store and echo, else a new one."""
    return given if given and _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def without_repeats(members: list[tuple[str, Any]]) -> Json:
    """The members of a JSON object; an `object_pairs_hook` of `json.loads`. Raises ValueError for a repeated name,
    because readers differ in which member counts (RFC 8259 section 4)."""
    found: Json = {}
    for name, value in members:
        if name in found:
            raise ValueError(f"it has {name[:100]!r} twice in one object")
        found[name] = value
    return found


class JobStatus(StrEnum):
    """The states of a job, with the same names in the public API and in Redis."""

    PENDING = "PENDING"
    PROCESSING = "PROCESSING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


ENDED = frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED})


class Priority(StrEnum):
    """Classes of waiting jobs; all of the first are served first. Within a class owners take turns."""

    NORMAL = "normal"
    BULK = "bulk"


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller, from a verified token.

    `id` (hash of issuer and subject) owns jobs, records and limits. `name` is only shown and reported, never compared.
    """

    id: str
    name: str
    group: str | None = None
    roles: frozenset[str] = frozenset()
    is_admin: bool = False


@dataclass(frozen=True, slots=True)
class JobInput:
    """A reference to stored bytes and what admission needs to know about them.

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
    """One job, from its record in Redis."""

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
    """Whether the input is kept as long as the record."""

    @property
    def ended(self) -> bool:
        return self.status in ENDED


@dataclass(frozen=True, slots=True)
class Task:
    """One claimed job, sent to a model replica. `alone` marks a suspect: nothing else may run beside it."""

    job_id: str
    token: str
    params: Json
    input: JobInput | None
    alone: bool = False
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one task: exactly one of `result` and `failure` is set."""

    job_id: str
    result: Json | None = None
    failure: Failure | None = None
    transient: bool = False
    """The failure may pass: the job runs again after a pause."""


@dataclass(frozen=True, slots=True)
class Output:
    """A file that a model returns besides its result."""

    media_type: str
    data: bytes


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What the gateway needs to know about a served model. Built once by `app.build`; no weights, no torch."""

    name: str
    implementation: str
    """`module:Class`, importable without torch; its `Params` validates what a submit carries."""
    input_layer: Literal["image", "none"]
    params_schema: Json
    result_schema: Json
    max_batch_size: int
    chunks_per_replica: int
    """`max_ongoing_requests` of the deployment: chunks that one replica holds at once."""
    wakes_from_zero: bool
    """True if the deployment may have no replica until a job comes."""
    options: Json = field(default_factory=dict)
    """The block's `settings`."""
    reads_in_steps: bool = False
    """Whether images for it may have up to IMAGE_MAX_PIXELS_IN_STEPS pixels."""


@dataclass(frozen=True, slots=True)
class ReplicaCard:
    """What a running model replica reports with every heartbeat."""

    model: str
    replica: str
    version: str
    device: str
    description: Json = field(default_factory=dict)
    """Model id, revision, weights' sha256, engine, precision, labels: shown by the API."""


class ReplicaReporter(Protocol):
    """Stores what a model replica reports. `jobs` implements it, `app` passes it in."""

    def beat(self, card: ReplicaCard) -> Awaitable[None]:
        """Report that this replica runs. The report expires after a few missed beats."""
        ...

    def start_alone(self, task: Task) -> Awaitable[bool]:
        """Report that a suspect starts alone. False: the lease has expired, do not start."""
        ...


class ModelHandle(Protocol):
    """How the dispatcher calls the replicas of one model."""

    def predict(self, chunk: Sequence[Task]) -> Awaitable[list[Outcome]]:
        """One outcome per task, in order. Raises `errors.ModelUnready` if the fault is not the input's,
        `errors.ReplicaLost` if the replica died or timed out while it held the chunk."""
        ...

    def warm_up(self) -> Awaitable[str]:
        """Run a warm-up input through one replica; returns its version. Raises as `predict` does."""
        ...

    def drain(self) -> None:
        """Before a shutdown: calls that no replica has received yet, and later ones, raise `errors.ModelUnready`."""
        ...


@dataclass(frozen=True, slots=True)
class UsageEvent:
    """One authenticated request, recorded before its response starts. The outbox uses the same field names."""

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
    """One action of an admin, written by the script that performs it. The outbox uses the same field names."""

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
        """Field, value, field, value …: the form in which a script adds it to the outbox."""
        return [part for field in fields(self) for part in (field.name, getattr(self, field.name))]


@dataclass(frozen=True, slots=True)
class OutcomeEvent:
    """One ended job, written by the script that ends it. The outbox uses the same field names; the event id is
    `job_id:run`."""

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
