"""What the routes answer that tell of the service itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field, RootModel

from serve_app.gateway.description.groups.operation import Count, Operation, Shape
from serve_app.jobs.records import Stopped


class Version(Shape):
    """What is deployed."""

    api_version: str
    gateway: str
    service: str
    release: str
    endpoints: Annotated[dict[str, str], Field(description="`METHOD path` and a sentence.")]


class QueueLength(Shape):
    """Jobs that have not ended."""

    pending: Count
    processing: Count


class Health(Shape):
    """For people and the older clients."""

    status: Literal["healthy", "degraded"]
    model_loaded: bool
    device: str
    redis_connected: bool
    queue: QueueLength
    stopped: dict[str, list[Stopped]] | None = None
    """By model: what admins have stopped."""


class Alive(Shape):
    """The process answers."""

    status: Literal["ok"]


class ReadinessQuery(BaseModel):
    """How much is told."""

    verbose: Annotated[str, Field(description="Name the parts; with a good token also why one is not ready.")] = ""


class Readiness(Shape):
    """Whether jobs are worked on; with `?verbose` the parts too."""

    status: Literal["ready", "not ready"]
    tracker: Literal["ready", "away"] | None = None
    store: str | None = None
    background: dict[str, str] | None = None
    """What runs in the background of the gateway that answers, by name: `ready`, or `failing`."""
    models: dict[str, str] | None = None
    usage: str | None = None
    memory: str | None = None
    """Only where Redis' memory is not measured: why."""
    stopped: dict[str, list[Stopped]] | None = None


class Document(RootModel[dict[str, Any]]):
    """An OpenAPI 3.1 document."""


_READY: Final = Operation("Service", {200: (Readiness,), 503: (Readiness,)}, query=ReadinessQuery)

OPERATIONS: Final[Mapping[str, Operation]] = {
    "GET /api/v1/version": Operation("Service", {200: (Version,)}),
    "GET /openapi.json": Operation("Service", {200: (Document,)}),
    "GET /docs": Operation("Service", {200: ("text/html",)}),
    "GET /problems/{slug}": Operation("Service", {303: ()}),
    "GET /health": Operation("Service", {200: (Health,), 503: (Health,)}),
    "GET /__health": Operation("Service", {200: (Alive,)}),
    "GET /livez": Operation("Service", {200: (Alive,)}),
    "GET /readyz": _READY,
    "GET /healthz": _READY,
    "GET /metrics": Operation("Service", {200: ("text/plain",)}),
}
