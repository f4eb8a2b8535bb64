"""GET /api/v1/jobs/{job_id}/image: the image of a job whose submit asked to keep it."""

from __future__ import annotations

from starlette.responses import RedirectResponse, Response

from serve_app.errors import ImageNotKept
from serve_app.gateway.operations.downloads import download_headers
from serve_app.gateway.pieces import Pieces
from serve_app.gateway.service import Call


async def read_image(call: Call) -> Response:
    """The image as it came, as a download; or 307 to a URL of the bucket that gives it for an hour."""
    job = await call.service.jobs.read(call.request.path_params["job_id"], call.caller.id)
    call.job_id, call.model = job.id, job.model
    if job.input is None or not job.keep:
        raise ImageNotKept("This job's image is not kept: its submit did not ask for that.")
    stored = job.input
    name = f"{job.id}.{stored.media_type.partition('/')[2]}"
    found = await call.service.store.find(stored.reference, name, stored.media_type)
    if found is None:
        raise ImageNotKept("This job's image is gone.")
    if found.pieces is None:
        return RedirectResponse(found.url, 307)
    return Pieces(found.pieces, headers=download_headers(name), media_type=stored.media_type, size=stored.bytes)
