"""Reading jobs: GET /api/v1/jobs/{job_id}, and the older POST routes for status and results."""

from __future__ import annotations

from starlette.responses import Response

from serve_app.contracts import Job
from serve_app.errors import BodyInvalid, JobUnknown
from serve_app.gateway import views
from serve_app.gateway.body import read_json
from serve_app.gateway.live.place import shown
from serve_app.gateway.operations.conditional import tagged
from serve_app.gateway.problems import json_response
from serve_app.gateway.service import Call


async def read_job(call: Call) -> Response:
    """200 while the caller's job exists; unknown, foreign and malformed ids are all the same 404."""
    job = await _read(call, call.request.path_params["job_id"])
    return await job_response(call, job)


async def job_response(call: Call, job: Job) -> Response:
    """200 with the job as it is now, or 304 to who has it already."""
    headers = {"Cache-Control": views.CHECKED} if job.ended else {"Retry-After": str(views.POLL_AFTER_S)}
    return tagged(call, json_response(await shown(call.service, job), headers=headers))


async def read_status(call: Call) -> Response:
    """200 always; an unknown or foreign id has the status NOT_FOUND."""
    job_id = await _asked_id(call)
    try:
        return json_response(views.status_of(await _read(call, job_id)))
    except JobUnknown:
        return json_response(views.status_not_found(job_id))


async def read_results(call: Call) -> Response:
    """200 always, as `read_status`."""
    job_id = await _asked_id(call)
    try:
        return json_response(views.results_of(await _read(call, job_id)))
    except JobUnknown:
        return json_response(views.results_not_found(job_id))


async def _read(call: Call, job_id: str) -> Job:
    job = await call.service.jobs.read(job_id.lower(), call.caller.id)
    call.job_id, call.model = job.id, job.model
    return job


async def _asked_id(call: Call) -> str:
    job_id = (await read_json(call)).get("job_id")
    if not isinstance(job_id, str):
        raise BodyInvalid("The body needs the field job_id, a text.", pointers={"/job_id": "must be a text"})
    return job_id
