"""Webhooks as resources of their owner: registered receivers, their secrets and their deliveries."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import Response

from serve_app.contracts import Json
from serve_app.errors import BodyInvalid
from serve_app.gateway.body import pointers_of, read_json
from serve_app.gateway.problems import json_response
from serve_app.gateway.service import Call
from serve_app.gateway.views import timestamp
from serve_app.webhooks.events import EVENT_TYPES, EventType
from serve_app.webhooks.store import Delivery, Webhook

PATH: Final = "/api/v1/webhooks"


class Registration(BaseModel):
    """Where to, and of what; without `events` all of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: Annotated[str, Field(strict=True)]
    events: Annotated[frozenset[EventType], Field(min_length=1)] = frozenset(EVENT_TYPES)


async def register(call: Call) -> Response:
    """201 with the webhook and its secret, which is shown this once."""
    try:
        asked = Registration.model_validate(await read_json(call))
    except ValidationError as error:
        raise BodyInvalid("The webhook cannot be read.", pointers=pointers_of(error)) from error
    endpoint = await call.service.webhooks.register(call.caller.id, asked.url, sorted(asked.events))
    return json_response(_with_secret(endpoint), 201, {"Location": f"{PATH}/{endpoint.id}"})


async def listed(call: Call) -> Response:
    """200 with all of the caller's, the newest first."""
    return json_response({"webhooks": [_view(one) for one in await call.service.webhooks.listed(call.caller.id)]})


async def read(call: Call) -> Response:
    """200 with one."""
    return json_response(_view(await call.service.webhooks.read(call.caller.id, _webhook_id(call))))


async def remove(call: Call) -> Response:
    """204 once it is forgotten; what waited for it is not sent."""
    await call.service.webhooks.remove(call.caller.id, _webhook_id(call))
    return Response(status_code=204)


async def rotate(call: Call) -> Response:
    """200 with the webhook and its new secret, which is shown this once."""
    return json_response(_with_secret(await call.service.webhooks.rotate(call.caller.id, _webhook_id(call))))


async def try_out(call: Call) -> Response:
    """202 with the delivery of a test event; once it is taken, a webhook that was switched off is on again."""
    return _begun(await call.service.webhooks.send_test(call.caller.id, _webhook_id(call)))


async def deliveries(call: Call) -> Response:
    """200 with what waits and what ended."""
    found = await call.service.webhooks.deliveries(call.caller.id, _webhook_id(call))
    return json_response({"deliveries": [_delivery_view(one) for one in found]})


async def redeliver(call: Call) -> Response:
    """202: the delivery begins again, with the id it had."""
    delivery = call.request.path_params["delivery_id"]
    await call.service.webhooks.redeliver(call.caller.id, _webhook_id(call), delivery)
    return _begun(delivery)


def _webhook_id(call: Call) -> str:
    return str(call.request.path_params["webhook_id"])


def _begun(delivery: str) -> Response:
    return json_response({"delivery_id": delivery}, 202)


def _with_secret(endpoint: Webhook) -> Json:
    return {**_view(endpoint), "secret": endpoint.secrets[0]}


def _view(endpoint: Webhook) -> Json:
    path = f"{PATH}/{endpoint.id}"
    return {
        "webhook_id": endpoint.id,
        "url": endpoint.url,
        "events": endpoint.events,
        "enabled": endpoint.disabled_at is None,
        "disabled_at": timestamp(endpoint.disabled_at),
        "disabled_reason": endpoint.disabled_why or None,
        "created_at": timestamp(endpoint.created_at),
        "delivered_at": timestamp(endpoint.delivered_at),
        "dropped": endpoint.dropped,
        "older_secret_until": timestamp(endpoint.older_secret_until),
        "links": {"self": path, "deliveries": f"{path}/deliveries"},
    }


def _delivery_view(delivery: Delivery) -> Json:
    return {
        "delivery_id": delivery.id,
        "type": delivery.type,
        "job_id": delivery.job_id or None,
        "status": delivery.status,
        "timestamp": timestamp(delivery.at),
        "next_attempt_at": timestamp(delivery.next_attempt_at),
        "attempts": [{**attempt, "at": timestamp(attempt["at"])} for attempt in delivery.attempts],
    }
