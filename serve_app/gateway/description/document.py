"""The OpenAPI 3.1 document, made from the route table, the error tree and the models of bodies and answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

from pydantic import BaseModel

from serve_app.contracts import SERVICE_NAME, Json
from serve_app.errors import JobError
from serve_app.gateway.description.answers import answers_of
from serve_app.gateway.description.examples import problem_example, problems_shown
from serve_app.gateway.description.groups.operation import Operation
from serve_app.gateway.description.headers import HEADERS
from serve_app.gateway.description.links import Targets, operation_id
from serve_app.gateway.description.operations import (
    OPERATIONS,
    PATH_PARAMETERS,
    is_described,
    name_of,
    parameters_of,
)
from serve_app.gateway.description.schemas import Schemas
from serve_app.gateway.endpoint import Problems, RouteSpec

ABOUT: Final = """Send an image, get a job's id at once, read the result when it is there.

Send `Authorization: Bearer` with an access token of your facility.
Decide by the `type` of a problem, never by its text."""
_SIGNED: Final = {
    "webhook-id": "Of the event: the same again when it is sent again.",
    "webhook-timestamp": "When it was sent, in seconds since 1970.",
    "webhook-signature": "`v1,` and base64 of HMAC-SHA256 over `id.timestamp.body`; several while secrets change.",
}
"""Standard Webhooks."""


def make_document(
    routes: Sequence[RouteSpec],
    every: Problems,
    every_authenticated: Problems,
    webhooks: Mapping[str, type[BaseModel]],
    version: str,
) -> Json:
    """What these routes take and answer; `every…` are problems that each, or each with a token, may answer."""
    told = [route for route in routes if is_described(route)]
    schemas = Schemas([OPERATIONS[name_of(route)] for route in told], webhooks.values())
    targets = Targets(told)
    paths: dict[str, Json] = defaultdict(dict)
    for route in told:
        operation = OPERATIONS[name_of(route)]
        met = (*route.problems, *every, *(every_authenticated if route.tracked else ()))
        paths[route.path][route.method.lower()] = {
            **_asked(route, operation, schemas),
            "responses": answers_of(route, operation, tuple(dict.fromkeys(met)), schemas, targets),
        }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": SERVICE_NAME,
            "version": version,
            "summary": "Asynchronous image inference",
            "description": ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(one.tag for one in OPERATIONS.values())],
        "paths": dict(paths),
        "webhooks": {name: _webhook(name, schemas.sent(body)) for name, body in webhooks.items()},
        "components": _components(schemas),
    }


def _asked(route: RouteSpec, operation: Operation, schemas: Schemas) -> Json:
    asked: Json = {
        "operationId": operation_id(route),
        "tags": [operation.tag],
        "summary": route.summary,
        "description": " ".join((route.handler.__doc__ or "").split()),
        "parameters": [
            *(_path_parameter(name) for name in parameters_of(route.path)),
            *schemas.query(operation.query),
            *({"$ref": f"#/components/parameters/{name}"} for name in ("X-Request-ID", *operation.headers)),
        ],
    }
    if route.tracked is not None:
        asked["security"] = [{"token": []}]
    if operation.bodies:
        asked["requestBody"] = {"required": True, "content": _bodies(operation, schemas)}
    return asked


def _path_parameter(name: str) -> Json:
    schema = dict(PATH_PARAMETERS[name])
    return {"name": name, "in": "path", "required": True, "description": schema.pop("description"), "schema": schema}


def _bodies(operation: Operation, schemas: Schemas) -> Json:
    content: Json = {media: {"schema": schemas.taken(model)} for media, model in operation.bodies.items()}
    if operation.example is not None:
        content["application/json"]["example"] = operation.example
    return content


def _webhook(name: str, body: Json) -> Json:
    headers = [
        {"name": header, "in": "header", "required": True, "description": text, "schema": {"type": "string"}}
        for header, text in _SIGNED.items()
    ]
    received = {"2XX": {"description": "Received. Anything else, or no answer in time, and it is sent again."}}
    sent = {"required": True, "content": {"application/json": {"schema": body}}}
    return {"post": {"summary": name, "parameters": headers, "requestBody": sent, "responses": received}}


def _components(schemas: Schemas) -> Json:
    text = {"schema": {"type": "string"}}
    asked = {"X-Request-ID"}.union(*(one.headers for one in OPERATIONS.values()))
    return {
        "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        "headers": {name: {"description": words, **text} for name, words in HEADERS.items()},
        "parameters": {
            name: {"name": name, "in": "header", "required": False, "description": HEADERS[name], **text}
            for name in sorted(asked)
        },
        "examples": {
            one.slug: {"summary": one.title, "value": problem_example(one)}
            for one in problems_shown()
            if not issubclass(one, JobError)
        },
        "schemas": schemas.definitions,
    }
