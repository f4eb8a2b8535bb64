"""What the service says of itself: alive, ready and why not, healthy, its version and its models."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from starlette.responses import Response

from serve_app.contracts import Json, ModelCard, ReplicaCard
from serve_app.errors import ServiceError
from serve_app.gateway.endpoint import bearer_token
from serve_app.gateway.monitoring.vitals import ModelVitals
from serve_app.gateway.problems import json_response
from serve_app.gateway.service import Call

API_VERSION = "v1.0.0"


async def alive(call: Call) -> Response:
    """200 while the process answers; nothing else is looked at."""
    return json_response({"status": "ok"})


async def ready(call: Call) -> Response:
    """200 when jobs are accepted and worked on, else 503; with `?verbose` it names the parts, and with a token why.

    A reason may be the text of a library, which tells of the inside: strangers get the word before it.
    PostgreSQL that is away is told, and changes nothing: usage rows wait in the outbox.
    """
    service = call.service
    vitals = await service.vitals.latest()
    tracker = "away" if vitals is None else "ready"
    models = {name: dispatcher.state for name, dispatcher in service.dispatchers.items()}
    # A model that sleeps waits for its first job; any other has to have passed its warm-up.
    fine = {name: ("ready", "waiting") if card.wakes_from_zero else ("ready",) for name, card in service.cards.items()}
    store = service.store.trouble or "ready"
    background = dict(service.supervisor.states)
    whole = tracker == store == "ready" and all(state in fine[name] for name, state in models.items())
    whole = whole and all(state == "ready" for state in background.values())
    document: Json = {"status": "ready" if whole else "not ready"}
    if "verbose" in call.request.query_params:
        if not await _is_known(call):
            models = {name: state.partition(":")[0] for name, state in models.items()}
            background = {name: state.partition(":")[0] for name, state in background.items()}
            store = store.partition(":")[0]
        document |= {"tracker": tracker, "store": store, "models": models, "usage": service.writer.trouble or "ready"}
        document |= {"background": background, "stopped": _stopped(vitals or {})}
        if service.store.unmeasured:
            document["memory"] = f"not checked: {service.store.unmeasured}"
    return json_response(document, 200 if whole else 503)


async def health(call: Call) -> Response:
    """200 `healthy` or 503 `degraded`: Redis and the image store answer, and every model has a replica or may wake from
    none."""
    service = call.service
    vitals = await service.vitals.latest() or {}
    cards = service.cards
    default = next(iter(cards))
    served = [bool(model.replicas) or cards[name].wakes_from_zero for name, model in vitals.items()]
    devices = [replica.device for model in vitals.values() for replica in model.replicas]
    healthy = bool(vitals) and all(served) and not service.store.trouble
    document: Json = {
        "status": "healthy" if healthy else "degraded",
        "model_loaded": bool(vitals) and bool(vitals[default].replicas),
        "device": devices[0] if devices else "none",
        "redis_connected": bool(vitals),
        "queue": {
            "pending": sum(model.backlog.waiting for model in vitals.values()),
            "processing": sum(model.backlog.leased for model in vitals.values()),
        },
    }
    if stopped := _stopped(vitals):  # otherwise what the predecessor's clients know, and nothing more
        document["stopped"] = stopped
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
    running = await asyncio.gather(*(service.jobs.replicas(card.name) for card in cards))
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


def _stopped(vitals: Mapping[str, ModelVitals]) -> Json:
    """What admins have stopped, by model. It is meant, so it makes nothing unready or unhealthy."""
    return {name: model.stopped for name, model in vitals.items() if model.stopped}


async def _is_known(call: Call) -> bool:
    """Whether the request brings a token that passes. One that does not, or cannot be checked now, fails no probe."""
    try:
        await call.service.verifier.verify(bearer_token(call.request.scope))
    except ServiceError:
        return False
    return True
