"""GET /api/v1/jobs/{job_id}/events: a job's changes as server-sent events, from how it is now to its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Send

from serve_app.connections import end_tasks
from serve_app.contracts import Job
from serve_app.errors import CapacityError, JobUnknown, TooManyStreams
from serve_app.gateway.endpoint import header_of
from serve_app.gateway.live.place import shown
from serve_app.gateway.live.places import STREAMS_MAX, STREAMS_MAX_PER_USER
from serve_app.gateway.live.wait import disconnected
from serve_app.gateway.pieces import Pieces, is_http_1_0
from serve_app.gateway.problems import json_text
from serve_app.gateway.service import Call, Service

PING_S: Final = 15.0
"""Below what proxies on the way, ours too, give a connection on which nothing comes."""
POLL_S: Final = 3.0
"""A message may get lost: the job is looked at this often."""
RECONNECT_MS: Final = 1000
RETRY: Final = f"retry: {RECONNECT_MS}\n\n"
RETRY_AFTER_S: Final = 5
HEADERS: Final = {"X-Accel-Buffering": "no"}
MEDIA_TYPE: Final = "text/event-stream"


async def read_events(call: Call) -> Response:
    """200 with the stream; 204 to who has seen the job's end, by which the specification means: stay away."""
    job = await call.service.jobs.read(call.request.path_params["job_id"], call.caller.id)
    call.job_id, call.model = job.id, job.model
    seen = header_of(call.request.scope, b"last-event-id")
    if job.ended and seen == event_id(job):
        return Response(status_code=204)
    if is_http_1_0(call.request.scope):
        return await _state_now(call, job, seen)
    if not call.holds.enter_context(call.service.streams.take(call.caller.id)):
        raise TooManyStreams(
            f"You have {STREAMS_MAX_PER_USER} streams open here, or all users {STREAMS_MAX}. Close some, or ask again "
            "by Prefer: wait.",
            retry_after=RETRY_AFTER_S,
        )
    return EventStream(call, seen)


async def _state_now(call: Call, job: Job, seen: str | None) -> Response:
    """For a client of HTTP/1.0, to which nothing can be sent without its size: the stream as far as it goes now. Its
    `retry` makes a client look again."""
    event = "" if event_id(job) == seen else await _event(call.service, job)
    return Response(f"{RETRY}{event}", headers=HEADERS, media_type=MEDIA_TYPE)


async def _event(service: Service, job: Job) -> str:
    return f"event: job\nid: {event_id(job)}\ndata: {json_text(await shown(service, job))}\n\n"


def event_id(job: Job) -> str:
    """Names a state of the job: who has seen it, is not told of it again."""
    return f"{job.run}-{job.deliveries}-{job.status.value}"


class EventStream(Pieces):
    """The answer: written as the job changes, until it ends, its time is over, the caller or the replica goes."""

    def __init__(self, call: Call, seen: str | None) -> None:
        self._call, self._seen = call, seen
        self._events = self._written()
        super().__init__(self._events, headers=HEADERS, media_type=MEDIA_TYPE)

    async def sent(self, receive: Receive, send: Send) -> bool:
        """False where the caller is cut off. Who has gone, or is told to come back elsewhere, misses nothing."""
        sending = asyncio.create_task(super().sent(receive, send))
        gone = asyncio.create_task(disconnected(receive))
        leaving = asyncio.create_task(self._call.service.departure.told())
        try:
            await asyncio.wait((sending, gone, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end_tasks([sending, gone, leaving])
            await self._events.aclose()
        return sending.cancelled() or sending.result()

    async def _written(self) -> AsyncGenerator[bytes, None]:
        service, began = self._call.service, time.monotonic()
        until = began + service.settings.stream_max_s
        yield RETRY.encode()
        written = began
        async with service.messages.watch(self._call.job_id) as watch:
            while time.monotonic() < until:
                try:
                    event, ended = await self._next()
                except JobUnknown:
                    return  # who comes back is told so
                if event or time.monotonic() - written >= PING_S:
                    yield (event or ": ping\n\n").encode()
                    written = time.monotonic()
                if ended:
                    return
                await watch.rest(max(0.0, min(POLL_S, until - time.monotonic())))

    async def _next(self) -> tuple[str, bool]:
        """The event of the job's state, empty when it has been sent, and whether it is the last one."""
        service = self._call.service
        try:
            job = await service.jobs.read(self._call.job_id, self._call.caller.id)
        except CapacityError:
            return "", False  # Redis is away; the stream outlives that
        if (name := event_id(job)) == self._seen:
            return "", job.ended
        self._seen = name
        return await _event(service, job), job.ended
