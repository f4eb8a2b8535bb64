"""`Prefer: wait=N`: an answer that is held back until the job has ended, and goes out as it was when it has not.

Waiting comes after the endpoint's deadline and costs the request nothing: whatever fails meanwhile, the answer that was
there already is sent.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from starlette.responses import Response
from starlette.types import Receive

from serve_app.connections import end_tasks
from serve_app.contracts import ENDED, Job
from serve_app.errors import CapacityError, JobUnknown
from serve_app.gateway.endpoint import CLIENT_GONE
from serve_app.gateway.live.prefer import wait_of
from serve_app.gateway.reads import job_response
from serve_app.gateway.service import Call

KEPT: Final = ("Vary", "Preference-Applied", "Location", "Idempotent-Replayed")
"""What the answer to an ended job takes over from the one that was there at once."""
POLL_S: Final = 2.0
"""A message may get lost: the job is looked at this often."""


_log = logging.getLogger(__name__)


async def wait_for_end(call: Call, response: Response) -> Response:
    """200 with the ended job when it ends in the time that the caller would wait, else `response`."""
    response.headers["Vary"] = "Prefer"
    seconds = wait_of(call.request.headers.getlist("prefer"))
    if seconds is None or response.status_code not in (200, 202, 304):
        return response
    with call.service.waits.take(call.caller.id) as free:
        if not free:
            return response
        response.headers["Preference-Applied"] = f"wait={seconds}"
        begun = time.monotonic()
        try:
            ended = await _race(call, seconds)
        finally:
            call.waited_s = time.monotonic() - begun
    if isinstance(ended, Job):
        answer = await job_response(call, ended)
        answer.headers.update({name: response.headers[name] for name in KEPT if name in response.headers})
        return answer
    return Response(status_code=CLIENT_GONE) if ended else response


async def _race(call: Call, seconds: int) -> Job | bool | None:
    """The ended job; True when the caller has gone; None when there is nothing to wait for any more."""
    ending = asyncio.create_task(_end_of(call, seconds))
    gone = asyncio.create_task(disconnected(call.request.receive))
    leaving = asyncio.create_task(call.service.departure.told())
    try:
        await asyncio.wait((ending, gone, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not ending.done():
            return gone.done()
        if error := ending.exception():  # a defect of ours must not take the answer that is there
            _log.error("request %s could not wait", call.request_id, exc_info=error)
            return None
        return ending.result()
    finally:
        await end_tasks([ending, gone, leaving])


async def _end_of(call: Call, seconds: int) -> Job | None:
    service, deadline = call.service, time.monotonic() + seconds
    async with service.messages.watch(call.job_id, ENDED) as watch:
        while True:
            try:
                job = await service.jobs.read(call.job_id, call.caller.id)
            except CapacityError:
                job = None  # Redis is away; it may be back in time
            except JobUnknown:
                return None
            if job and job.ended:
                return job
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            await watch.rest(min(left, POLL_S))


async def disconnected(receive: Receive) -> None:
    """Return when the caller has gone. The request's body must have been read, or be none."""
    while (await receive())["type"] != "http.disconnect":
        pass
