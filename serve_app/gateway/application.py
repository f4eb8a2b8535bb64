"""The gateway as one ASGI application: a pure factory, and the life of its parts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import Any, Final, cast

from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serve_app.connections import GroupingRedis, connect_redis
from serve_app.contracts import ModelCard, ModelHandle
from serve_app.errors import InternalError, RouteUnknown, ServiceError
from serve_app.gateway.batches.fetcher import Fetcher
from serve_app.gateway.description.publish import describe
from serve_app.gateway.endpoint import Endpoint, OneSpelling, PathEndpoint, request_id_of
from serve_app.gateway.keys import KeyRing
from serve_app.gateway.limits.decisions import Decisions
from serve_app.gateway.limits.limiter import Limiter
from serve_app.gateway.live.departure import Departure
from serve_app.gateway.live.rates import Rates
from serve_app.gateway.monitoring.meters import BreakerMeter
from serve_app.gateway.monitoring.request_log import RequestLog
from serve_app.gateway.monitoring.vitals import Vitals
from serve_app.gateway.problems import SECURITY_HEADERS, problem_response
from serve_app.gateway.routes import EVERY_AUTHENTICATED_ROUTE, EVERY_ROUTE, ROUTES
from serve_app.gateway.service import Service
from serve_app.gateway.supervisor import Supervisor
from serve_app.gateway.tokens import TokenVerifier
from serve_app.gateway.usage.reports import Reports
from serve_app.gateway.views import job_path
from serve_app.images.bucket_store import BucketStore, OrphanSweeper, open_store
from serve_app.jobs.active import ActiveCluster
from serve_app.jobs.batches import BatchStore
from serve_app.jobs.dispatcher import Dispatcher
from serve_app.jobs.store import JobStore
from serve_app.models.registry import load
from serve_app.settings import Settings
from serve_app.tracing import Tracer
from serve_app.usage.outbox import Outbox
from serve_app.usage.outcomes import Outcomes
from serve_app.usage.writer import Writer
from serve_app.webhooks.sender import Sender
from serve_app.webhooks.store import WebhookStore

SHUTDOWN_S: Final = 15.0
"""Most time for what was accepted and claimed; what is still claimed then is taken back by its lease."""
CLOSE_S: Final = 1.5
"""Most time for each of three steps after that. Together less than the 40 s after which Serve kills a replica."""
CORS_ALLOWED: Final = (
    *("Authorization", "Cache-Control", "Content-Type", "Idempotency-Key", "If-None-Match", "Last-Event-ID", "Prefer"),
    # What tracing and libraries add to every request of a page, unasked.
    *("X-Request-ID", "X-Requested-With", "traceparent", "tracestate", "baggage"),
)
CORS_EXPOSED: Final = (
    *("Content-Disposition", "Content-Length", "ETag", "Idempotent-Replayed", "Link", "Location", "Preference-Applied"),
    *("RateLimit", "RateLimit-Policy", "Retry-After", "X-Request-ID"),
)
CORS_MAX_AGE_S: Final = 12 * 3600

_log = logging.getLogger(__name__)

Runner = Writer | Sender | Fetcher | BreakerMeter | Rates | Departure | OrphanSweeper | ActiveCluster


def build_gateway(
    settings: Settings,
    cards: Sequence[ModelCard],
    handles: Mapping[str, ModelHandle],
    *,
    version: str,
    tracer: Tracer,
    cluster: str = "",
) -> Starlette:
    """The gateway of the given models, the first of them the default. Nothing is opened before its lifespan starts.

    `cluster` is the name of the RayCluster that it is a part of, empty where there is none.
    """
    settings.require_database()
    requests, work = cast(GroupingRedis, connect_redis(settings, client=GroupingRedis)), connect_redis(settings)
    service = _assemble(settings, cards, handles, version, tracer, requests, work, cluster)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        for name, dispatcher in service.dispatchers.items():
            service.supervisor.start(f"Dispatcher {name}", dispatcher.run)
        runners: list[Runner] = [service.writer, Sender(work, settings, job_path), Fetcher(service)]
        runners += [BreakerMeter(service.dispatchers), service.rates, service.departure]
        if isinstance(service.store, BucketStore):
            runners.append(OrphanSweeper(service.store, work))
        if cluster:
            runners.append(service.active)
        for runner in runners:
            service.supervisor.start(type(runner).__name__, runner.run)
        service.supervisor.start("Leaving", partial(_stop_claiming, service))
        try:
            yield
        finally:
            await _end(service, (requests, work))

    routes = [
        Route(path, PathEndpoint({route.method: Endpoint(route, service) for route in group}), name=path)
        for path, group in groupby(ROUTES, attrgetter("path"))
    ]
    handlers: dict[Any, Any] = {HTTPException: _route_unknown, Exception: _failed}
    application = Starlette(routes=routes, middleware=_cors(settings), exception_handlers=handlers, lifespan=lifespan)
    application.state.check_health = service.supervisor.check
    application.router.redirect_slashes = False
    application.add_middleware(OneSpelling)
    application.add_middleware(RequestLog)
    return application


def _cors(settings: Settings) -> list[Middleware]:
    """Lets pages of the configured origins call the service with a token. Cookies are never read: none are let in."""
    if not settings.cors_allowed_origins:
        return []
    cors = Middleware(
        CORSMiddleware,
        allow_origins=settings.cors_allowed_origins,
        allow_methods=("GET", "POST", "DELETE"),
        allow_headers=CORS_ALLOWED,
        expose_headers=CORS_EXPOSED,
        max_age=CORS_MAX_AGE_S,
    )
    return [cors]


def _assemble(
    settings: Settings,
    cards: Sequence[ModelCard],
    handles: Mapping[str, ModelHandle],
    version: str,
    tracer: Tracer,
    requests: GroupingRedis,
    work: Redis,
    cluster: str,
) -> Service:
    """Requests and background work have a client each: a burst of requests must not keep leases from being renewed."""
    keys, departure = KeyRing(settings), Departure()
    dispatched, asked = JobStore(work, settings, cluster=cluster), JobStore(requests, settings)
    return Service(
        settings=settings,
        version=version,
        cards={card.name: card for card in cards},
        params={card.name: load(card.implementation).Params for card in cards},
        endpoints={f"{route.method:<4} {route.path}": route.summary for route in ROUTES},
        description=describe(ROUTES, EVERY_ROUTE, EVERY_AUTHENTICATED_ROUTE),
        jobs=asked,
        batches=BatchStore(asked),
        vitals=Vitals(asked, [card.name for card in cards]),
        store=open_store(requests, settings),
        outbox=Outbox(requests, settings),
        outcomes=Outcomes(settings),
        keys=keys,
        verifier=TokenVerifier(settings, keys),
        limiter=Limiter(requests, settings),
        decisions=Decisions(requests),
        dispatchers={card.name: Dispatcher(dispatched, handles[card.name], card, version=version) for card in cards},
        writer=Writer(work, settings),
        reports=Reports(settings),
        webhooks=WebhookStore(requests, settings),
        tracer=tracer,
        messages=dispatched.messages,
        rates=Rates(asked, [card.name for card in cards]),
        departure=departure,
        active=ActiveCluster(dispatched),
        supervisor=Supervisor(departure),
    )


async def _stop_claiming(service: Service) -> None:
    """At once when the replica is told to go: its open requests may keep it for long before the lifespan ends."""
    await service.departure.told()
    for dispatcher in service.dispatchers.values():
        dispatcher.leave()


async def _end(service: Service, clients: tuple[Redis, ...]) -> None:
    """Accepting ends first, then claiming, then the rest; each within its time. What stays in the outbox another writer
    takes."""
    service.departure.tell()
    await _within(SHUTDOWN_S, _finish(service))
    service.reports.close()
    await _within(CLOSE_S, service.supervisor.end())
    service.store.close()  # nobody uses it any more: for who does, a closed store is a fault
    await _within(CLOSE_S, service.writer.close(), service.keys.close(), service.outcomes.close())
    # Redis and the exporter of traces are used until here.
    await _within(CLOSE_S, *(client.aclose() for client in clients), asyncio.to_thread(service.tracer.close))


async def _finish(service: Service) -> None:
    await asyncio.gather(*service.background, return_exceptions=True)
    await service.outbox.close()
    await asyncio.gather(*(one.close() for one in service.dispatchers.values()), return_exceptions=True)


async def _within(seconds: float, *work: Awaitable[object]) -> None:
    """Return when all of the work has ended, or after that long; what fails or is late is logged."""
    ends = asyncio.gather(*work, return_exceptions=True)
    try:
        async with asyncio.timeout(seconds):
            failures = [end for end in await ends if isinstance(end, Exception)]
    except TimeoutError:
        failures = [TimeoutError(f"not done in {seconds:g} s")]
    for failure in failures:
        _log.warning("a part of this gateway did not end well: %r", failure)


async def _route_unknown(request: Request, _: Exception) -> Response:
    return _problem(request, RouteUnknown("There is nothing at this path. GET /api/v1/version lists the routes."))


async def _failed(request: Request, _: Exception) -> Response:
    return _problem(request, InternalError("The service failed. The request id helps to find out why."))


def _problem(request: Request, error: ServiceError) -> Response:
    request_id = request_id_of(request.scope)
    response = problem_response(error, path=request.scope["path"], request_id=request_id)
    response.headers.update({"X-Request-ID": request_id, **SECURITY_HEADERS})
    return response
