"""The document as one HTML page: no script, no font, nothing from elsewhere; every value is escaped by Jinja."""

from __future__ import annotations

import json
import shlex
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from serve_app.contracts import Json
from serve_app.errors import JobError
from serve_app.gateway.description.examples import problem_example, problems_shown

_templates: Final = Environment(
    loader=PackageLoader("serve_app.gateway.description"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def _code(text: str) -> Markup:
    """Text whose words in backticks are code."""
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if place % 2 else part for place, part in enumerate(text.split("`"))
    )


_templates.filters["code"] = _code


def write_page(document: Json) -> str:
    """The page, for a phone, a desk and the dark."""
    met = _met(document)
    problems = [
        {
            "slug": one.slug,
            "title": one.title,
            "status": "Job FAILED" if issubclass(one, JobError) else one.status,
            "example": _shown(problem_example(one)),
            "met": met.get(one.slug, []),
        }
        for one in problems_shown()
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
    schemas = {media: _schema_name(body.get("schema", {})) for media, body in content.items() if "problem" not in media}
    examples = [document["components"]["schemas"][name].get("examples") for name in schemas.values() if name]
    return {
        "status": status,
        "description": answer["description"],
        "schemas": schemas,
        "problems": list(content.get("application/problem+json", {}).get("examples", ())),
        "headers": list(answer["headers"]),
        "example": next((_shown(found[0]) for found in examples if found), None),
    }


def _met(document: Json) -> dict[str, list[Json]]:
    """By slug the operations that may answer it."""
    met: dict[str, list[Json]] = {}
    for operation in _operations(document):
        for slug in (slug for answer in operation["answers"] for slug in answer["problems"]):
            met.setdefault(slug, []).append(operation)
    return met


def _command(method: str, path: str, content: Json, *, token: bool) -> str:
    """The request by curl, over lines that a phone can show."""
    words = ["curl"] if method == "GET" else [f"curl -X {method}"]
    if token:
        words.append('-H "Authorization: Bearer $TOKEN"')
    if "multipart/form-data" in content:
        words.append("-F image=@image.tif")
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
