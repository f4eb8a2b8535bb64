"""Following a job while it waits and runs: its position in the queue, `Prefer: wait=N`, and server-sent events."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
from collections.abc import AsyncGenerator, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Send

from serve_app.connections import end_tasks
from serve_app.contracts import ENDED, Job, JobStatus
from serve_app.errors import CapacityError, JobUnknown
from serve_app.gateway.background.throughput import Rate, Throughputs
from serve_app.gateway.context import Call, Models
from serve_app.gateway.http import CLIENT_GONE, ClientGone, StreamingBody, json_response, json_text, tagged
from serve_app.gateway.ratelimit import ConcurrencyLimit
from serve_app.gateway.schemas import jobs as schemas
from serve_app.gateway.supervisor import ShutdownSignal
from serve_app.jobs.messages import Messages
from serve_app.jobs.records import QueuePosition
from serve_app.jobs.store import JobStore
from serve_app.settings import Settings

WAITS_MAX: Final = 96
"""For one replica, which takes 256 requests at once: waits and streams together leave a third for other requests."""
WAITS_MAX_PER_USER: Final = 32
STREAMS_MAX: Final = 64
STREAMS_MAX_PER_USER: Final = 16
WAIT_MAX_S: Final = 20
"""Shorter than the minute that proxies usually allow before an answer starts."""
WAIT_POLL_S: Final = 2.0
"""Interval at which a waiting request reads the job, because a message may get lost."""
ANSWER_S: Final = 1.0
"""Time left for the answer when a handler waits until its deadline."""
KEPT: Final = ("Vary", "Preference-Applied", "Location", "Idempotent-Replayed")
"""Headers that the answer with the ended job takes from the original answer."""
PING_S: Final = 15.0
"""Shorter than proxies, ours included, keep an idle connection open."""
POLL_S: Final = 3.0
"""Interval at which a stream reads the job, because a message may get lost."""
RECONNECT_MS: Final = 1000
RETRY: Final = f"retry: {RECONNECT_MS}\n\n"
RETRY_AFTER_S: Final = 5
HEADERS: Final = {"X-Accel-Buffering": "no"}
MEDIA_TYPE: Final = "text/event-stream"
_PREFERENCE: Final = re.compile(
    r"""\s*([!#$%&'*+.^`|~\w-]+)\s*(?:=\s*([^\s",;]*|"[^"]*"))?\s*(?:;(?:"[^"]*"|[^",])*)?"""
)
_SECONDS: Final = re.compile(r"[0-9]{1,9}")

T = TypeVar("T")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class JobPresenter:
    """The job object of GET; while the job waits, with its queue position and an estimate of the time it takes."""

    jobs: JobStore
    throughputs: Throughputs
    models: Models
    job_ttl: int

    async def show(self, job: Job) -> schemas.Job:
        """The job object; `queue` is null unless the job waits."""
        queue = await self._queue(job) if job.status is JobStatus.PENDING else None
        return schemas.job_object(job, self.job_ttl, queue)

    async def respond(self, request: Request, job: Job) -> Response:
        """200 with the job as it is now, or 304 for a client that already has this state."""
        headers = {"Cache-Control": schemas.CHECKED} if job.ended else {"Retry-After": str(schemas.POLL_AFTER_S)}
        return tagged(request, json_response(await self.show(job), headers=headers))

    async def _queue(self, job: Job) -> schemas.QueuePosition | None:
        try:
            place = await self.jobs.queue_position(job.id)
        except CapacityError:
            return None  # the job without its position is better than no answer
        if place is None:
            return None
        rate = self.throughputs.of(job.model)
        seconds = estimate(place, rate, self.models.cards[job.model].max_batch_size) if rate else None
        return {"position": place.most + 1, "estimate_s": seconds}


def estimate(place: QueuePosition, rate: Rate, batch: int) -> schemas.Estimate:
    """Seconds until the job ends. Low: only its owner's older jobs run before it. High: all jobs run before it that
    may, and those that are running. Jobs end in batches, so either may be off by one batch."""
    low = max(0, place.least + 1 - batch) / rate.fastest
    high = (place.most + place.running + batch) / rate.slowest
    return {"low": math.floor(low), "high": math.ceil(high)}


@dataclass(frozen=True)
class JobWatch:
    """Holds requests open until their job changes, and limits their number."""

    jobs: JobStore
    messages: Messages
    presenter: JobPresenter
    shutdown: ShutdownSignal
    settings: Settings
    waits: ConcurrencyLimit = field(default_factory=lambda: ConcurrencyLimit(WAITS_MAX, WAITS_MAX_PER_USER))
    streams: ConcurrencyLimit = field(default_factory=lambda: ConcurrencyLimit(STREAMS_MAX, STREAMS_MAX_PER_USER))


async def wait_for_end(call: Call, response: Response, watch: JobWatch) -> Response:
    """`Prefer: wait=N`: 200 with the job when it ends within N seconds, else the unchanged `response`.

    The wait comes after the endpoint's deadline and cannot fail the request: on an error, `response` is sent.
    """
    response.headers["Vary"] = "Prefer"
    seconds = wait_of(call.request.headers.getlist("prefer"))
    if seconds is None or response.status_code not in (200, 202, 304):
        return response
    with watch.waits.take(call.caller.id) as free:
        if not free:
            return response
        response.headers["Preference-Applied"] = f"wait={seconds}"
        ended = await end_within(call, watch, seconds)
    if isinstance(ended, Job):
        answer = await watch.presenter.respond(call.request, ended)
        answer.headers.update({name: response.headers[name] for name in KEPT if name in response.headers})
        return answer
    return Response(status_code=CLIENT_GONE) if ended else response


async def end_within(call: Call, watch: JobWatch, seconds: float) -> Job | Literal[True] | None:
    """The job of the call once it has ended; True if the client has disconnected; None if there is nothing left to
    wait for. The caller holds a place of `watch.waits`. The time does not count as the request's."""
    begun = time.monotonic()
    try:
        return await _race(call, watch, _end_of(watch, call.caller.id, call.job_id, begun + seconds))
    finally:
        call.waited_s = time.monotonic() - begun


def take_wait(call: Call, watch: JobWatch) -> bool:
    """Hold a place among the waiting requests until the answer has been sent. False if none is free."""
    return call.holds.enter_context(watch.waits.take(call.caller.id))


async def ended_within(call: Call, watch: JobWatch, jobs: Sequence[Job], seconds: float) -> list[Job]:
    """The jobs in order, each as it ended; one that has not ended after that long, or shortly before the request's
    deadline, as it was given. The handler holds a place (`take_wait`). Raises `ClientGone`."""
    begun = time.monotonic()
    if call.pace is not None:
        seconds = min(seconds, call.pace.left_s - ANSWER_S)
    try:
        ended = await _race(call, watch, _ends_of(watch, call.caller.id, jobs, begun + seconds))
    finally:
        call.waited_s = time.monotonic() - begun
    if ended is True:
        raise ClientGone
    return ended or list(jobs)


async def _race(call: Call, watch: JobWatch, ends: Coroutine[Any, Any, T]) -> T | Literal[True] | None:
    """The jobs' ends; True if the client has disconnected; None if there is nothing left to wait for."""
    ending = asyncio.create_task(ends)
    gone = asyncio.create_task(disconnected(call.request.receive))
    leaving = asyncio.create_task(watch.shutdown.wait())
    try:
        await asyncio.wait((ending, gone, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not ending.done():
            return True if gone.done() else None
        if error := ending.exception():  # a bug here must not affect the answer that exists
            _log.error("request %s could not wait", call.request_id, exc_info=error)
            return None
        return ending.result()
    finally:
        await end_tasks([ending, gone, leaving])


async def _ends_of(watch: JobWatch, owner: str, jobs: Sequence[Job], deadline: float) -> list[Job]:
    """One after the other: the later ones may end meanwhile."""
    return [await _end_of(watch, owner, job.id, deadline) or job for job in jobs]


async def _end_of(watch: JobWatch, owner: str, job_id: str, deadline: float) -> Job | None:
    async with watch.messages.watch(job_id, ENDED) as changes:
        while True:
            try:
                job = await watch.jobs.read(job_id, owner)
            except CapacityError:
                job = None  # Redis is down; it may recover in time
            except JobUnknown:
                return None
            if job and job.ended:
                return job
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            await changes.rest(min(left, WAIT_POLL_S))


async def disconnected(receive: Receive) -> None:
    """Return when the client has disconnected. The request's body must have been read, or be empty."""
    while (await receive())["type"] != "http.disconnect":
        pass


def wait_of(values: Iterable[str]) -> int | None:
    """The seconds of `wait` in the header's values, at most `WAIT_MAX_S`; None without one. The first `wait` counts."""
    for part in _parts(",".join(values)):
        preference = _PREFERENCE.fullmatch(part)
        if preference and preference[1].lower() == "wait":
            seconds = (preference[2] or "").strip('"')
            return min(int(seconds), WAIT_MAX_S) if _SECONDS.fullmatch(seconds) else None
    return None


def _parts(text: str) -> list[str]:
    """Split at commas outside of quotes. An unclosed quote makes the whole value malformed."""
    return [] if text.count('"') % 2 else re.findall(r'(?:"[^"]*"|[^,"])+', text)


async def state_now(presenter: JobPresenter, job: Job, seen: str | None) -> Response:
    """The stream's current state, for a client of HTTP/1.0, which needs the size of the answer. Its `retry` makes the
    client ask again."""
    event = "" if event_id(job) == seen else await _event(presenter, job)
    return Response(f"{RETRY}{event}", headers=HEADERS, media_type=MEDIA_TYPE)


async def _event(presenter: JobPresenter, job: Job) -> str:
    return f"event: job\nid: {event_id(job)}\ndata: {json_text(await presenter.show(job))}\n\n"


def event_id(job: Job) -> str:
    """Identifies a state of the job: a client that has seen it does not get it again."""
    return f"{job.run}-{job.deliveries}-{job.status.value}"


class EventStream(StreamingBody):
    """The job's changes as server-sent events, until it ends, the time is over, the client disconnects or the replica
    shuts down."""

    def __init__(self, call: Call, watch: JobWatch, seen: str | None) -> None:
        self._job_id, self._owner = call.job_id, call.caller.id
        self._watch, self._seen = watch, seen
        self._events = self._written()
        super().__init__(self._events, headers=HEADERS, media_type=MEDIA_TYPE)

    async def send_pieces(self, receive: Receive, send: Send) -> bool:
        """False if the client is disconnected here. A client that reconnects, to whichever replica, misses nothing."""
        sending = asyncio.create_task(super().send_pieces(receive, send))
        gone = asyncio.create_task(disconnected(receive))
        leaving = asyncio.create_task(self._watch.shutdown.wait())
        try:
            await asyncio.wait((sending, gone, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end_tasks([sending, gone, leaving])
            await self._events.aclose()
        return sending.cancelled() or sending.result()

    async def _written(self) -> AsyncGenerator[bytes, None]:
        began = time.monotonic()
        until = began + self._watch.settings.stream_max_s
        yield RETRY.encode()
        written = began
        async with self._watch.messages.watch(self._job_id) as changes:
            while time.monotonic() < until:
                try:
                    event, ended = await self._next()
                except JobUnknown:
                    return  # the client gets 404 when it reconnects
                if event or time.monotonic() - written >= PING_S:
                    yield (event or ": ping\n\n").encode()
                    written = time.monotonic()
                if ended:
                    return
                await changes.rest(max(0.0, min(POLL_S, until - time.monotonic())))

    async def _next(self) -> tuple[str, bool]:
        """The event of the job's state, empty if it has been sent, and whether it is the last one."""
        try:
            job = await self._watch.jobs.read(self._job_id, self._owner)
        except CapacityError:
            return "", False  # Redis is down; the stream stays open
        if (name := event_id(job)) == self._seen:
            return "", job.ended
        self._seen = name
        return await _event(self._watch.presenter, job), job.ended
