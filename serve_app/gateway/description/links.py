"""Links of the document: from an answer that names a resource to the routes that take that name."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import BaseModel

from serve_app.contracts import Json
from serve_app.gateway.description.operations import OPERATIONS, name_of, parameters_of
from serve_app.gateway.endpoint import RouteSpec


def operation_id(route: RouteSpec) -> str:
    """A name for a route that no other has."""
    words = re.sub(r"\W+", "_", route.path.removeprefix("/api/v1").strip("/")).rstrip("_")
    return f"{route.method.lower()}_{words}"


class Targets:
    """The routes that take the name of a resource, in their path or as their whole body."""

    def __init__(self, routes: Sequence[RouteSpec]) -> None:
        self._by_path = {route: parameters_of(route.path) for route in routes}
        self._by_body = {
            route: list(body.model_fields)
            for route in routes
            for body in OPERATIONS[name_of(route)].bodies.values()
            if len(body.model_fields) == 1
        }

    def links(self, made: type[BaseModel]) -> Json:
        """Links from an answer of this model, by the id of the operation that each leads to."""
        fields = {name: f"$response.body#/{name}" for name in made.model_fields}
        found: Json = {}
        for route, names in self._by_path.items():
            if len(names) == 1 and names[0] in fields:
                found[operation_id(route)] = {"parameters": {names[0]: fields[names[0]]}}
        for route, names in self._by_body.items():
            if names[0] in fields:
                found[operation_id(route)] = {"requestBody": {names[0]: fields[names[0]]}}
        return {name: {"operationId": name, **taken} for name, taken in found.items()}
