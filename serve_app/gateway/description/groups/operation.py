"""What is said of a route beside its row in the route table: what it takes, and what it answers when all is well."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

Tag = Literal["Jobs", "Older routes", "Usage", "Admin", "Service"]
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
