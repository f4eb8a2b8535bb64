"""The routes of webhooks: the caller's receivers, their secrets and their deliveries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from starlette.responses import Response

from serve_app import errors
from serve_app.errors import BodyInvalid
from serve_app.gateway.bodies import read_json
from serve_app.gateway.context import Call
from serve_app.gateway.endpoint import Content, Method, Problems, RouteSpec, RouteTable
from serve_app.gateway.http import json_response, pointers_of
from serve_app.gateway.schemas import webhooks as schemas
from serve_app.webhooks.store import WebhookStore

ROUTES: Final = RouteTable()


def _row(
    method: Method,
    path: str,
    summary: str,
    answers: Mapping[int, tuple[Content, ...]],
    problems: Problems = (),
    bodies: Mapping[str, type[BaseModel]] | None = None,
    example: Any = None,
) -> RouteSpec:
    return RouteSpec(
        method,
        f"{schemas.PATH}{path}",
        summary,
        "Webhooks",
        answers,
        problems,
        tracked="webhooks",
        bodies=bodies or {},
        example=example,
    )


@ROUTES.add(_row("GET", "", "Your webhooks", {200: (schemas.Webhooks,)}))
async def listed(call: Call, webhooks: WebhookStore) -> Response:
    """200 with all of the caller's webhooks, newest first."""
    answer: schemas.Webhooks = {"webhooks": [schemas.webhook(one) for one in await webhooks.listed(call.caller.id)]}
    return json_response(answer)


@ROUTES.add(
    _row(
        "POST",
        "",
        "Register a webhook",
        {201: (schemas.WebhookWithSecret,)},
        (
            errors.BodyInvalid,
            errors.BodyTooLarge,
            errors.BodyTypeUnsupported,
            errors.WebhookUrlInvalid,
            errors.WebhookUrlForbidden,
            errors.WebhooksFull,
            errors.StoreFull,
        ),
        {"application/json": schemas.Registration},
        {"url": "https://lab.example.org/hooks/sem", "events": ["job.completed"]},
    )
)
async def register(call: Call, webhooks: WebhookStore) -> Response:
    """201 with the webhook and its secret, which is shown only once."""
    try:
        given = schemas.Registration.model_validate(await read_json(call))
    except ValidationError as error:
        raise BodyInvalid("The webhook cannot be read.", pointers=pointers_of(error)) from error
    endpoint = await webhooks.register(call.caller.id, given.url, sorted(given.events))
    return json_response(schemas.webhook_with_secret(endpoint), 201, {"Location": f"{schemas.PATH}/{endpoint.id}"})


@ROUTES.add(_row("GET", "/{webhook_id}", "A webhook", {200: (schemas.Webhook,)}, (errors.WebhookUnknown,)))
async def read(call: Call, webhooks: WebhookStore) -> Response:
    """200 with one webhook."""
    return json_response(schemas.webhook(await webhooks.read(call.caller.id, _webhook_id(call))))


@ROUTES.add(_row("DELETE", "/{webhook_id}", "Delete a webhook", {204: ()}, (errors.WebhookUnknown,)))
async def remove(call: Call, webhooks: WebhookStore) -> Response:
    """204 once it is deleted; waiting deliveries are not sent."""
    await webhooks.remove(call.caller.id, _webhook_id(call))
    return Response(status_code=204)


@ROUTES.add(
    _row(
        "POST",
        "/{webhook_id}/rotate",
        "Give it a new secret",
        {200: (schemas.WebhookWithSecret,)},
        (errors.WebhookUnknown,),
    )
)
async def rotate(call: Call, webhooks: WebhookStore) -> Response:
    """200 with the webhook and its new secret, which is shown only once."""
    return json_response(schemas.webhook_with_secret(await webhooks.rotate(call.caller.id, _webhook_id(call))))


@ROUTES.add(
    _row(
        "POST",
        "/{webhook_id}/test",
        "Send it a test event",
        {202: (schemas.StartedDelivery,)},
        (errors.WebhookUnknown, errors.QueueFull),
    )
)
async def send_test(call: Call, webhooks: WebhookStore) -> Response:
    """202 with the delivery of a test event; if the receiver accepts it, a disabled webhook is enabled again."""
    return _started(await webhooks.send_test(call.caller.id, _webhook_id(call)))


@ROUTES.add(
    _row(
        "GET",
        "/{webhook_id}/deliveries",
        "Its deliveries",
        {200: (schemas.Deliveries,)},
        (errors.WebhookUnknown,),
    )
)
async def deliveries(call: Call, webhooks: WebhookStore) -> Response:
    """200 with waiting and ended deliveries."""
    found = await webhooks.deliveries(call.caller.id, _webhook_id(call))
    answer: schemas.Deliveries = {"deliveries": [schemas.delivery_object(one) for one in found]}
    return json_response(answer)


@ROUTES.add(
    _row(
        "POST",
        "/{webhook_id}/deliveries/{delivery_id}/redeliver",
        "Deliver again",
        {202: (schemas.StartedDelivery,)},
        (errors.WebhookUnknown, errors.DeliveryUnknown, errors.QueueFull),
    )
)
async def redeliver(call: Call, webhooks: WebhookStore) -> Response:
    """202: the delivery starts again, with the same id."""
    delivery = call.request.path_params["delivery_id"]
    await webhooks.redeliver(call.caller.id, _webhook_id(call), delivery)
    return _started(delivery)


def _webhook_id(call: Call) -> str:
    return str(call.request.path_params["webhook_id"])


def _started(delivery: str) -> Response:
    answer: schemas.StartedDelivery = {"delivery_id": delivery}
    return json_response(answer, 202)
