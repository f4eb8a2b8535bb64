"""One wrapper around every endpoint: request id, deadline, caller, errors as problems, usage, headers.

The usage event is in the outbox before the answer starts, also for an answer that is an error.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.contracts import Principal, UsageEvent, usable_request_id
from serve_app.errors import (
    AdminRequired,
    DeadlineExceeded,
    InternalError,
    MethodNotAllowed,
    ServiceError,
    TokenInvalid,
    TokenMissing,
    TrackerUnavailable,
)
from serve_app.gateway.admin.audit import REFUSALS
from serve_app.gateway.limits.limiter import Admission, Asked
from serve_app.gateway.problems import SECURITY_HEADERS, problem_response
from serve_app.gateway.service import Call, Service
from serve_app.gateway.uploads import Pace
from serve_app.tracing import Kind, Step

CLIENT_GONE: Final = 499
"""Status in the usage event of a request whose client went away before the answer."""
_log = logging.getLogger(__name__)

Problems = tuple[type[ServiceError], ...]


@dataclass(frozen=True, slots=True)
class RouteSpec:
    """One row of the route table."""

    method: Literal["GET", "POST", "DELETE"]
    path: str
    handler: Callable[[Call], Awaitable[Response]]
    summary: str
    problems: Problems = ()
    """Problems of its own, beside those of every route and of every authenticated route."""
    tracked: str | None = None
    """`endpoint_type` of its usage events. Authenticated and tracked are one thing; None is open to all."""
    deadline: Literal["submit", "read"] = "read"
    overlaps: bool = False
    """True: the handler runs while the limiter is asked, which saves a round trip; what it found goes out only if the
    request may pass. For reads of one record alone: whatever loops, takes a body, changes something or asks another
    server begins when the limiter has let the request pass, so that a refused one costs nothing else."""
    admin: bool = False
    """True: for admins alone, and what is no GET goes into the audit log."""
    after: Callable[[Call, Response], Awaitable[Response]] | None = None
    """What may hold the answer back beyond the deadline because the caller asks for it; it never fails."""

    @property
    def asked(self) -> Asked:
        """What the limiter counts it as."""
        return "admin" if self.admin else self.deadline


class Endpoint:
    """The ASGI application of one route."""

    def __init__(self, route: RouteSpec, service: Service) -> None:
        self._route = route
        self._service = service
        settings = service.settings
        self._deadline_s = settings.submit_timeout_s if route.deadline == "submit" else settings.read_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = Call(self._service, Request(scope, receive), request_id_of(scope))
        scope["call"] = call  # the request's log line tells of it
        with call.holds:
            await self._serve(call, scope, receive, send)

    async def _serve(self, call: Call, scope: Scope, receive: Receive, send: Send) -> None:
        started, now = time.perf_counter(), time.time()
        step = self._begin(call)
        try:
            response = await self._held_back(call, await self._answer(call))
        except asyncio.CancelledError:
            self._finish(call, step, CLIENT_GONE, started)
            self._service.spawn(self._record(call, CLIENT_GONE, started, now))
            raise
        self._finish(call, step, response.status_code, started)
        # A client that goes away now was still served, and is still counted once: what is begun here is recorded.
        await self._record(call, response.status_code, started, now)
        if call.admission is not None:
            for name, value in call.admission.headers:
                response.headers[name] = value
        await send_response(response, call.request_id, scope, receive, send)

    async def _answer(self, call: Call) -> Response:
        error: ServiceError
        deadline = asyncio.timeout(self._deadline_s)
        try:
            async with deadline:
                call.pace = Pace(deadline, self._deadline_s, self._service.settings)
                if self._route.tracked is None:
                    return await self._route.handler(call)
                call.principal = await self._service.verifier.verify(bearer_token(call.request.scope))
                self._service.active.serve()
                return await self._limited(call, call.principal)
        except ServiceError as met:
            error = met
        except Exception as met:
            error = self._unforeseen(call, met, is_late=deadline.expired())
        call.refusal = error.slug
        return problem_response(error, path=call.request.scope["path"], request_id=call.request_id)

    def _unforeseen(self, call: Call, met: Exception, *, is_late: bool) -> ServiceError:
        """A `TimeoutError` may be that of a pool or a library, long before the request's own deadline."""
        if is_late and isinstance(met, TimeoutError):
            return call.pace.problem if call.pace else DeadlineExceeded("The request took too long.")
        _log.error("request %s to %s failed", call.request_id, self._route.path, exc_info=met)
        return InternalError("The service failed. The request id helps to find out why.")

    async def _held_back(self, call: Call, response: Response) -> Response:
        """The answer once the caller need not wait for it any more. A fault meanwhile takes no answer that is there."""
        if self._route.after is None:
            return response
        try:
            return await self._route.after(call, response)
        except Exception:
            _log.exception("request %s could not wait", call.request_id)
            return response

    def _begin(self, call: Call) -> Step | None:
        """The request's step in a trace. Probes and scrapes have none: they would be most of all traces."""
        if self._route.tracked is None:
            return None
        parent = call.request.headers.get("traceparent")
        step = self._service.tracer.step(f"{self._route.method} {self._route.path}", parent, Kind.SERVER)
        call.traceparent = step.traceparent
        return step

    def _finish(self, call: Call, step: Step | None, status: int, started: float) -> None:
        """The audit line first: nothing that fails later may take it. Nor may a meter's fault take the answer."""
        self._audit(call, status)
        try:
            self._end(call, step, status, started)
        except Exception:
            _log.exception("request %s could not be measured", call.request_id)

    def _end(self, call: Call, step: Step | None, status: int, started: float) -> None:
        latency_ms = (time.perf_counter() - started - call.waited_s) * 1000
        self._service.requests.observe(self._route.path, self._route.method, status, latency_ms, call.refusal)
        if call.refusal and call.admission is not None and call.admission.refused_by:
            self._service.requests.limited(call.admission.refused_by, self._route.asked)
        if step is not None:
            facts = {"http.route": self._route.path, "request.id": call.request_id, "job.id": call.job_id}
            facts["model"] = call.model
            step.end(facts | {"http.response.status_code": status}, str(status) if status >= 500 else None)

    async def _limited(self, call: Call, principal: Principal) -> Response:
        """A refusal of the limiter comes before any other problem."""
        admission = call.admission = self._service.limiter.ask(principal, self._route.asked)
        if not self._route.overlaps:
            await admission.granted()
            if self._route.admin and not principal.is_admin:
                raise AdminRequired("Your token names no role that makes you an admin here.")
            return await self._handled(call, admission)
        try:
            response = await self._route.handler(call)
        except Exception:
            await admission.granted()
            raise
        except BaseException:
            admission.drop()
            raise
        await admission.granted()
        return response

    async def _handled(self, call: Call, admission: Admission) -> Response:
        """What the handler answers. A submit that made nothing costs nothing of the day's quota, unless nobody can tell
        whether it did: accepting had begun, and its reply was lost or not waited for."""
        if self._route.asked != "submit":
            return await self._route.handler(call)
        try:
            response = await self._route.handler(call)
        except ServiceError as error:
            is_unknown = call.accepting and isinstance(error, TrackerUnavailable)
            if not call.accepted and not is_unknown:
                await admission.refund()
            raise
        except BaseException:
            if not call.accepting:
                self._service.spawn(admission.refund())
            raise
        if not call.accepted:
            await admission.refund()
        return response

    def _audit(self, call: Call, status: int) -> None:
        route = self._route
        if status in REFUSALS:  # of the routes without usage only the one for scrapers refuses anybody
            scrape = route.tracked is None
            self._service.audit.refused(call, f"{route.method} {route.path}", status, scrape=scrape)
            return
        decides = route.admin and route.method != "GET" and call.principal is not None and call.principal.is_admin
        if decides or call.acts_as_admin:
            self._service.audit.acted(call, f"{route.method} {route.path}", status)

    async def _record(self, call: Call, status: int, started: float, now: float) -> None:
        """Tell the outbox. Whatever fails, the answer still goes out, for what it tells of has happened; the loss is
        logged."""
        if self._route.tracked is None or call.principal is None:
            return
        try:
            await self._service.outbox.record(self._event(call, call.principal, status, started, now))
        except Exception as error:
            _log.error("usage event of request %s is lost: %r", call.request_id, error)

    def _event(self, call: Call, principal: Principal, status: int, started: float, now: float) -> UsageEvent:
        return UsageEvent(
            event_id=uuid.uuid4().hex,
            timestamp=int(now * 1000),
            principal_id=principal.id,
            username=principal.name,
            group=principal.group or "",
            endpoint_type=self._route.tracked or "",
            status_code=status,
            url_path=self._route.path,
            latency_ms=round((time.perf_counter() - started - call.waited_s) * 1000, 3),
            request_bytes=call.request_bytes,
            job_id=call.job_id,
            model=call.model,
            request_id=call.request_id,
        )


class PathEndpoint:
    """The ASGI application of one path: its methods, and 405 for every other."""

    def __init__(self, methods: Mapping[str, Endpoint]) -> None:
        # RFC 9110 section 9.1: HEAD wherever GET is.
        self._methods = {**methods, **({"HEAD": methods["GET"]} if "GET" in methods else {})}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Ids are hexadecimal and made in lower case; spreadsheets, forms and some UUID libraries put them in capitals.
        given = scope["path_params"]
        scope["path_params"] = {name: text.lower() if name.endswith("_id") else text for name, text in given.items()}
        if endpoint := self._methods.get(scope["method"]):
            await endpoint(scope, receive, send)
            return
        request_id = request_id_of(scope)
        allowed = ", ".join(sorted(self._methods))
        error = MethodNotAllowed(f"Allowed here: {allowed}.")
        response = problem_response(error, path=scope["path"], request_id=request_id)
        response.headers["Allow"] = allowed
        await send_response(response, request_id, scope, receive, send)


class OneSpelling:
    """Middleware: a path with a slash at its end is the path without it. Served, not redirected: a redirect of a POST
    is one more request, and names a host that the service does not know from behind an edge."""

    def __init__(self, application: ASGIApp) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and len(path := scope["path"]) > 1 and path.endswith("/"):
            scope = {**scope, "path": path[:-1]}
        await self._application(scope, receive, send)


async def send_response(response: Response, request_id: str, scope: Scope, receive: Receive, send: Send) -> None:
    """Send with the headers that every answer has."""
    response.headers["X-Request-ID"] = request_id
    for name, value in SECURITY_HEADERS.items():
        response.headers.setdefault(name, value)
    await response(scope, receive, send)


def request_id_of(scope: Scope) -> str:
    """The caller's X-Request-ID when it is safe to log and echo, else a new one; one request keeps one."""
    if "request_id" not in scope:
        scope["request_id"] = usable_request_id(header_of(scope, b"x-request-id"))
    return str(scope["request_id"])


def header_of(scope: Scope, name: bytes) -> str | None:
    """The first header of this name, in lower case; None without one."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value.decode("latin-1"))
    return None


def bearer_token(scope: Scope) -> str:
    """The token of the Authorization header (RFC 6750). Raises `TokenMissing`, `TokenInvalid`."""
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    if not values:
        raise TokenMissing("Send the header Authorization: Bearer with an access token.")
    if len(values) > 1:
        raise TokenInvalid("Send one Authorization header.")
    scheme, _, token = values[0].decode("latin-1").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise TokenMissing("Send the header Authorization: Bearer with an access token.")
    return str(token.strip())
