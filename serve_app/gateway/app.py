"""The gateway as one ASGI application: how it is built, started and stopped."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
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
from serve_app.gateway.auth import TokenVerifier
from serve_app.gateway.background.status_cache import StatusCache
from serve_app.gateway.background.throughput import Throughputs
from serve_app.gateway.background.url_fetcher import UrlFetcher
from serve_app.gateway.context import Models
from serve_app.gateway.endpoint import Endpoint, EndpointServices, OneSpelling, PathEndpoint
from serve_app.gateway.http import SECURITY_HEADERS, problem_response, request_id_of
from serve_app.gateway.intake import Intake
from serve_app.gateway.jwks import KeyRing
from serve_app.gateway.live import JobPresenter, JobWatch
from serve_app.gateway.observability import BreakerMeter, RequestLog
from serve_app.gateway.ratelimit import ConcurrencyLimit, Decisions, Limiter
from serve_app.gateway.routes.batches import BatchIntake, StoredResults
from serve_app.gateway.routes.images import ImageRecords
from serve_app.gateway.routes.service import Health, Release
from serve_app.gateway.routes.table import ROUTES, description
from serve_app.gateway.routes.usage import Reports
from serve_app.gateway.schemas.jobs import job_path
from serve_app.gateway.signing import UrlSigner
from serve_app.gateway.supervisor import RequestTasks, ShutdownSignal, Supervisor
from serve_app.gateway.uploads import SLOW_MAX, SLOW_MAX_PER_USER, ImageFetcher, UploadBudget
from serve_app.images.bucket_store import BucketStore, OrphanSweeper, open_store
from serve_app.images.store import ImageStore
from serve_app.jobs.active import ActiveCluster
from serve_app.jobs.batches import BatchStore
from serve_app.jobs.dispatcher import Dispatcher
from serve_app.jobs.store import JobStore
from serve_app.models.registry import load, refusal
from serve_app.settings import Settings
from serve_app.tracing import Tracer
from serve_app.usage.images import Images
from serve_app.usage.outbox import Outbox
from serve_app.usage.outcomes import Outcomes
from serve_app.usage.writer import Writer
from serve_app.webhooks.sender import Sender
from serve_app.webhooks.store import WebhookStore

SHUTDOWN_S: Final = 15.0
"""Longest time for accepted and claimed work to end. Jobs still claimed then are claimed again when their leases
expire."""
CLOSE_S: Final = 1.5
"""Longest time of each of the three steps after that. All together end before Serve kills a replica after 40 s."""
CORS_ALLOWED: Final = (
    *("Authorization", "Cache-Control", "Content-Type", "Idempotency-Key", "If-None-Match", "Last-Event-ID", "Prefer"),
    # Tracing and libraries add these to every request of a page.
    *("X-Request-ID", "X-Requested-With", "traceparent", "tracestate", "baggage"),
)
CORS_EXPOSED: Final = (
    *("Content-Disposition", "Content-Length", "ETag", "Idempotent-Replayed", "Link", "Location", "Preference-Applied"),
    *("RateLimit", "RateLimit-Policy", "Retry-After", "X-Request-ID"),
)
CORS_MAX_AGE_S: Final = 12 * 3600

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gateway:
    """The parts of a gateway replica, for its start and end. Handlers get those that their signatures name by class."""

    settings: Settings
    models: Models
    store: ImageStore
    jobs: JobStore
    dispatchers: Mapping[str, Dispatcher]
    outbox: Outbox
    outcomes: Outcomes
    images: Images
    writer: Writer
    keys: KeyRing
    reports: Reports
    limiter: Limiter
    budget: UploadBudget
    slow_uploads: ConcurrencyLimit
    stored_results: StoredResults
    watch: JobWatch
    tasks: RequestTasks
    shutdown: ShutdownSignal
    supervisor: Supervisor
    tracer: Tracer
    clients: tuple[Redis, ...]
    background: Mapping[str, Callable[[], Awaitable[None]]]
    """Tasks that run as long as the replica, by their names in `/readyz`, in the log and in the metric. Some names are
    older than the classes and must stay: operators may have alerts on them."""
    services: EndpointServices
    parts: Sequence[object]
    """The parts that handlers may name in their signatures."""


def build_gateway(
    settings: Settings,
    cards: Sequence[ModelCard],
    handles: Mapping[str, ModelHandle],
    *,
    version: str,
    tracer: Tracer,
    cluster: str = "",
) -> Starlette:
    """The gateway of the given models; the first is the default. Opens nothing before its lifespan starts.

    `cluster` is the name of the RayCluster to which it belongs, or empty.
    """
    settings.require_database()
    gateway = _assemble(settings, cards, handles, version, tracer, cluster)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        for name, run in gateway.background.items():
            gateway.supervisor.start(name, run)
        gateway.supervisor.start("Leaving", partial(_stop_claiming, gateway))
        try:
            yield
        finally:
            await _end(gateway)

    routes = [
        Route(
            path,
            PathEndpoint({route.method: Endpoint(route, gateway.services, gateway.parts) for route in group}),
            name=path,
        )
        for path, group in groupby(ROUTES, attrgetter("path"))
    ]
    handlers: dict[Any, Any] = {HTTPException: _route_unknown, Exception: _failed}
    application = Starlette(routes=routes, middleware=_cors(settings), exception_handlers=handlers, lifespan=lifespan)
    application.state.check_health = gateway.supervisor.check
    application.state.gateway = gateway
    application.router.redirect_slashes = False
    application.add_middleware(OneSpelling)
    application.add_middleware(RequestLog)
    return application


def _cors(settings: Settings) -> list[Middleware]:
    """Let pages of the configured origins call the service with a token. Cookies are not allowed, because none is
    read."""
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
    cluster: str,
) -> Gateway:
    """Requests and background work have separate Redis clients: a burst of requests must not delay the renewal of
    leases."""
    requests, work = cast(GroupingRedis, connect_redis(settings, client=GroupingRedis)), connect_redis(settings)
    models = Models(
        {card.name: card for card in cards},
        {card.name: load(card.implementation).Params for card in cards},
        {card.name: reason for card in cards if (reason := refusal(card, settings))},
    )
    keys, shutdown, tasks = KeyRing(settings), ShutdownSignal(), RequestTasks()
    jobs, claiming = JobStore(requests, settings), JobStore(work, settings, cluster=cluster)
    batches = BatchStore(jobs)
    store, webhooks = open_store(requests, settings), WebhookStore(requests, settings)
    outbox, outcomes, writer = Outbox(requests, settings), Outcomes(settings), Writer(work, settings)
    images = Images(settings)
    active, supervisor = ActiveCluster(claiming), Supervisor(shutdown)
    verifier, limiter = TokenVerifier(settings, keys), Limiter(requests, settings)
    budget = UploadBudget(settings.upload_bytes_in_flight, settings.upload_bytes_per_user)
    fetcher, reports = ImageFetcher(settings), Reports(settings)
    slow_uploads = ConcurrencyLimit(SLOW_MAX, SLOW_MAX_PER_USER)
    dispatchers = {card.name: Dispatcher(claiming, handles[card.name], card, version=version) for card in cards}
    throughputs, status = Throughputs(jobs, models.names), StatusCache(jobs, models.names)
    presenter = JobPresenter(jobs, throughputs, models, settings.job_ttl)
    watch = JobWatch(jobs, claiming.messages, presenter, shutdown, settings)
    stored_results = StoredResults(batches, jobs, outcomes)
    background: dict[str, Callable[[], Awaitable[None]]] = {
        **{f"Dispatcher {name}": dispatcher.run for name, dispatcher in dispatchers.items()},
        "Writer": writer.run,
        "Sender": Sender(work, settings, job_path).run,
        "Fetcher": UrlFetcher(batches, store, fetcher, budget, models, settings, shutdown).run,
        "BreakerMeter": BreakerMeter(dispatchers).run,
        "Rates": throughputs.run,
        "Departure": shutdown.run,
    }
    if isinstance(store, BucketStore):
        background["Keeper"] = OrphanSweeper(store, work).run
    if cluster:
        background["ActiveCluster"] = active.run
    return Gateway(
        settings=settings,
        models=models,
        store=store,
        jobs=jobs,
        dispatchers=dispatchers,
        outbox=outbox,
        outcomes=outcomes,
        images=images,
        writer=writer,
        keys=keys,
        reports=reports,
        limiter=limiter,
        budget=budget,
        slow_uploads=slow_uploads,
        stored_results=stored_results,
        watch=watch,
        tasks=tasks,
        shutdown=shutdown,
        supervisor=supervisor,
        tracer=tracer,
        clients=(requests, work),
        background=background,
        services=EndpointServices(settings, verifier, limiter, active, outbox, tracer, tasks, slow_uploads),
        parts=(
            *(settings, models, jobs, batches, store, outbox, outcomes, webhooks, verifier, reports),
            *(presenter, watch, stored_results, Decisions(requests)),
            *(limiter, UrlSigner(requests, settings)),
            Intake(jobs, store, models, budget, fetcher, tasks, settings),
            ImageRecords(images, jobs, outbox, outcomes, settings),
            BatchIntake(batches, store, models, budget, tasks, settings),
            Health(status, store, dispatchers, supervisor, writer, models),
            Release(version, {f"{route.method:<4} {route.path}": route.summary for route in ROUTES}, description()),
        ),
    )


async def _stop_claiming(gateway: Gateway) -> None:
    """Runs as soon as the replica is asked to stop: open requests may delay the end of the lifespan for long."""
    await gateway.shutdown.wait()
    for dispatcher in gateway.dispatchers.values():
        dispatcher.drain()


async def _end(gateway: Gateway) -> None:
    """Stop accepting, then claiming, then the rest, each within its time. Another writer takes what stays in the
    outbox."""
    gateway.shutdown.set()
    await _within(SHUTDOWN_S, _finish(gateway))
    gateway.reports.close()
    await _within(CLOSE_S, gateway.supervisor.end())
    gateway.store.close()  # after its last user: using a closed store is a bug
    await _within(
        CLOSE_S, gateway.writer.close(), gateway.keys.close(), gateway.outcomes.close(), gateway.images.close()
    )
    # Everything before may use Redis and the exporter of traces.
    await _within(CLOSE_S, *(client.aclose() for client in gateway.clients), asyncio.to_thread(gateway.tracer.close))


async def _finish(gateway: Gateway) -> None:
    await gateway.tasks.finish()
    await gateway.outbox.close()
    await asyncio.gather(*(one.close() for one in gateway.dispatchers.values()), return_exceptions=True)


async def _within(seconds: float, *work: Awaitable[object]) -> None:
    """Return when all of the work has ended, or after that long; failures and timeouts are logged."""
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
