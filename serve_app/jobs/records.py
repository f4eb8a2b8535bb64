"""Arguments and results of the job store beyond `contracts`, and how records in Redis are read and written."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from typing import Any, Final, Literal

from serve_app.contracts import Failure, Job, JobInput, JobStatus, Json, Priority, Task
from serve_app.errors import CapacityError, JobUnknown, ModelRejected, RequestError, TrackerUnavailable
from serve_app.jobs import limits

JOB_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
Stopped = Literal["intake", "work"]
"""What a stop stops: `intake`, no jobs are accepted; `work`, no jobs are claimed."""

_UNSTORABLE: Final = re.compile("[\0\ud800-\udfff]")
"""NUL and lone surrogates: PostgreSQL stores them in no text."""
_UNSTORABLE_ESCAPE: Final = re.compile(r"\\u(0000|d[89a-f])")
"""How a JSON text may contain one of them; valid pairs of surrogates look the same."""


@dataclass(frozen=True, slots=True)
class Idempotency:
    """Identifies a repeated submit: `hash` covers the key, its owner and its route."""

    hash: str
    fingerprint: str
    """Covers the whole submit: the same key with another fingerprint is refused."""


@dataclass(frozen=True, slots=True)
class FirstAccepted:
    """The id in the answer to an idempotency key's first request, and when that was accepted, in ms."""

    id: str
    at: int


@dataclass(frozen=True, slots=True)
class Submission:
    """One job to be accepted. The caller makes `id`, a new UUID (version 4, lower case)."""

    id: str
    owner: str
    model: str
    params: Json
    input: JobInput | None = None
    priority: Priority = Priority.NORMAL
    keep: bool = False
    """True: the input stays as long as the record, however the job ends."""
    traceparent: str | None = None
    idempotency: Idempotency | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """Jobs claimed together under one lease: `token` proves that we still hold them."""

    model: str
    token: str
    tasks: tuple[Task, ...]


@dataclass(frozen=True, slots=True, order=True)
class PageEnd:
    """Where a page of a list ended: the last entry's time, in the list's own unit, and its id. Both, because entries
    added in one step have the same time."""

    at: int
    id: str


@dataclass(frozen=True, slots=True)
class Page:
    """Some of an owner's jobs, newest first, without their parameters, inputs and results."""

    jobs: tuple[Job, ...]
    end: PageEnd | None
    """The next page starts after this entry; None on the last page."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """Jobs of one model that have not ended."""

    waiting: int
    leased: int


@dataclass(frozen=True, slots=True)
class Ledger:
    """Counters of one model since it was first used."""

    accepted: int = 0
    reopened: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    dead: int = 0

    @property
    def in_flight(self) -> int:
        """Jobs that wait or run."""
        return self.accepted + self.reopened - self.completed - self.failed - self.cancelled - self.dead


@dataclass(frozen=True, slots=True)
class QueueState:
    """A model's queue at one moment."""

    leased: int
    dead_kept: int
    replicas: int
    oldest_wait_s: float
    """Age of the job that has waited longest; 0 when none waits."""
    waiting: int
    """Waiting jobs, counted in the queues themselves."""
    ledger: Ledger

    @property
    def difference(self) -> int:
        """Jobs in flight by the ledger, minus those in Redis. Not 0: a job was lost or counted twice."""
        return self.ledger.in_flight - self.leased - self.waiting


@dataclass(frozen=True, slots=True)
class QueuePosition:
    """Where a job waits: how many jobs run before it, at least and at most, and how many are running now.

    Owners take turns, so before a job with n older ones of its owner each other owner has at most n + 1 turns.
    """

    least: int
    most: int
    running: int


@dataclass(frozen=True, slots=True)
class StopName:
    """A stop of a model, or of all models (intake only)."""

    what: Stopped
    model: str | None = None

    def __str__(self) -> str:
        return f"{self.what}:{self.model}" if self.model else self.what


def decode(fields: Mapping[Any, Any]) -> dict[str, str]:
    """The fields of a hash from redis-py, as text."""
    return {name.decode(): value.decode() for name, value in fields.items()}


def decode_pairs(reply: Sequence[bytes]) -> dict[str, str]:
    """The fields of a hash in a script's reply, as text."""
    return decode(dict(zip(reply[::2], reply[1::2], strict=True)))


def read_ledger(fields: Mapping[str, str]) -> Ledger:
    """The counters of `ledger:{model}` that this release knows; a newer release may have more."""
    return Ledger(**{counter.name: int(fields.get(counter.name, 0)) for counter in dataclass_fields(Ledger)})


def read_queue_position(reply: Sequence[Any]) -> QueuePosition:
    """The position in the reply of `queue_position.lua`."""
    older, owners, first_class, running, ledger = reply
    others = read_ledger(decode(dict(zip(ledger[::2], ledger[1::2], strict=True)))).in_flight - running - 1
    return QueuePosition(older, min(others, older + (older + 1) * (owners - 1)) if first_class else others, running)


def page_start(end: PageEnd | None) -> tuple[str, str]:
    """The start of a page, as arguments of the list scripts."""
    return (str(end.at), end.id) if end else ("+inf", "")


def read_page_end(at: bytes, entry: bytes) -> PageEnd | None:
    """The end of a page in the reply of a list script."""
    return PageEnd(int(at), entry.decode()) if at else None


def no_such_job() -> RequestError:
    """The refusal of an id that is unknown, malformed or another owner's: it does not reveal which."""
    return JobUnknown("There is no job with this id.")


def of_newer_release() -> CapacityError:
    """The refusal of a record that this release cannot read."""
    return TrackerUnavailable("This job belongs to a newer release of the service. Try again.", retry_after=5)


def read_job(job_id: str, fields: Mapping[str, str]) -> Job:
    """The job from its record's fields. Raises TrackerUnavailable for a record of a newer release."""
    if int(fields["v"]) > limits.RECORD_VERSION:
        raise of_newer_release()
    return Job(
        id=job_id,
        owner=fields["owner"],
        model=fields["model"],
        status=JobStatus(fields["status"]),
        params=json.loads(fields["params"]),
        input=_read_input(fields["reference"], fields["bytes"], fields["pixels"], fields["media_type"]),
        submitted_at=int(fields["submitted_at"]),
        started_at=_number(fields.get("started_at")),
        completed_at=_number(fields.get("completed_at")),
        run=int(fields["run"]),
        deliveries=int(fields["deliveries"]),
        strikes=int(fields["strikes"]),
        result=json.loads(fields["result"]) if fields.get("result") else None,
        failure=Failure(fields["slug"], fields["detail"]) if fields.get("slug") else None,
        traceparent=fields["traceparent"] or None,
        priority=Priority(fields["priority"]),
        keep=fields.get("keep") == "1",
    )


def read_row(owner: str, job_id: bytes, fields: Sequence[bytes]) -> Job:
    """One job of a page."""
    left_out = {"owner": owner, "params": "{}", "reference": "", "bytes": "0", "pixels": "0", "media_type": ""}
    return read_job(job_id.decode(), {**left_out, "traceparent": "", **decode_pairs(fields)})


def read_task(token: str, reply: Sequence[bytes]) -> Task:
    """One claimed job as `claim.lua` returns it."""
    job_id, params, reference, size, pixels, media_type, traceparent, alone = (part.decode() for part in reply)
    return Task(
        job_id=job_id,
        token=token,
        params=json.loads(params),
        input=_read_input(reference, size, pixels, media_type),
        alone=alone == "1",
        traceparent=traceparent or None,
    )


def sentence(text: str) -> bytes:
    """The part of a reason that Redis stores. It may quote a library or a file, so invalid Unicode is replaced."""
    return text[: limits.REASON_MAX_CHARACTERS].encode(errors="replace")


def result_text(result: Json) -> str | Failure:
    """A result as JSON text, or a failure if the result cannot be written as JSON or is too large."""
    try:
        text = _as_json(result)
        if _UNSTORABLE_ESCAPE.search(text):
            text = _as_json(_sanitized(result))
    except (TypeError, ValueError, RecursionError):
        return ModelRejected("The model's result cannot be written as JSON.").as_failure()
    if len(text) > limits.RESULT_MAX_BYTES:  # ASCII: json.dumps escapes the rest
        return ModelRejected(f"The model's result is larger than {limits.RESULT_MAX_BYTES} bytes.").as_failure()
    return text


def _as_json(result: Any) -> str:
    return json.dumps(result, allow_nan=False, separators=(",", ":"))


def _sanitized(value: Any) -> Any:
    """The value with U+FFFD in place of each character that PostgreSQL cannot store. Replaced here, so that the record
    and PostgreSQL show the same result."""
    if isinstance(value, str):
        return _UNSTORABLE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {_sanitized(name): _sanitized(part) for name, part in value.items()}
    return [_sanitized(part) for part in value] if isinstance(value, list | tuple) else value


def _read_input(reference: str, size: str, pixels: str, media_type: str) -> JobInput | None:
    return JobInput(reference, int(size), int(pixels), media_type) if reference else None


def _number(text: str | None) -> int | None:
    return int(text) if text else None
