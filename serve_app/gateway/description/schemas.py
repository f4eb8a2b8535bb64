"""The JSON Schemas of the document: of bodies as they are validated, of answers as they are written."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from serve_app.contracts import Json
from serve_app.gateway.description.groups.operation import Operation, Shape, without_null

Mode = Literal["validation", "serialization"]


class Pointer(Shape):
    """Where in the body something is wrong (RFC 6901), and what."""

    pointer: str
    detail: str


class Problem(Shape):
    """RFC 9457. Decide by `type`; `detail` is for people."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    request_id: str
    errors: list[Pointer] | None = None


class Schemas:
    """The schemas of all these operations, each once, and references to them."""

    def __init__(self, operations: Iterable[Operation], webhooks: Iterable[type[BaseModel]]) -> None:
        wanted: dict[tuple[type[BaseModel], Mode], None] = {(Problem, "serialization"): None}
        for operation in operations:
            wanted |= dict.fromkeys((body, "validation") for body in operation.bodies.values())
            contents = (content for answer in operation.answers.values() for content in answer)
            wanted |= dict.fromkeys((one, "serialization") for one in contents if not isinstance(one, str))
        wanted |= dict.fromkeys((body, "serialization") for body in webhooks)
        self._references, made = models_json_schema(list(wanted), ref_template="#/components/schemas/{model}")
        self.definitions: Json = made["$defs"]

    def taken(self, model: type[BaseModel]) -> Json:
        """A reference to the schema of a body that comes."""
        return self._references[model, "validation"]

    def sent(self, model: type[BaseModel]) -> Json:
        """A reference to the schema of a body that goes out."""
        return self._references[model, "serialization"]

    def query(self, model: type[BaseModel] | None) -> list[Json]:
        """The query parameters of a model. What may be None there may be left out here."""
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
