"""What an owner changes of a job after the submit."""

from __future__ import annotations

from starlette.responses import Response

from serve_app.gateway import views
from serve_app.gateway.problems import json_response
from serve_app.gateway.service import Call


async def cancel_job(call: Call) -> Response:
    """200 with the cancelled job, also the second time; 409 once it is COMPLETED or FAILED."""
    await call.admitted()
    job = await call.service.desk.cancel(call.request.path_params["job_id"], call.caller.id)
    call.job_id, call.model = job.id, job.model
    return json_response(views.job_object(job))
