"""What is said of a route beside its row in the route table: what it takes, and what it answers when all is well."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from serve_app.contracts import Json

Tag = Literal["Jobs", "Batches", "Webhooks", "Older routes", "Usage", "Admin", "Service"]
"""The groups of the page, in its order."""
Content = type[BaseModel] | str
"""A model is JSON; a text is another media type."""

Moment = Annotated[
    str,
    Field(
        pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$",
        description="ISO 8601 in UTC, to the millisecond.",
        examples=["2026-11-21T12:00:00.000Z"],
    ),
]
Count = Annotated[int, Field(ge=0)]

_NONE: Final[Mapping[Any, Any]] = MappingProxyType({})


class Shape(BaseModel):
    """An object with no field beside those that are named."""

    model_config = ConfigDict(extra="forbid")


def without_null(schema: Json) -> Json:
    """The schema of what may be left out, but where it is sent cannot be null: in a form, or in a query."""
    kinds: list[Any] = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    rest = {name: value for name, value in schema.items() if name != "anyOf" and (name, value) != ("default", None)}
    return {**rest, **kinds[0]} if len(kinds) == 1 else rest | ({"anyOf": kinds} if kinds else {})


def _fields_without_null(schema: Json) -> None:
    schema["properties"] = {name: without_null(one) for name, one in schema["properties"].items()}


class FormShape(BaseModel):
    """The fields of a form."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_fields_without_null)


@dataclass(frozen=True, slots=True)
class Operation:
    """One route. The sentence and the problems are in the route table, the longer text is its handler's docstring."""

    tag: Tag
    answers: Mapping[int, tuple[Content, ...]]
    """By status; no content is no body. Problems come from the route table."""
    bodies: Mapping[str, type[BaseModel]] = field(default_factory=lambda: _NONE)
    """By media type."""
    example: Any = None
    """A JSON body that passes."""
    query: type[BaseModel] | None = None
    headers: tuple[str, ...] = ()
    """Request headers it obeys, beside `Authorization` and `X-Request-ID`; each is in `headers.py`."""
    answer_headers: tuple[str, ...] = ()
    """Headers of its good answers, beside those that a status or every answer brings; each is in `headers.py`."""
