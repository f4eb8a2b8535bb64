"""Jobs: request bodies, queries and answers, in the resource form and in the older form."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal, NotRequired, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from typing_extensions import TypedDict

from serve_app import contracts
from serve_app.contracts import Failure, JobStatus, Priority
from serve_app.errors import JobDead
from serve_app.gateway.schemas.common import (
    Count,
    FormShape,
    JobProblem,
    Moment,
    expires_at,
    job_problem,
    timestamp,
    timestamp_or_none,
    with_plus,
)

POLL_AFTER_S: Final = 1
CHECKED: Final = "private, no-cache"
"""Cache-Control of an answer that rarely changes: the client may store it, but must revalidate it."""
NOT_FOUND_REASON: Final = "Job not found or TTL expired"
UNFINISHED_REASON: Final = "Job not completed yet"
CANCELLED: Final = Failure("job-cancelled", "The job was cancelled.")
"""Clients of the older routes do not know cancelled jobs: for them such a job is FAILED for this reason."""

Keep = Annotated[bool, Field(description="Keep the image as long as the job's record; GET …/image gives it.")]
Class = Annotated[Priority, Field(description="`bulk` waits while any `normal` job of the model does.")]
OlderStatus = Literal["PENDING", "PROCESSING", "COMPLETED", "FAILED", "NOT_FOUND"]


class OlderSubmitForm(FormShape):
    """One image, as a file or by URL, for one model."""

    image: Annotated[str, Field(json_schema_extra={"format": "binary"})] | None = None
    image_url: str | None = None
    model: Annotated[str, Field(description="The default model if left out.")] | None = None
    params: Annotated[str, Field(description="A JSON object as text, by the model's params_schema.")] | None = None


class SubmitForm(OlderSubmitForm):
    """One image, as a file or by URL, for one model; whether it is kept, and its priority."""

    keep: Keep = False
    priority: Class = Priority.NORMAL


class OlderSubmitBody(BaseModel):
    """As the form, without a file."""

    model_config = ConfigDict(extra="forbid")

    image_url: str | None = None
    model: Annotated[str, Field(description="The default model if left out.")] | None = None
    params: Annotated[dict[str, Any], Field(description="By the model's params_schema.")] | None = None


class SubmitBody(OlderSubmitBody):
    """As the form, without a file."""

    keep: Keep | None = False
    priority: Class | None = Priority.NORMAL


class JobId(BaseModel):
    """The job's id; other fields are ignored."""

    model_config = ConfigDict(extra="allow")

    job_id: str


class JobLinks(TypedDict):
    """Links to the job, its events, its result and its actions."""

    self: str
    events: str
    result: str
    cancel: str
    image: NotRequired[Annotated[str, Field(description="There if the image is kept.")]]


class Estimate(TypedDict):
    """Seconds until the job ends, at the model's current rate."""

    low: Annotated[float, Field(ge=0)]
    high: Annotated[float, Field(ge=0)]


class QueuePosition(TypedDict):
    """Where a pending job waits; without an estimate while the model's rate is unknown."""

    position: Annotated[int, Field(ge=1)]
    estimate_s: Estimate | None


class JobRow(TypedDict):
    """A job as in a list."""

    job_id: str
    status: JobStatus
    model: str
    submitted_at: Moment
    started_at: Moment | None
    completed_at: Moment | None
    expires_at: Annotated[Moment | None, Field(description="Once it has ended: until when at least it can be read.")]
    deliveries: Count
    priority: Priority
    queue: Annotated[
        QueuePosition | None, Field(description="Looked up by GET of one job while it is pending; else null.")
    ]
    problem: JobProblem | None
    links: JobLinks


class Job(JobRow):
    """A job. `result` follows the model's result_schema (GET /api/v1/models)."""

    result: dict[str, Any] | None


class JobResult(TypedDict):
    """The result of a job; it follows the model's result_schema."""

    job_id: str
    model: str
    completed_at: Moment
    result: dict[str, Any]


class OutputUrl(TypedDict):
    """A URL that gives a file to whoever has it, without a token, for so many seconds."""

    url: str
    expires_in: Annotated[int, Field(ge=1)]


class SignedQuery(BaseModel):
    """What a signed URL holds beside job and file."""

    model_config = ConfigDict(frozen=True)

    expires: Annotated[int, Field(ge=0, le=2**40, description="When it ends, in seconds since 1970.")]
    owner: Annotated[str, Field(pattern="^[0-9a-f]{32}$", description="Principal id of the job's owner.")]
    signature: Annotated[str, Field(pattern="^[0-9a-f]{64}$", description="HMAC-SHA256 of all the rest.")]


class JobPage(TypedDict):
    """A page of jobs, newest first; `next_cursor` leads to the next page and is null on the last."""

    data: list[JobRow]
    next_cursor: str | None


class Submitted(TypedDict):
    """The answer of the older submit."""

    job_id: str
    status: JobStatus
    message: str


class OlderJobStatus(TypedDict):
    """The answer of the older status route. An unknown job has `NOT_FOUND` and an empty `submitted_at`."""

    job_id: str
    status: OlderStatus
    submitted_at: Moment | Literal[""]
    started_at: Moment | None
    completed_at: Moment | None
    metadata: dict[str, str]


class OlderJobResults(TypedDict):
    """The answer of the older results route. `error` is empty for a completed job."""

    job_id: str
    status: OlderStatus
    result: dict[str, Any] | None
    error: str
    completed_at: Moment | None


class JobsQuery(BaseModel):
    """Filters of the caller's jobs, and where to continue."""

    model_config = ConfigDict(frozen=True)

    limit: Annotated[int, Field(ge=1, le=200)] = 50
    cursor: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    status: JobStatus | None = None
    model: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    since: Annotated[datetime, BeforeValidator(with_plus)] | None = None


def job_path(job_id: str) -> str:
    """The path of a job."""
    return f"/api/v1/jobs/{job_id}"


def job_object(job: contracts.Job, job_ttl: int, queue: QueuePosition | None = None) -> Job:
    """The job in the form of the resource routes; `queue` is its position, if that was read."""
    path = job_path(job.id)
    links: JobLinks = {
        "self": path,
        "events": f"{path}/events",
        "result": f"{path}/result",
        "cancel": f"{path}/cancel",
    }
    if job.keep:
        links["image"] = f"{path}/image"
    dead = job.failure is not None and job.failure.slug == JobDead.slug  # it stays until an admin decides
    return {
        "job_id": job.id,
        "status": job.status,
        "model": job.model,
        "submitted_at": timestamp(job.submitted_at),
        "started_at": timestamp_or_none(job.started_at),
        "completed_at": timestamp_or_none(job.completed_at),
        "expires_at": None if dead else expires_at(job.completed_at, job_ttl),
        "deliveries": job.deliveries,
        "priority": job.priority,
        "queue": queue,
        "result": job.result,
        "problem": job_problem(job.failure.slug, job.failure.detail) if job.failure else None,
        "links": links,
    }


def job_row(job: contracts.Job, job_ttl: int) -> JobRow:
    """The job as in a list: without its result."""
    row: dict[str, Any] = dict(job_object(job, job_ttl))
    del row["result"]
    return cast(JobRow, row)


def submitted(job: contracts.Job) -> Submitted:
    """The answer of POST /api/v1/inference."""
    return {
        "job_id": job.id,
        "status": job.status,
        "message": (
            f'Job queued. Poll status: POST /api/v1/jobs/status with body {{"job_id": "{job.id}"}}. '
            "Get results: POST /api/v1/jobs/results with same body."
        ),
    }


def status_of(job: contracts.Job) -> OlderJobStatus:
    """The answer of POST /api/v1/jobs/status."""
    return {
        "job_id": job.id,
        "status": _older_status(job),
        "submitted_at": timestamp(job.submitted_at),
        "started_at": timestamp_or_none(job.started_at),
        "completed_at": timestamp_or_none(job.completed_at),
        "metadata": {},
    }


def results_of(job: contracts.Job) -> OlderJobResults:
    """The answer of POST /api/v1/jobs/results."""
    error = "" if job.status is JobStatus.COMPLETED else UNFINISHED_REASON
    if job.status in (JobStatus.FAILED, JobStatus.CANCELLED):
        failure = job.failure or CANCELLED
        error = f"{failure.slug}: {failure.detail}"
    return {
        "job_id": job.id,
        "status": _older_status(job),
        "result": job.result,
        "error": error,
        "completed_at": timestamp_or_none(job.completed_at),
    }


def job_result(job_id: str, model: str, completed_at: int | None, result: Any) -> JobResult:
    """The result of a COMPLETED job."""
    return {
        "job_id": job_id,
        "model": model,
        "completed_at": cast(str, timestamp_or_none(completed_at)),  # it has ended
        "result": result,
    }


def status_not_found(job_id: str) -> OlderJobStatus:
    """The answer of POST /api/v1/jobs/status for an unknown or foreign id."""
    return {
        "job_id": job_id,
        "status": "NOT_FOUND",
        "submitted_at": "",
        "started_at": None,
        "completed_at": None,
        "metadata": {"error": NOT_FOUND_REASON},
    }


def results_not_found(job_id: str) -> OlderJobResults:
    """The answer of POST /api/v1/jobs/results for an unknown or foreign id."""
    return {"job_id": job_id, "status": "NOT_FOUND", "result": None, "error": NOT_FOUND_REASON, "completed_at": None}


def _older_status(job: contracts.Job) -> OlderStatus:
    """The older routes do not know cancelled jobs."""
    return "FAILED" if job.status is JobStatus.CANCELLED else cast(OlderStatus, job.status.value)
