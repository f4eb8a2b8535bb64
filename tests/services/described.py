"""Holds answers to the API's description: its status is one that the route has, its body fits the schema."""

from __future__ import annotations

import json
from functools import cache
from typing import Any, Final

import httpx2
from jsonschema_rs import Draft202012Validator
from starlette.routing import compile_path

from serve_app.contracts import Json
from serve_app.gateway.routes.table import description

DOCUMENT: Final[Json] = json.loads(description().document)
PATHS: Final = [(compile_path(path)[0], methods) for path, methods in DOCUMENT["paths"].items()]


async def hold_to_description(answer: httpx2.Response) -> None:
    """A hook for the client of every test: an answer that is not as described fails the test."""
    operation = _operation(answer.request)
    if operation is None:
        return
    status = str(answer.status_code)
    where = f"{answer.request.method} {answer.request.url.path}"
    assert status in operation["responses"], f"{where} answered {status}, which its description does not have"
    content = operation["responses"][status].get("content", {})
    media = answer.headers.get("content-type", "").partition(";")[0]
    if answer.request.method == "HEAD" or not (media or content):
        return
    if "*/*" in content:
        return
    assert media in content, f"{where} answered {status} as {media!r}; described are {sorted(content)}"
    if media.endswith(("/json", "+json")):
        faults = _validator(content[media]["schema"]["$ref"]).iter_errors(json.loads(await answer.aread()))
        told = [f"{fault.instance_path}: {fault.message[:200]}" for fault in faults]
        assert not told, f"{where} answered {status} with what its description does not have: {told}"


def _operation(request: httpx2.Request) -> Any:
    """The operation that answers, or None where the gateway has no such route or not this method."""
    method = "get" if request.method == "HEAD" else request.method.lower()
    path: Any = next((methods for pattern, methods in PATHS if pattern.fullmatch(request.url.path)), {})
    return path.get(method)


@cache
def _validator(reference: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": reference, "components": DOCUMENT["components"]})
