"""GET /api/v1/jobs/{job_id}/result: from the record while there is one, then from PostgreSQL."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import Response

from serve_app.contracts import JobStatus
from serve_app.errors import JobHasNoResult, JobNotFinished, JobUnknown, ResultExpired, UsageUnavailable
from serve_app.gateway import views
from serve_app.gateway.operations.conditional import tagged
from serve_app.gateway.service import Call
from serve_app.jobs.records import JOB_ID, no_such_job


async def read_result(call: Call) -> Response:
    """200 with the result of a COMPLETED job, 409 before or without one, 410 when it is no longer kept, else 404.

    503 while a job's record may have left before its outcome reached PostgreSQL.
    """
    job_id = call.request.path_params["job_id"]
    try:
        job = await call.service.jobs.read(job_id, call.caller.id)
    except JobUnknown:
        return await _older(call, job_id)
    call.job_id, call.model = job.id, job.model
    if not job.ended:
        raise JobNotFinished(f"The job is {job.status.value}. Ask again in a moment.", retry_after=views.POLL_AFTER_S)
    if job.status is not JobStatus.COMPLETED:
        raise _without(job.status, *((job.failure.slug, job.failure.detail) if job.failure else (None, None)))
    return _found(call, job.id, job.model, job.completed_at, job.result)


async def _older(call: Call, job_id: str) -> Response:
    service = call.service
    if not JOB_ID.fullmatch(job_id) or await service.jobs.removed([job_id]):
        raise no_such_job()
    outbox = await service.outbox.stats()  # before the look: what leaves it in between is found there
    outcome = await service.outcomes.find(job_id, call.caller.id)
    if outcome is None and outbox.lag_s >= service.settings.job_ttl:
        raise UsageUnavailable("Results of older jobs are on their way to where they are kept. Try again in a moment.")
    if outcome is None:
        raise no_such_job()
    call.job_id, call.model = job_id, outcome.model
    if outcome.status is not JobStatus.COMPLETED:
        raise _without(outcome.status, outcome.slug, outcome.detail)
    if outcome.result is None:
        raise ResultExpired("The job was completed; its result is no longer kept. Submit the image again.")
    return _found(call, job_id, outcome.model, outcome.completed_at, outcome.result)


def _without(status: JobStatus, slug: str | None, detail: str | None) -> JobHasNoResult:
    reason = f" {slug}: {detail}" if slug and detail else ""
    return JobHasNoResult(f"The job is {status.value}.{reason}")


def _found(call: Call, job_id: str, model: str, completed_at: int | None, result: Any) -> Response:
    """The same bytes from Redis and from PostgreSQL, which keeps no order of names."""
    shown = {"job_id": job_id, "model": model, "completed_at": views.timestamp(completed_at), "result": result}
    body = json.dumps(shown, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return tagged(call, Response(body, headers={"Cache-Control": views.CHECKED}, media_type="application/json"))
