"""Jobs as the API shows them: the job object, and the older shapes of the status and results routes."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from serve_app.contracts import Failure, Job, JobStatus, Json
from serve_app.errors import JobDead
from serve_app.gateway.problems import job_problem

POLL_AFTER_S: Final = 1
CHECKED: Final = "private, no-cache"
"""Cache-Control of what will hardly change: the caller may keep it, and has to ask whether it still holds."""
NOT_FOUND: Final = "NOT_FOUND"
NOT_FOUND_REASON: Final = "Job not found or TTL expired"
UNFINISHED_REASON: Final = "Job not completed yet"
CANCELLED: Final = Failure("job-cancelled", "The job was cancelled.")
"""Clients of the older routes know no cancelled jobs; there it is FAILED with this reason."""


@lru_cache(maxsize=1024)  # a job that is polled shows the same times again and again
def timestamp(milliseconds: int | None) -> str | None:
    """ISO 8601 in UTC with Z, to the millisecond."""
    if milliseconds is None:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def expires_at(completed_at: int | None, job_ttl: int) -> str | None:
    """Until when at least the record of what ended then is there; None while it has not ended."""
    return None if completed_at is None else timestamp(completed_at + job_ttl * 1000)


def job_path(job_id: str) -> str:
    """Where a job is."""
    return f"/api/v1/jobs/{job_id}"


def job_object(job: Job, job_ttl: int, queue: Json | None = None) -> Json:
    """The job as the resource routes show it; `queue` is where it waits, when that was looked up."""
    path = job_path(job.id)
    dead = job.failure is not None and job.failure.slug == JobDead.slug  # it stays until an admin decides
    return {
        "job_id": job.id,
        "status": job.status.value,
        "model": job.model,
        "submitted_at": timestamp(job.submitted_at),
        "started_at": timestamp(job.started_at),
        "completed_at": timestamp(job.completed_at),
        "expires_at": None if dead else expires_at(job.completed_at, job_ttl),
        "deliveries": job.deliveries,
        "priority": job.priority.value,
        "queue": queue,
        "result": job.result,
        "problem": job_problem(job.failure.slug, job.failure.detail) if job.failure else None,
        "links": {
            "self": path,
            "events": f"{path}/events",
            "result": f"{path}/result",
            "cancel": f"{path}/cancel",
            **({"image": f"{path}/image"} if job.keep else {}),
        },
    }


def job_row(job: Job, job_ttl: int) -> Json:
    """The job as lists show it: without its result."""
    return {name: value for name, value in job_object(job, job_ttl).items() if name != "result"}


def submitted(job: Job) -> Json:
    """The answer of POST /api/v1/inference."""
    return {
        "job_id": job.id,
        "status": job.status.value,
        "message": (
            f'Job queued. Poll status: POST /api/v1/jobs/status with body {{"job_id": "{job.id}"}}. '
            "Get results: POST /api/v1/jobs/results with same body."
        ),
    }


def status_of(job: Job) -> Json:
    """The answer of POST /api/v1/jobs/status."""
    return {
        "job_id": job.id,
        "status": _older_status(job),
        "submitted_at": timestamp(job.submitted_at),
        "started_at": timestamp(job.started_at),
        "completed_at": timestamp(job.completed_at),
        "metadata": {},
    }


def results_of(job: Job) -> Json:
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
        "completed_at": timestamp(job.completed_at),
    }


def status_not_found(job_id: str) -> Json:
    """The answer of POST /api/v1/jobs/status for an unknown or foreign id."""
    return {
        "job_id": job_id,
        "status": NOT_FOUND,
        "submitted_at": "",
        "started_at": None,
        "completed_at": None,
        "metadata": {"error": NOT_FOUND_REASON},
    }


def results_not_found(job_id: str) -> Json:
    """The answer of POST /api/v1/jobs/results for an unknown or foreign id."""
    return {"job_id": job_id, "status": NOT_FOUND, "result": None, "error": NOT_FOUND_REASON, "completed_at": None}


def _older_status(job: Job) -> str:
    return JobStatus.FAILED.value if job.status is JobStatus.CANCELLED else job.status.value
