"""What an owner changes of a job after the submit."""

from __future__ import annotations

from starlette.responses import Response

from serve_app.gateway import views
from serve_app.gateway.problems import json_response
from serve_app.gateway.service import Call


async def cancel_job(call: Call) -> Response:
    """200 with the cancelled job, also the second time; 409 once it is COMPLETED or FAILED."""
    job = await call.service.jobs.cancel(call.request.path_params["job_id"], call.caller.id)
    call.job_id, call.model = job.id, job.model
    return json_response(views.job_object(job, call.service.settings.job_ttl))


async def retry_job(call: Call) -> Response:
    """202 with the failed job, which runs once more."""
    await call.service.store.check_intake()
    call.accepting = True
    job = await call.service.jobs.retry(call.request.path_params["job_id"], call.caller.id)
    call.job_id, call.model, call.accepted = job.id, job.model, True
    headers = {"Location": views.job_path(job.id), "Retry-After": str(views.POLL_AFTER_S)}
    return json_response(views.job_object(job, call.service.settings.job_ttl), 202, headers)


async def remove_job(call: Call) -> Response:
    """204 once the ended job is forgotten."""
    job_id = call.request.path_params["job_id"]
    await call.service.jobs.remove(job_id, call.caller.id)
    call.job_id = job_id
    return Response(status_code=204)
