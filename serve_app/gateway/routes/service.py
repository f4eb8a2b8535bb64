"""The routes about the service itself: models, version, description, health and metrics."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from starlette.responses import Response

from serve_app import errors
from serve_app.contracts import SERVICE_NAME
from serve_app.errors import AdminRequired, RouteUnknown, ServiceError
from serve_app.gateway.auth import TokenVerifier, bearer_token
from serve_app.gateway.background.status_cache import ModelStatus, StatusCache
from serve_app.gateway.context import Call, Models
from serve_app.gateway.endpoint import RouteSpec, RouteTable
from serve_app.gateway.http import json_response
from serve_app.gateway.observability import METRICS_MEDIA_TYPE, write_metrics
from serve_app.gateway.openapi import API_VERSION, Description
from serve_app.gateway.schemas import service as schemas
from serve_app.gateway.supervisor import Supervisor
from serve_app.images.store import ImageStore
from serve_app.jobs.dispatcher import Dispatcher
from serve_app.jobs.records import Stopped
from serve_app.jobs.store import JobStore
from serve_app.settings import Settings
from serve_app.usage.outbox import Outbox
from serve_app.usage.writer import Writer
from serve_app.webhooks.store import WebhookStore

NOTHING_FROM_ELSEWHERE: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"
"""For a page of plain text with its own style sheet; nothing else may ever load or run in it."""

ROUTES: Final = RouteTable()
MODEL_ROUTES: Final = RouteTable()
"""For users, and listed with the routes of jobs, which use the models."""


@dataclass(frozen=True)
class Release:
    """The deployed release: its version, its routes (`METHOD path` and a sentence) and their description."""

    version: str
    endpoints: Mapping[str, str]
    description: Description


@dataclass(frozen=True)
class Health:
    """The parts on which the health of a gateway depends."""

    status: StatusCache
    store: ImageStore
    dispatchers: Mapping[str, Dispatcher]
    supervisor: Supervisor
    writer: Writer
    models: Models


@MODEL_ROUTES.add(
    RouteSpec(
        "GET",
        "/api/v1/models",
        "The served models and their replicas",
        "Jobs",
        {200: (schemas.Models,)},
        tracked="models",
    )
)
async def list_models(call: Call, jobs: JobStore, models: Models) -> Response:
    """The served models, the default first, with the reports of their running replicas."""
    running = await asyncio.gather(*map(jobs.replicas, models.names))
    cards = models.cards.values()
    answer: schemas.Models = {
        "default": models.names[0],
        "models": [
            schemas.model_object(card, replicas, models.refusals.get(card.name))
            for card, replicas in zip(cards, running, strict=True)
        ],
    }
    return json_response(answer)


@MODEL_ROUTES.add(
    RouteSpec(
        "GET",
        "/api/v1/models/{model}",
        "A model: parameters, result, labels, limits and state",
        "Jobs",
        {200: (schemas.ModelDetail,)},
        (errors.ModelUnknown,),
        tracked="models",
    )
)
async def read_model(call: Call, jobs: JobStore, models: Models, settings: Settings) -> Response:
    """200 with the model. Labels, engine and version are those of a running replica, and null while none runs."""
    card = models.card(call.request.path_params["model"])
    call.model = card.name
    replicas = await jobs.replicas(card.name)
    return json_response(schemas.model_detail(card, replicas, models.refusals.get(card.name), settings))


@ROUTES.add(RouteSpec("GET", "/api/v1/version", "API version and routes", "Service", {200: (schemas.Version,)}))
async def version(call: Call, release: Release) -> Response:
    """The deployed version and its routes; depends on no other part."""
    answer: schemas.Version = {
        "api_version": API_VERSION,
        "gateway": "Ray Serve",
        "service": "SEM Classifier API",
        "release": release.version,
        "endpoints": dict(release.endpoints),
    }
    return json_response(answer)


@ROUTES.add(RouteSpec("GET", "/config", "Settings that are no secret", "Service", {200: (schemas.Config,)}))
async def config(call: Call, release: Release, models: Models, settings: Settings) -> Response:
    """What a client of the images API may want to know; depends on no other part."""
    card = models.cards.get(settings.images_model)
    answer: schemas.Config = {
        "app_name": SERVICE_NAME,
        "app_version": release.version,
        "environment": settings.environment,
        "api_prefix": "/api/v1",
        "mode": "dummy" if card is not None and card.implementation.endswith(":DummyDetector") else "real",
        "model_name": settings.images_model,
        "max_upload_size": settings.image_max_bytes,
    }
    return json_response(answer)


@ROUTES.add(
    RouteSpec("GET", "/openapi.json", "All routes for programs: OpenAPI 3.1", "Service", {200: (schemas.Document,)})
)
async def read_document(call: Call, release: Release) -> Response:
    """200 with the OpenAPI 3.1 document of all routes."""
    return Response(release.description.document, media_type="application/json")


@ROUTES.add(RouteSpec("GET", "/docs", "All routes for people, as a page", "Service", {200: ("text/html",)}))
async def read_page(call: Call, release: Release) -> Response:
    """200 with the same as a page for readers. It loads nothing and runs no script."""
    headers = {"Content-Security-Policy": NOTHING_FROM_ELSEWHERE}
    return Response(release.description.page, headers=headers, media_type="text/html")


@ROUTES.add(
    RouteSpec(
        "GET",
        "/problems/{slug}",
        "What a problem's type means: its place on the page",
        "Service",
        {303: ()},
        (errors.RouteUnknown,),
    )
)
async def go_to_problem(call: Call, release: Release) -> Response:
    """303 to the section of a problem type on the page."""
    slug = call.request.path_params["slug"]
    if slug not in release.description.problems:
        raise RouteUnknown("There is no such problem type. GET /docs lists them.")
    return Response(status_code=303, headers={"Location": f"/docs#{slug}"})


@ROUTES.add(
    RouteSpec(
        "GET",
        "/health",
        "Health of gateway, queue and models",
        "Service",
        {200: (schemas.Health,), 503: (schemas.Health,)},
    )
)
async def health(call: Call, parts: Health) -> Response:
    """200 `healthy` or 503 `degraded`: Redis and the image store answer, and every model has a replica or may wake from
    none."""
    status = await parts.status.latest() or {}
    cards = parts.models.cards
    served = [bool(model.replicas) or cards[name].wakes_from_zero for name, model in status.items()]
    devices = [replica.device for model in status.values() for replica in model.replicas]
    healthy = bool(status) and all(served) and not parts.store.trouble
    answer: schemas.Health = {
        "status": "healthy" if healthy else "degraded",
        "model_loaded": bool(status) and bool(status[parts.models.names[0]].replicas),
        "device": devices[0] if devices else "none",
        "redis_connected": bool(status),
        "queue": {
            "pending": sum(model.backlog.waiting for model in status.values()),
            "processing": sum(model.backlog.leased for model in status.values()),
        },
    }
    if stopped := _stopped(status):  # otherwise only the fields that clients of the predecessor know
        answer["stopped"] = stopped
    return json_response(answer, 200 if healthy else 503)


# Of two rows above one handler, the lower one comes first in the table.
@ROUTES.add(RouteSpec("GET", "/livez", "The process lives", "Service", {200: (schemas.Alive,)}))
@ROUTES.add(RouteSpec("GET", "/__health", "The gateway answers", "Service", {200: (schemas.Alive,)}))
async def alive(call: Call) -> Response:
    """200 while the process answers; depends on no other part."""
    answer: schemas.Alive = {"status": "ok"}
    return json_response(answer)


@ROUTES.add(
    RouteSpec(
        "GET",
        "/healthz",
        "The same as /readyz",
        "Service",
        {200: (schemas.Readiness,), 503: (schemas.Readiness,)},
        query=schemas.ReadinessQuery,
    )
)
@ROUTES.add(
    RouteSpec(
        "GET",
        "/readyz",
        "Whether jobs are worked on; ?verbose: which part is not ready",
        "Service",
        {200: (schemas.Readiness,), 503: (schemas.Readiness,)},
        query=schemas.ReadinessQuery,
    )
)
async def ready(call: Call, parts: Health, verifier: TokenVerifier) -> Response:
    """200 when jobs are accepted and processed, else 503; `?verbose` adds the parts, and a token adds the reasons.

    A reason may be a library's message with internal details, so callers without a token get only the words before it.
    A failure of PostgreSQL is shown but does not change the status: usage rows wait in the outbox.
    """
    status = await parts.status.latest()
    tracker: Literal["ready", "away"] = "away" if status is None else "ready"
    models = {name: dispatcher.state for name, dispatcher in parts.dispatchers.items()}
    store = parts.store.trouble or "ready"
    background = dict(parts.supervisor.states)
    whole = await is_ready(parts)
    answer: schemas.Readiness = {"status": "ready" if whole else "not ready"}
    if "verbose" in call.request.query_params:
        if not await _is_known(call, verifier):
            models, background = _without_reasons(models), _without_reasons(background)
            store = store.partition(":")[0]
        answer |= {"tracker": tracker, "store": store, "models": models, "usage": parts.writer.trouble or "ready"}
        answer |= {"background": background, "stopped": _stopped(status or {})}
        if parts.store.unmeasured:
            answer["memory"] = f"not checked: {parts.store.unmeasured}"
    return json_response(answer, 200 if whole else 503)


@ROUTES.add(
    RouteSpec(
        "GET",
        "/metrics",
        "Queue, ledger and outbox for Prometheus",
        "Service",
        {200: ("text/plain",)},
        (
            errors.TokenMissing,
            errors.TokenInvalid,
            errors.KeysUnavailable,
            errors.AdminRequired,
            errors.TrackerUnavailable,
        ),
    )
)
async def metrics(
    call: Call,
    jobs: JobStore,
    outbox: Outbox,
    webhooks: WebhookStore,
    models: Models,
    verifier: TokenVerifier,
    settings: Settings,
) -> Response:
    """The metrics as text, for the holder of METRICS_TOKEN and for admins."""
    await _check_scraper(call, verifier, settings)
    states, stopped, waiting, deliveries = await asyncio.gather(
        asyncio.gather(*map(jobs.queue_state, models.names)),
        jobs.stopped(models.names),
        outbox.stats(),
        webhooks.stats(),
    )
    queues = dict(zip(models.names, states, strict=True))
    return Response(write_metrics(queues, stopped, waiting, deliveries), media_type=METRICS_MEDIA_TYPE)


async def is_ready(parts: Health) -> bool:
    """Whether jobs are accepted and processed."""
    if await parts.status.latest() is None or parts.store.trouble:
        return False
    # A model scaled to zero waits for its first job; any other must have passed its warm-up.
    fine = {
        name: ("ready", "waiting") if card.wakes_from_zero else ("ready",) for name, card in parts.models.cards.items()
    }
    working = all(dispatcher.state in fine[name] for name, dispatcher in parts.dispatchers.items())
    return working and all(state == "ready" for state in parts.supervisor.states.values())


async def _check_scraper(call: Call, verifier: TokenVerifier, settings: Settings) -> None:
    given, wanted = bearer_token(call.request.scope), settings.metrics_token.get_secret_value()
    if wanted and hmac.compare_digest(given.encode(), wanted.encode()):
        return
    call.principal = await verifier.verify(given)
    if not call.principal.is_admin:
        raise AdminRequired("Metrics are for admins and for the holder of METRICS_TOKEN.")


def _without_reasons(states: Mapping[str, str]) -> dict[str, str]:
    return {name: state.partition(":")[0] for name, state in states.items()}


def _stopped(status: Mapping[str, ModelStatus]) -> dict[str, list[Stopped]]:
    """The stops in force, by model. They are intended, so they affect neither readiness nor health."""
    return {name: model.stopped for name, model in status.items() if model.stopped}


async def _is_known(call: Call, verifier: TokenVerifier) -> bool:
    """Whether the request has a valid token. A probe with an invalid or unverifiable one does not fail."""
    try:
        await verifier.verify(bearer_token(call.request.scope))
    except ServiceError:
        return False
    return True
