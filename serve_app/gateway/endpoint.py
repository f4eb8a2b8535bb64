"""The rows of the route table, and one wrapper around every handler: request id, deadline, authentication, limits,
errors as problems, usage, audit, headers. The usage event is in the outbox before the answer starts, also if the answer
is an error."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any, Final, Literal, TypeVar, get_type_hints

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.contracts import Principal, UsageEvent
from serve_app.errors import (
    AdminRequired,
    DeadlineExceeded,
    InternalError,
    MethodNotAllowed,
    ServiceError,
    TrackerUnavailable,
)
from serve_app.gateway.audit import REFUSALS, AuditedRequest, AuditLog
from serve_app.gateway.auth import TokenVerifier, bearer_token
from serve_app.gateway.context import Call
from serve_app.gateway.http import CLIENT_GONE, ClientGone, problem_response, request_id_of, send_response
from serve_app.gateway.observability import RequestMeter
from serve_app.gateway.ratelimit import Admission, ConcurrencyLimit, Limiter, RateClass
from serve_app.gateway.supervisor import RequestTasks
from serve_app.gateway.uploads import Pace
from serve_app.jobs.active import ActiveCluster
from serve_app.settings import Settings
from serve_app.tracing import Kind, Step, Tracer
from serve_app.usage.outbox import Outbox

_log = logging.getLogger(__name__)

Problems = tuple[type[ServiceError], ...]
Method = Literal["GET", "POST", "DELETE"]
Handler = Callable[..., Awaitable[Response]]
"""Takes a `Call`, and the parts of the gateway that its other parameters name by class."""
Tag = Literal["Jobs", "Predictions", "Older routes", "Batches", "Images", "Webhooks", "Usage", "Admin", "Service"]
"""The groups of routes on the page, in its order."""
Content = type[Any] | str
"""A schema is JSON; a text is another media type."""

_NONE: Final[Mapping[Any, Any]] = MappingProxyType({})
H = TypeVar("H", bound=Handler)


async def _no_handler(call: Call) -> Response:
    raise NotImplementedError("a row gets its handler from RouteTable.add")


@dataclass(frozen=True, slots=True, eq=False)
class RouteSpec:
    """One row of the route table, above its handler. The handler's docstring is the long text of its description."""

    method: Method
    path: str
    summary: str
    tag: Tag
    answers: Mapping[int, tuple[Content, ...]]
    """The successful answers by status; no content means no body."""
    problems: Problems = ()
    """Problems of this route, besides those of every route and of every authenticated route."""
    tracked: str | None = None
    """`endpoint_type` of its usage events. Every authenticated route is tracked; None: open to everybody."""
    deadline: Literal["submit", "read"] = "read"
    overlaps: bool = False
    """True: the handler runs concurrently with the rate check, which saves a round trip; its result is sent only if the
    check passes. Only for reads of a single record: a handler that loops, takes a body, changes something or asks
    another server starts after the check, so that a refused request costs nothing else."""
    admin: bool = False
    """True: only for admins; requests other than GET go into the audit log."""
    after: Handler | None = None
    """May delay the answer beyond the deadline because the caller asks for it; it never fails."""
    bodies: Mapping[str, type[BaseModel]] = field(default_factory=lambda: _NONE)
    """The models of the request body, by media type."""
    example: Any = None
    """A valid JSON body."""
    query: type[BaseModel] | None = None
    headers: tuple[str, ...] = ()
    """Request headers that it uses, besides `Authorization` and `X-Request-ID`; `openapi.HEADERS` describes each."""
    answer_headers: tuple[str, ...] = ()
    """Headers of its successful answers, besides those of every answer and of its status."""
    at_root: bool = False
    """True: the same route is also under `/api/v1`; this path is a predecessor's."""
    handler: Handler = _no_handler

    @property
    def name(self) -> str:
        """`METHOD path`."""
        return f"{self.method} {self.path}"

    @property
    def rate_class(self) -> RateClass:
        """The class in which the limiter counts it."""
        return "admin" if self.admin else self.deadline


class RouteTable(list[RouteSpec]):
    """The rows of a module, in the order of their handlers."""

    def add(self, row: RouteSpec) -> Callable[[H], H]:
        """Decorate the row's handler."""

        def with_handler(handler: H) -> H:
            self.append(replace(row, handler=handler))
            return handler

        return with_handler


def bind(handler: Handler, parts: Sequence[object]) -> Handler:
    """The handler with the parts that its signature names by class. Raises `LookupError` unless there is exactly one
    part of each class, so that a gateway with a missing part does not start."""
    kinds = get_type_hints(handler)
    kinds.pop("return", None)
    needed = {name: kind for name, kind in kinds.items() if not issubclass(kind, Call | Response)}
    return partial(handler, **{name: _part(kind, parts) for name, kind in needed.items()})


def _part(kind: type[Any], parts: Sequence[object]) -> object:
    found = [part for part in parts if isinstance(part, kind)]
    if len(found) != 1:
        raise LookupError(f"there are {len(found)} parts of the class {kind.__name__}, and a handler needs one")
    return found[0]


@dataclass(frozen=True, slots=True)
class EndpointServices:
    """The parts that the wrapper itself uses on every route."""

    settings: Settings
    verifier: TokenVerifier
    limiter: Limiter
    active: ActiveCluster
    outbox: Outbox
    tracer: Tracer
    tasks: RequestTasks
    slow_uploads: ConcurrencyLimit
    """Requests whose body arrives slowly."""
    audit: AuditLog = field(default_factory=AuditLog)
    meter: RequestMeter = field(default_factory=RequestMeter)


class Endpoint:
    """The ASGI application of one route."""

    def __init__(self, route: RouteSpec, services: EndpointServices, parts: Sequence[object]) -> None:
        self._route = route
        self._services = services
        self._handler = bind(route.handler, parts)
        self._after = bind(route.after, parts) if route.after else None
        settings = services.settings
        self._deadline_s = settings.submit_timeout_s if route.deadline == "submit" else settings.read_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = Call(Request(scope, receive), request_id_of(scope))
        scope["call"] = call  # for the request's log line
        with call.holds:
            await self._serve(call, scope, receive, send)

    async def _serve(self, call: Call, scope: Scope, receive: Receive, send: Send) -> None:
        started, now = time.perf_counter(), time.time()
        step = self._begin(call)
        try:
            response = await self._held_back(call, await self._answer(call))
        except asyncio.CancelledError:
            self._finish(call, step, CLIENT_GONE, started)
            self._services.tasks.spawn(self._record(call, CLIENT_GONE, started, now))
            raise
        self._finish(call, step, response.status_code, started)
        # If the client disconnects now, the request was still served and is counted once.
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
                call.pace = Pace(deadline, self._deadline_s, self._services.settings, self._services.slow_uploads)
                if self._route.tracked is None:
                    return await self._handler(call)
                call.principal = await self._services.verifier.verify(bearer_token(call.request.scope))
                self._services.active.serve()
                return await self._limited(call, call.principal)
        except ServiceError as met:
            error = met
        except ClientGone:
            return Response(status_code=CLIENT_GONE)
        except Exception as met:
            error = self._unforeseen(call, met, is_late=deadline.expired())
        call.refusal = error.slug
        return problem_response(error, path=call.request.scope["path"], request_id=call.request_id)

    def _unforeseen(self, call: Call, met: Exception, *, is_late: bool) -> ServiceError:
        """A `TimeoutError` may come from a pool or a library, long before the request's own deadline."""
        if is_late and isinstance(met, TimeoutError):
            return call.pace.problem if call.pace else DeadlineExceeded("The request took too long.")
        _log.error("request %s to %s failed", call.request_id, self._route.path, exc_info=met)
        return InternalError("The service failed. The request id helps to find out why.")

    async def _held_back(self, call: Call, response: Response) -> Response:
        """The answer after the caller's wait. An error during the wait does not affect the answer."""
        if self._after is None:
            return response
        try:
            return await self._after(call, response)
        except Exception:
            _log.exception("request %s could not wait", call.request_id)
            return response

    def _begin(self, call: Call) -> Step | None:
        """The request's span in a trace. Probes and scrapes have none, because they would fill the traces."""
        if self._route.tracked is None:
            return None
        parent = call.request.headers.get("traceparent")
        step = self._services.tracer.step(self._route.name, parent, Kind.SERVER)
        call.traceparent = step.traceparent
        return step

    def _finish(self, call: Call, step: Step | None, status: int, started: float) -> None:
        """The audit line comes first, so that no later failure prevents it. A failing meter does not affect the
        answer."""
        self._audit(call, status)
        try:
            self._end(call, step, status, started)
        except Exception:
            _log.exception("request %s could not be measured", call.request_id)

    def _end(self, call: Call, step: Step | None, status: int, started: float) -> None:
        latency_ms = (time.perf_counter() - started - call.waited_s) * 1000
        self._services.meter.observe(self._route.path, self._route.method, status, latency_ms, call.refusal)
        if call.refusal and call.admission is not None and call.admission.refused_by:
            self._services.meter.limited(call.admission.refused_by, self._route.rate_class)
        if step is not None:
            facts = {"http.route": self._route.path, "request.id": call.request_id, "job.id": call.job_id}
            facts["model"] = call.model
            step.end(facts | {"http.response.status_code": status}, str(status) if status >= 500 else None)

    async def _limited(self, call: Call, principal: Principal) -> Response:
        """A refusal by the limiter takes precedence over any other problem."""
        admission = call.admission = self._services.limiter.ask(principal, self._route.rate_class)
        if not self._route.overlaps:
            await admission.granted()
            if self._route.admin and not principal.is_admin:
                raise AdminRequired("Your token does not contain the admin role.")
            return await self._handled(call, admission)
        try:
            response = await self._handler(call)
        except Exception:
            await admission.granted()
            raise
        except BaseException:
            admission.drop()
            raise
        await admission.granted()
        return response

    async def _handled(self, call: Call, admission: Admission) -> Response:
        """The handler's answer. A submit that created nothing does not count towards the day's quota, unless the result
        is unknown: accepting had begun, and its reply was lost or not awaited."""
        if self._route.rate_class != "submit":
            return await self._handler(call)
        try:
            response = await self._handler(call)
        except ServiceError as error:
            is_unknown = call.accepting and isinstance(error, TrackerUnavailable)
            if not call.accepted and not is_unknown:
                await admission.refund()
            raise
        except BaseException:
            if not call.accepting:
                self._services.tasks.spawn(admission.refund())
            raise
        if not call.accepted:
            await admission.refund()
        return response

    def _audit(self, call: Call, status: int) -> None:
        route = self._route
        decides = route.admin and route.method != "GET" and call.principal is not None and call.principal.is_admin
        if status not in REFUSALS and not decides and not call.acts_as_admin:
            return
        request = AuditedRequest(
            route=route.name,
            status=status,
            principal=call.principal,
            address=call.address,
            request_id=call.request_id,
            target=call.target,
            refusal=call.refusal,
            forwarded_for=call.request.headers.get("x-forwarded-for", ""),
        )
        if status in REFUSALS:
            self._services.audit.refused(request, scrape=route.path == "/metrics")
        else:
            self._services.audit.acted(request)

    async def _record(self, call: Call, status: int, started: float, now: float) -> None:
        """Put the usage event into the outbox. If that fails, the answer is still sent, because the work was done, and
        the loss is logged."""
        if self._route.tracked is None or call.principal is None:
            return
        try:
            await self._services.outbox.record(self._event(call, call.principal, status, started, now))
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
    """The ASGI application of one path: its methods, and 405 for any other."""

    def __init__(self, methods: Mapping[str, Endpoint]) -> None:
        # RFC 9110 section 9.1: HEAD is allowed wherever GET is.
        self._methods = {**methods, **({"HEAD": methods["GET"]} if "GET" in methods else {})}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Ids are lower-case hexadecimal; spreadsheets, forms and some UUID libraries change them to upper case.
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
    """Middleware: treats a path with a trailing slash as the path without it.

    It does not redirect: a redirected POST is a second request, and behind an edge the service does not know its own
    host name.
    """

    def __init__(self, application: ASGIApp) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and len(path := scope["path"]) > 1 and path.endswith("/"):
            scope = {**scope, "path": path[:-1]}
        await self._application(scope, receive, send)
