"""What the service says of itself: alive, ready and why not, healthy, its version and its models."""

from __future__ import annotations

import asyncio

from starlette.responses import Response

from serve_app.contracts import Json, ModelCard, ReplicaCard
from serve_app.errors import TrackerUnavailable
from serve_app.gateway.problems import json_response
from serve_app.gateway.service import Call, Service
from serve_app.jobs.records import Backlog

API_VERSION = "v1.0.0"


async def alive(call: Call) -> Response:
    """200 while the process answers; nothing else is looked at."""
    return json_response({"status": "ok"})


async def ready(call: Call) -> Response:
    """200 when jobs are accepted and worked on, else 503; the body says which part is not ready and why.

    PostgreSQL that is away is told, and changes nothing: usage rows wait in the outbox.
    """
    service = call.service
    models = {name: dispatcher.state for name, dispatcher in service.dispatchers.items()}
    tracker = "ready" if await _tracker_answers(service) else "away"
    # A model that sleeps waits for its first job; any other has to have passed its warm-up.
    fine = {name: ("ready", "waiting") if card.wakes_from_zero else ("ready",) for name, card in service.cards.items()}
    whole = tracker == "ready" and all(state in fine[name] for name, state in models.items())
    document = {
        "status": "ready" if whole else "not ready",
        "tracker": tracker,
        "models": models,
        "usage": service.writer.trouble or "ready",
    }
    return json_response(document, 200 if whole else 503)


async def health(call: Call) -> Response:
    """200 `healthy` or 503 `degraded`: Redis answers and every model has a replica or may wake from none."""
    service = call.service
    cards = list(service.cards.values())
    try:
        looks = await asyncio.gather(*(_look(service, card) for card in cards))
    except TrackerUnavailable:
        looks = []
    replicas = [replica for running, _ in looks for replica in running]
    served = [bool(running) or card.wakes_from_zero for card, (running, _) in zip(cards, looks, strict=False)]
    healthy = bool(looks) and all(served)
    document = {
        "status": "healthy" if healthy else "degraded",
        "model_loaded": bool(looks) and bool(looks[0][0]),
        "device": replicas[0].device if replicas else "none",
        "redis_connected": bool(looks),
        "queue": {
            "pending": sum(backlog.waiting for _, backlog in looks),
            "processing": sum(backlog.leased for _, backlog in looks),
        },
    }
    return json_response(document, 200 if healthy else 503)


async def version(call: Call) -> Response:
    """What is deployed and which routes there are; asks no other part."""
    document = {
        "api_version": API_VERSION,
        "gateway": "Ray Serve",
        "service": "SEM Classifier API",
        "release": call.service.version,
        "endpoints": dict(call.service.endpoints),
    }
    return json_response(document)


async def models(call: Call) -> Response:
    """The served models, the default first, with what their running replicas say of themselves."""
    service = call.service
    cards = list(service.cards.values())
    running = await asyncio.gather(*(service.tracker.replicas(card.name) for card in cards))
    described = [_model(card, replicas) for card, replicas in zip(cards, running, strict=True)]
    return json_response({"default": cards[0].name, "models": described})


def _model(card: ModelCard, replicas: list[ReplicaCard]) -> Json:
    return {
        "name": card.name,
        "input": card.input_layer,
        "params_schema": card.params_schema,
        "result_schema": card.result_schema,
        "replicas": [
            {"replica": one.replica, "version": one.version, "device": one.device, "description": one.description}
            for one in replicas
        ],
    }


async def _look(service: Service, card: ModelCard) -> tuple[list[ReplicaCard], Backlog]:
    return await service.tracker.replicas(card.name), await service.tracker.backlog(card.name)


async def _tracker_answers(service: Service) -> bool:
    try:
        await asyncio.gather(*(service.tracker.backlog(name) for name in service.cards))
    except TrackerUnavailable:
        return False
    return True
