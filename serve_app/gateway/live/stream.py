"""GET /api/v1/jobs/{job_id}/events: a job's changes as server-sent events, from how it is now to its end."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serve_app.connections import end_tasks
from serve_app.contracts import Job
from serve_app.errors import CapacityError, JobUnknown, TooManyStreams
from serve_app.gateway.endpoint import header_of
from serve_app.gateway.live.place import shown
from serve_app.gateway.live.places import STREAMS_MAX, STREAMS_MAX_PER_USER
from serve_app.gateway.live.wait import disconnected
from serve_app.gateway.problems import json_text
from serve_app.gateway.service import Call

PING_S: Final = 15.0
"""Below what proxies on the way, ours too, give a connection on which nothing comes."""
POLL_S: Final = 3.0
"""A message may get lost: the job is looked at this often."""
SEND_S: Final = 10.0
"""A caller who does not take an event for this long is cut off."""
RECONNECT_MS: Final = 1000
RETRY_AFTER_S: Final = 5

_log = logging.getLogger(__name__)


async def read_events(call: Call) -> Response:
    """200 with the stream; 204 to who has seen the job's end, because that tells an EventSource to stay away."""
    await call.admitted()  # before a place is taken
    job = await call.service.tracker.read(call.request.path_params["job_id"], call.caller.id)
    call.job_id, call.model = job.id, job.model
    seen = header_of(call.request.scope, b"last-event-id")
    if job.ended and seen == event_id(job):
        return Response(status_code=204)
    if not call.holds.enter_context(call.service.streams.take(call.caller.id)):
        raise TooManyStreams(
            f"You have {STREAMS_MAX_PER_USER} streams open here, or all users {STREAMS_MAX}. Close some, or ask again "
            "by Prefer: wait.",
            retry_after=RETRY_AFTER_S,
        )
    return EventStream(call, seen)


def event_id(job: Job) -> str:
    """Names a state of the job: who has seen it, is not told of it again."""
    return f"{job.run}-{job.deliveries}-{job.status.value}"


class EventStream(Response):
    """The answer: written as the job changes, until it ends, its time is over, the caller or the replica goes."""

    media_type = "text/event-stream"

    def __init__(self, call: Call, seen: str | None) -> None:
        super().__init__(headers={"X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._call, self._seen = call, seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events. Not completed where the caller is cut off, so that the server closes the connection."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if scope["method"] != "HEAD":
            writing = asyncio.create_task(self._write(send))
            gone = asyncio.create_task(disconnected(receive))
            leaving = asyncio.create_task(self._call.service.departure.told())
            try:
                await asyncio.wait((writing, gone, leaving), return_when=asyncio.FIRST_COMPLETED)
            finally:
                await end_tasks([writing, gone, leaving])
            if not writing.cancelled() and (error := writing.exception()):
                if not isinstance(error, OSError):  # TimeoutError is one: the caller is too slow, or has just gone
                    _log.error("the stream of request %s broke", self._call.request_id, exc_info=error)
                return
        await send({"type": "http.response.body", "body": b""})

    async def _write(self, send: Send) -> None:
        service, began = self._call.service, time.monotonic()
        until = began + service.settings.stream_max_s
        await _send(send, f"retry: {RECONNECT_MS}\n\n")
        sent = began
        async with service.messages.watch(self._call.job_id) as watch:
            while time.monotonic() < until:
                try:
                    event, ended = await self._next()
                except JobUnknown:
                    return  # who comes back is told so
                if event or time.monotonic() - sent >= PING_S:
                    await _send(send, event or ": ping\n\n")
                    sent = time.monotonic()
                if ended:
                    return
                await watch.rest(max(0.0, min(POLL_S, until - time.monotonic())))

    async def _next(self) -> tuple[str, bool]:
        """The event of the job's state, empty when it has been sent, and whether it is the last one."""
        service = self._call.service
        try:
            job = await service.tracker.read(self._call.job_id, self._call.caller.id)
        except CapacityError:
            return "", False  # Redis is away; the stream outlives that
        if (name := event_id(job)) == self._seen:
            return "", job.ended
        self._seen = name
        return f"event: job\nid: {name}\ndata: {json_text(await shown(service, job))}\n\n", job.ended


async def _send(send: Send, text: str) -> None:
    """One piece at a time, so that no more than that is held for a slow caller. Raises TimeoutError."""
    async with asyncio.timeout(SEND_S):
        await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
