"""Shared by all schemas: times, counts, problems, and the rules for reading bodies and queries.

An answer is a `TypedDict`: a plain dict whose fields mypy checks where it is built, and which pydantic describes in
OpenAPI. A body or a query is a pydantic model, because it must be validated.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any, Final, NotRequired

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from typing_extensions import TypedDict

from serve_app.contracts import Json
from serve_app.errors import PROBLEMS, JobError, RequestError
from serve_app.texts import sanitize_text

PRINCIPAL_ID: Final = "[0-9a-f]{32}"
TEXT_MAX: Final = 500
_LOST_PLUS: Final = re.compile(r"(\d{4}-?\d\d-?\d\d[Tt ]\d\d(?::?\d\d)*(?:[.,]\d+)?) (\d\d(?::?\d\d)?)")
"""A time whose offset has a space in place of its `+`; only then a space and digits follow the time of day."""
_TITLES: Final = {slug: kind.title for slug, kind in PROBLEMS.items() if issubclass(kind, JobError | RequestError)}

Moment = Annotated[
    str,
    Field(
        pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$",
        description="ISO 8601 in UTC, to the millisecond.",
        examples=["2026-11-21T12:00:00.000Z"],
    ),
]
Count = Annotated[int, Field(ge=0)]


def _sanitized(text: object) -> object:
    return sanitize_text(text, TEXT_MAX) if isinstance(text, str) else text


Text = Annotated[str, BeforeValidator(_sanitized)]
"""An admin's text, without characters that the log or PostgreSQL cannot store."""


class Pointer(TypedDict):
    """A place in the body (RFC 6901), and its error."""

    pointer: str
    detail: str


class Problem(TypedDict):
    """RFC 9457. Programs decide by `type`; `detail` is for readers."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    request_id: str
    job_id: NotRequired[Annotated[str, Field(description="The job that the request made, if it made one.")]]
    errors: NotRequired[list[Pointer]]
    error: NotRequired[Annotated[str, Field(description="On the routes of protocols: the detail, as they name it.")]]


class JobProblem(TypedDict):
    """Why a job has no result."""

    type: str
    title: str
    detail: str


class FormShape(BaseModel):
    """The fields of a form. Optional fields cannot be null."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=lambda schema: _fields_without_null(schema))


def without_null(schema: Json) -> Json:
    """The schema of an optional form field or query parameter, which cannot be null."""
    kinds: list[Any] = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    rest = {name: value for name, value in schema.items() if name != "anyOf" and (name, value) != ("default", None)}
    return {**rest, **kinds[0]} if len(kinds) == 1 else rest | ({"anyOf": kinds} if kinds else {})


def _fields_without_null(schema: Json) -> None:
    schema["properties"] = {name: without_null(one) for name, one in schema["properties"].items()}


def problem_type(slug: str) -> str:
    """The stable URI of a problem type; docs/problems.md has a heading for each."""
    return f"/problems/{slug}"


def job_problem(slug: str, detail: str) -> JobProblem:
    """Why a job ended without a result or never started, as part of an object."""
    return {"type": problem_type(slug), "title": _TITLES.get(slug, "The job failed"), "detail": detail}


@lru_cache(maxsize=1024)  # a job that is polled shows the same times again and again
def timestamp(milliseconds: int) -> str:
    """ISO 8601 in UTC with Z, to the millisecond."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def timestamp_or_none(milliseconds: int | None) -> str | None:
    """As `timestamp`; None stays None."""
    return None if milliseconds is None else timestamp(milliseconds)


def expires_at(completed_at: int | None, job_ttl: int) -> str | None:
    """Until when at least the record of a job or batch that ended at this time is kept; None before it has ended."""
    return None if completed_at is None else timestamp(completed_at + job_ttl * 1000)


def with_plus(value: object) -> object:
    """A time with its `+` restored: in a query an unescaped `+` is a space (application/x-www-form-urlencoded)."""
    found = _LOST_PLUS.fullmatch(value.strip()) if isinstance(value, str) else None
    return f"{found[1]}+{found[2]}" if found else value


def zone_with_plus(value: object) -> object:
    """A time zone with its `+` restored, for example `Etc/GMT+5`: no name contains a space."""
    return value.replace(" ", "+") if isinstance(value, str) else value


def lower_case(value: object) -> object:
    """An id in lower case; some programs change it to upper case."""
    return value.lower() if isinstance(value, str) else value
