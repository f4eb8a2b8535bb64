"""The OpenAPI 3.1 document and the offline page, made from the route table, the schemas and the problem types."""

from __future__ import annotations

import json
import re
import shlex
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final, Literal, cast, get_args, get_type_hints

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from serve_app.contracts import SERVICE_NAME, Json
from serve_app.errors import PROBLEMS, ImageExists, JobError, ServiceError
from serve_app.gateway.endpoint import Content, Problems, RouteSpec, Tag
from serve_app.gateway.http import problem_media
from serve_app.gateway.schemas.common import PRINCIPAL_ID, Problem, problem_type, without_null
from serve_app.models.contract import OUTPUT_NAME

API_VERSION: Final = "v1.0.0"
ABOUT: Final = """Send an image, get a job's id at once, read the result when it is there.

Send `Authorization: Bearer` with an access token of your facility.
Decide by the `type` of a problem, never by its text."""
_SIGNED: Final = {
    "webhook-id": "Of the event: the same again when it is sent again.",
    "webhook-timestamp": "When it was sent, in seconds since 1970.",
    "webhook-signature": "`v1,` and base64 of HMAC-SHA256 over `id.timestamp.body`; several while secrets change.",
}
"""Standard Webhooks."""
HEADERS: Final[Mapping[str, str]] = {
    "X-Request-ID": "Names the request. Yours, if it is 1 to 128 letters, digits, `.`, `_` or `-`; else a new one.",
    "traceparent": "W3C Trace Context: the trace that this request is a part of.",
    "Idempotency-Key": "Of your choice: with the same body within 24 h and 100,000 keys it gives the same job.",
    "Idempotent-Replayed": "`true`: this job was accepted before, by the same key.",
    "Prefer": "`wait=N`: answer when the job has ended, after N seconds (20 at most) in any case (RFC 7240).",
    "Preference-Applied": "`wait=N`: so long was the job waited for, at most.",
    "prediction-time-latency": "Milliseconds from the whole request to the answer.",
    "Inference-Header-Content-Length": "Bytes of the JSON at the beginning of a body with binary tensors.",
    "Vary": "`Prefer`: the answer depends on it.",
    "Last-Event-ID": "The id of the last event that you have: what it said is not said again.",
    "If-None-Match": "The `ETag` of the answer that you have: 304 where it still holds.",
    "ETag": "Of this answer, for `If-None-Match`.",
    "Link": "The next page, as `rel=next` (RFC 8288).",
    "Location": "Where it is.",
    "Content-Disposition": "Names the file, as a download.",
    "Referrer-Policy": "`no-referrer`: a browser does not pass the signed URL on.",
    "Retry-After": "Seconds to wait before the next request.",
    "Allow": "The methods of this path.",
    "WWW-Authenticate": "The scheme, and why a token was refused (RFC 6750).",
    "RateLimit": "What is left of what you may send (draft-ietf-httpapi-ratelimit-headers).",
    "RateLimit-Policy": "What you may send.",
}
"""Headers of requests and answers; the rows of routes name them."""
PATH_PARAMETERS: Final[Mapping[str, Json]] = {
    "job_id": {"type": "string", "description": "The id that the submit answered."},
    "name": {
        "type": "string",
        "pattern": f"^{OUTPUT_NAME.pattern}$",
        "description": "Of a file, as the result lists it.",
    },
    "model": {"type": "string", "description": "The name of a model, as GET /api/v1/models lists it."},
    "model_name": {
        "type": "string",
        "description": "The name of a model, as GET /api/v1/models lists it; in /v1 also `aiq-detector`.",
    },
    "version": {"type": "string", "description": "Of the release, as GET /v2 names it."},
    "batch_id": {"type": "string", "description": "The id that the submit of the batch answered."},
    "image_id": {"type": "string", "description": "The SHA-256 of the image's bytes, in hexadecimal."},
    "object_id": {"type": "string", "description": "Of an object, as the list of the image's objects names it."},
    "principal_id": {
        "type": "string",
        "pattern": f"^{PRINCIPAL_ID}$",
        "description": "A user, as in the usage records.",
    },
    "webhook_id": {"type": "string", "description": "The id that the registration answered."},
    "delivery_id": {"type": "string", "description": "The header webhook-id of what was sent."},
    "stop": {"type": "string", "description": "The name of a stop in force: intake, intake:MODEL or work:MODEL."},
    "slug": {"type": "string", "pattern": "^[a-z-]+$", "description": "The last part of a problem's type."},
}

_templates: Final = Environment(
    loader=PackageLoader("serve_app.gateway"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)

Mode = Literal["validation", "serialization"]


@dataclass(frozen=True, slots=True)
class Description:
    """The OpenAPI document for programs, and the same as a page for readers, ready to be sent."""

    document: bytes
    page: bytes
    problems: frozenset[str]
    """The slugs of the problem types that have an anchor on the page."""


@lru_cache(maxsize=1)
def describe(
    routes: tuple[RouteSpec, ...],
    every: Problems,
    every_authenticated: Problems,
    webhooks: tuple[tuple[str, type[BaseModel]], ...],
) -> Description:
    """Document and page of these routes, made once for all gateways of a process.

    `every…`: problems of every route, or of every route with a token. `webhooks`: the events that the service sends,
    with their bodies.
    """
    document = make_document(routes, every, every_authenticated, dict(webhooks), API_VERSION.removeprefix("v"))
    return Description(
        document=json.dumps(document, separators=(",", ":")).encode(),
        page=write_page(document).encode(),
        problems=frozenset(PROBLEMS),
    )


def make_document(
    routes: Sequence[RouteSpec],
    every: Problems,
    every_authenticated: Problems,
    webhooks: Mapping[str, type[BaseModel]],
    version: str,
) -> Json:
    """The document of these routes. Arguments as of `describe`."""
    schemas = Schemas(routes, webhooks.values())
    targets = LinkTargets(routes)
    paths: dict[str, Json] = defaultdict(dict)
    examples: dict[str, Json] = {}
    for route in routes:
        met = (*route.problems, *every, *(every_authenticated if route.tracked else ()))
        paths[route.path][route.method.lower()] = {
            **_request(route, schemas),
            "responses": _answers(route, tuple(dict.fromkeys(met)), schemas, targets),
        }
        for problem in met:
            examples.setdefault(problem.slug, {"summary": problem.title, "value": problem_example(problem, route.path)})
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
        "tags": [{"name": tag} for tag in get_args(Tag)],
        "paths": dict(paths),
        "webhooks": {name: _webhook(name, schemas.sent(body)) for name, body in webhooks.items()},
        "components": _components(routes, schemas, examples),
    }


def _request(route: RouteSpec, schemas: Schemas) -> Json:
    request: Json = {
        "operationId": operation_id(route),
        "tags": [route.tag],
        "summary": route.summary,
        "description": " ".join((route.handler.__doc__ or "").split()),
        "parameters": [
            *(_path_parameter(name) for name in parameters_of(route.path)),
            *schemas.query(route.query),
            *({"$ref": f"#/components/parameters/{name}"} for name in ("X-Request-ID", *route.headers)),
        ],
    }
    if route.tracked is not None:
        request["security"] = [{"token": []}]
    if route.bodies:
        request["requestBody"] = {"required": True, "content": _bodies(route, schemas)}
    return request


def _path_parameter(name: str) -> Json:
    schema = {"minLength": 1, **PATH_PARAMETERS[name]}  # without it the path is that of the list
    return {"name": name, "in": "path", "required": True, "description": schema.pop("description"), "schema": schema}


def _bodies(route: RouteSpec, schemas: Schemas) -> Json:
    content: Json = {media: {"schema": schemas.taken(model)} for media, model in route.bodies.items()}
    if route.example is not None:
        content["application/json"]["example"] = route.example
    return content


def _answers(route: RouteSpec, problems: Problems, schemas: Schemas, targets: LinkTargets) -> Json:
    """The answers by status; the problems of one status are examples of one answer."""
    limited = route.tracked is not None
    answers: dict[str, Json] = {}
    for status, contents in route.answers.items():
        names = dict.fromkeys((*_headers_of(status, limited=limited), *route.answer_headers))
        answer: Json = {"description": HTTPStatus(status).phrase, "headers": _headers(*names)}
        if contents:
            answer["content"] = dict(_content(content, schemas) for content in contents)
        if route.method == "POST" and not isinstance(contents[0], str) and (links := targets.links(contents[0])):
            answer["links"] = links
        answers[str(status)] = answer
    by_status: dict[int, list[type[ServiceError]]] = defaultdict(list)
    for problem in problems:
        by_status[problem.status].append(problem)
    for status, met in sorted(by_status.items()):
        answer = answers.setdefault(str(status), {"description": _titles(met)})
        names = dict.fromkeys((*_headers_of(status, limited=limited), *(("Location",) if ImageExists in met else ())))
        answer["headers"] = _headers(*names)
        answer.setdefault("content", {})[problem_media(route.path)] = {
            "schema": schemas.sent(Problem),
            "examples": {one.slug: {"$ref": f"#/components/examples/{one.slug}"} for one in met},
        }
    return answers


def _content(content: Content, schemas: Schemas) -> tuple[str, Json]:
    if isinstance(content, str):
        # Tools take the schema of a stream for that of each event, as the description explains.
        return content, {} if content == "text/event-stream" else {"schema": {"type": "string"}}
    return "application/json", {"schema": schemas.sent(content)}


def _titles(problems: list[type[ServiceError]]) -> str:
    return "; ".join(one.title for one in problems)


def _headers(*names: str) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _headers_of(status: int, *, limited: bool) -> tuple[str, ...]:
    """The headers of an answer with this status; `limited`: the route counts against the limits."""
    brought = {
        201: ("Location",),
        202: ("Location", "Retry-After"),
        303: ("Location",),
        307: ("Location",),
        401: ("WWW-Authenticate",),
        405: ("Allow",),
        429: ("Retry-After",),
        503: ("Retry-After",),
        504: ("Retry-After",),
    }.get(status, ())
    return ("X-Request-ID", *brought, *(("RateLimit-Policy", "RateLimit") if limited else ()))


def _webhook(name: str, body: Json) -> Json:
    headers = [
        {"name": header, "in": "header", "required": True, "description": text, "schema": {"type": "string"}}
        for header, text in _SIGNED.items()
    ]
    received = {"2XX": {"description": "Received. Anything else, or no answer in time, and it is sent again."}}
    sent = {"required": True, "content": {"application/json": {"schema": body}}}
    return {"post": {"summary": name, "parameters": headers, "requestBody": sent, "responses": received}}


def _components(routes: Sequence[RouteSpec], schemas: Schemas, examples: Json) -> Json:
    text = {"schema": {"type": "string"}}
    request_headers = {"X-Request-ID"}.union(*(route.headers for route in routes))
    return {
        "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        "headers": {name: {"description": words, **text} for name, words in HEADERS.items()},
        "parameters": {
            name: {"name": name, "in": "header", "required": False, "description": HEADERS[name], **text}
            for name in sorted(request_headers)
        },
        "examples": examples,
        "schemas": schemas.definitions,
    }


def operation_id(route: RouteSpec) -> str:
    """A unique name for a route."""
    words = re.sub(r"\W+", "_", route.path.removeprefix("/api/v1").strip("/")).rstrip("_")
    return f"{route.method.lower()}_{'root_' if route.at_root else ''}{words}"


def parameters_of(path: str) -> list[str]:
    """The names in the braces of a path."""
    return re.findall(r"{(\w+)}", path)


class LinkTargets:
    """Links from an answer that names a resource to the routes that take the name, in the path or as the whole body."""

    def __init__(self, routes: Sequence[RouteSpec]) -> None:
        self._by_path = {route: parameters_of(route.path) for route in routes}
        self._by_body = {
            route: list(body.model_fields)
            for route in routes
            for body in route.bodies.values()
            if len(body.model_fields) == 1
        }

    def links(self, made: type[Any]) -> Json:
        """Links from an answer of this model, by the id of the operation that each leads to."""
        fields = {name: f"$response.body#/{name}" for name in get_type_hints(made)}
        found: Json = {}
        for route, names in self._by_path.items():
            if len(names) == 1 and names[0] in fields:
                found[operation_id(route)] = {"parameters": {names[0]: fields[names[0]]}}
        for route, names in self._by_body.items():
            if names[0] in fields:
                found[operation_id(route)] = {"requestBody": {names[0]: fields[names[0]]}}
        return {name: {"operationId": name, **taken} for name, taken in found.items()}


class _WholeObjects(GenerateJsonSchema):
    """An answer has no fields other than those of its schema, unless the schema allows that."""

    def typed_dict_schema(self, schema: core_schema.TypedDictSchema) -> Json:
        found = super().typed_dict_schema(schema)
        return {"additionalProperties": False} | found


class Schemas:
    """The schemas of all these routes, each once, and references to them."""

    def __init__(self, routes: Iterable[RouteSpec], webhooks: Iterable[type[BaseModel]]) -> None:
        wanted: dict[tuple[type[Any], Mode], None] = {(Problem, "serialization"): None}
        for route in routes:
            wanted |= dict.fromkeys((body, "validation") for body in route.bodies.values())
            contents = (content for answer in route.answers.values() for content in answer)
            wanted |= dict.fromkeys((one, "serialization") for one in contents if not isinstance(one, str))
        wanted |= dict.fromkeys((body, "serialization") for body in webhooks)
        self._references, made = TypeAdapter.json_schemas(
            [(cast(Hashable, kind), mode, TypeAdapter(kind)) for kind, mode in wanted],
            ref_template="#/components/schemas/{model}",
            schema_generator=_WholeObjects,
        )
        self.definitions: Json = made["$defs"]

    def taken(self, model: type[BaseModel]) -> Json:
        """A reference to the schema of a request body."""
        return self._references[model, "validation"]

    def sent(self, model: type[Any]) -> Json:
        """A reference to the schema of an answer or of an event."""
        return self._references[cast(Hashable, model), "serialization"]

    def query(self, model: type[BaseModel] | None) -> list[Json]:
        """The query parameters of a model. Those that may be None are optional."""
        if model is None:
            return []
        schema = model.model_json_schema()
        named, needed = schema.get("$defs", {}), schema.get("required", ())
        return [_parameter(name, name in needed, one, named) for name, one in schema["properties"].items()]


def _parameter(name: str, required: bool, schema: Json, named: Json) -> Json:
    schema = without_null(schema)
    if reference := schema.pop("$ref", None):
        schema = {**named[reference.rpartition("/")[2]], **schema}
    text = schema.pop("description", "")
    return {"name": name, "in": "query", "required": required, "description": text, "schema": schema}


def problem_example(problem: type[ServiceError], path: str) -> Json:
    """The answer with this problem type at this path; for types of jobs, the `problem` of the job."""
    example: Json = {"type": problem_type(problem.slug), "title": problem.title}
    detail = {"detail": f"{problem.title}."}
    if issubclass(problem, JobError):
        return example | detail
    request_id = "0d5e3c9b7f814a6f9c1b2a3d4e5f6071"
    return {**example, "status": problem.status, **detail, "instance": path, "request_id": request_id}


def _code(text: str) -> Markup:
    """Text with words in backticks as code."""
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if place % 2 else part for place, part in enumerate(text.split("`"))
    )


_templates.filters["code"] = _code


def write_page(document: Json) -> str:
    """The document as one HTML page for narrow, wide and dark screens: no scripts, no fonts, no external resources.
    Jinja escapes every value."""
    by_problem = _operations_by_problem(document)
    problems = [
        {
            "slug": one.slug,
            "title": one.title,
            "status": "Job FAILED" if issubclass(one, JobError) else one.status,
            "example": _shown(problem_example(one, operations[0]["path"] if operations else "")),
            "met": operations,
        }
        for one in PROBLEMS.values()
        for operations in (by_problem.get(one.slug, []),)
    ]
    return _templates.get_template("docs.html").render(
        info=document["info"],
        groups=[
            {"name": tag["name"], "operations": [one for one in _operations(document) if one["tag"] == tag["name"]]}
            for tag in document["tags"]
        ],
        webhooks=[
            {"name": name, "schema": _schema_name(item["post"]["requestBody"]["content"]["application/json"]["schema"])}
            for name, item in document["webhooks"].items()
        ],
        problems=problems,
        schemas=[_schema(name, schema) for name, schema in sorted(document["components"]["schemas"].items())],
    )


def _operations(document: Json) -> list[Json]:
    return [
        _operation(document, method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def _operation(document: Json, method: str, path: str, operation: Json) -> Json:
    content = operation.get("requestBody", {}).get("content", {})
    parameters = [_resolved(document, one) for one in operation["parameters"]]
    return {
        "id": operation["operationId"],
        "tag": operation["tags"][0],
        "method": method,
        "path": path,
        "summary": operation["summary"],
        "text": operation["description"],
        "token": "security" in operation,
        "parameters": [{**one, "type": _type(one["schema"])} for one in parameters],
        "bodies": [{"media": media, "schema": _schema_name(body["schema"])} for media, body in content.items()],
        "command": _command(method, path, content, token="security" in operation),
        "answers": [_answer(document, status, answer) for status, answer in operation["responses"].items()],
    }


def _answer(document: Json, status: str, answer: Json) -> Json:
    content = answer.get("content", {})
    named = {media: _schema_name(body.get("schema", {})) for media, body in content.items()}
    schemas = {media: name for media, name in named.items() if name != Problem.__name__}
    problems = next((content[media]["examples"] for media, name in named.items() if name == Problem.__name__), ())
    examples = [document["components"]["schemas"][name].get("examples") for name in schemas.values() if name]
    return {
        "status": status,
        "description": answer["description"],
        "schemas": schemas,
        "problems": list(problems),
        "headers": list(answer["headers"]),
        "example": next((_shown(found[0]) for found in examples if found), None),
    }


def _operations_by_problem(document: Json) -> dict[str, list[Json]]:
    """By slug the operations that may answer with it."""
    operations: dict[str, list[Json]] = {}
    for operation in _operations(document):
        for slug in (slug for answer in operation["answers"] for slug in answer["problems"]):
            operations.setdefault(slug, []).append(operation)
    return operations


def _command(method: str, path: str, content: Json, *, token: bool) -> str:
    """The request as a curl command, in lines that fit a phone."""
    words = ["curl"] if method == "GET" else [f"curl -X {method}"]
    if token:
        words.append('-H "Authorization: Bearer $TOKEN"')
    if "multipart/form-data" in content:
        words.append(f"-F {'file' if '/images' in path else 'image'}=@image.tif")
    elif "application/json" in content:
        words.append(f"--json {shlex.quote(json.dumps(content['application/json']['example']))}")
    return " \\\n  ".join([*words, f'"$URL{path}"'])


def _schema(name: str, schema: Json) -> Json:
    needed = schema.get("required", ())
    fields = [
        {"name": field, "type": _type(one), "needed": field in needed, "text": one.get("description", "")}
        for field, one in schema.get("properties", {}).items()
    ]
    return {"name": name, "text": schema.get("description", ""), "fields": fields, "type": _type(schema)}


def _type(schema: Json) -> str:
    """A schema in a few words."""
    if name := _schema_name(schema):
        return name
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "anyOf" in schema:
        return " | ".join(map(_type, schema["anyOf"]))
    kind = str(schema.get("type", "any"))
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    values = schema.get("additionalProperties")
    return f"object of {_type(values)}" if kind == "object" and isinstance(values, dict) and values else kind


def _schema_name(schema: Json) -> str:
    return str(schema.get("$ref", "")).rpartition("/")[2]


def _resolved(document: Json, one: Json) -> Json:
    name = _schema_name(one)
    found: Json = document["components"]["parameters"][name] if name else one
    return found


def _shown(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
