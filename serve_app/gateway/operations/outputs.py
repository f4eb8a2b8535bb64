"""Files that models gave beside their results."""

from __future__ import annotations

from starlette.responses import RedirectResponse, Response

from serve_app.contracts import Job, JobStatus
from serve_app.errors import OutputUnknown
from serve_app.gateway.operations.downloads import download_headers
from serve_app.gateway.service import Call


async def read_output(call: Call) -> Response:
    """The file, as a download; or 307 to a URL of the bucket that gives it for an hour.

    404 while the job has no result, and for a name that its result does not list.
    """
    job_id, name = call.request.path_params["job_id"], call.request.path_params["name"]
    job = await call.service.jobs.read(job_id, call.caller.id)
    call.job_id, call.model = job.id, job.model
    found = await call.service.store.get_output(job.id, name) if name in _names(job) else None
    if found is None:
        raise OutputUnknown("This job has no output of this name. Its result lists those it has.")
    if found.data is None:
        return RedirectResponse(found.url, 307)
    return Response(found.data, 200, download_headers(name), media_type=found.media_type)


def _names(job: Job) -> set[object]:
    entries = (job.result or {}).get("outputs") if job.status is JobStatus.COMPLETED else None
    # A model may have a field of this name that means something else.
    return {one.get("name") for one in entries if isinstance(one, dict)} if isinstance(entries, list) else set()
