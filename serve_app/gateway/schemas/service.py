"""The service about itself: its health, version and models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, NotRequired

from pydantic import BaseModel, Field, RootModel
from typing_extensions import TypedDict

from serve_app.contracts import ModelCard, ReplicaCard
from serve_app.gateway.schemas.common import Count
from serve_app.jobs.records import Stopped


class Version(TypedDict):
    """The deployed version."""

    api_version: str
    gateway: str
    service: str
    release: str
    endpoints: Annotated[dict[str, str], Field(description="`METHOD path` and a sentence.")]


class Config(TypedDict):
    """Settings that are no secret, by the names of the predecessor."""

    app_name: str
    app_version: str
    environment: Literal["local", "dev", "stage", "prod"]
    api_prefix: str
    mode: Annotated[Literal["dummy", "real"], Field(description="`dummy`: every image has the same one circle.")]
    model_name: Annotated[str, Field(description="Of the images API.")]
    max_upload_size: Annotated[Count, Field(description="Bytes of an image.")]


class QueueLength(TypedDict):
    """Jobs that have not ended."""

    pending: Count
    processing: Count


class Health(TypedDict):
    """For readers and the older clients."""

    status: Literal["healthy", "degraded"]
    model_loaded: bool
    device: str
    redis_connected: bool
    queue: QueueLength
    stopped: NotRequired[dict[str, list[Stopped]]]
    """The stops in force, by model."""


class Alive(TypedDict):
    """The process answers."""

    status: Literal["ok"]


class ReadinessQuery(BaseModel):
    """How detailed the answer is."""

    verbose: Annotated[str, Field(description="Name the parts; with a good token also why one is not ready.")] = ""


class Readiness(TypedDict):
    """Whether jobs are processed; with `?verbose` also the parts."""

    status: Literal["ready", "not ready"]
    tracker: NotRequired[Literal["ready", "away"]]
    store: NotRequired[str]
    background: NotRequired[dict[str, str]]
    """Background tasks of the answering gateway, by name: `ready`, or `failing`."""
    models: NotRequired[dict[str, str]]
    usage: NotRequired[str]
    memory: NotRequired[str]
    """Only if Redis' memory is not measured: the reason."""
    stopped: NotRequired[dict[str, list[Stopped]]]


class Document(RootModel[dict[str, Any]]):
    """An OpenAPI 3.1 document."""


class Replica(TypedDict):
    """A running replica, and its report about the model."""

    replica: str
    version: str
    device: str
    description: dict[str, Any]


class Model(TypedDict):
    """A served model."""

    name: str
    input: Literal["image", "none"]
    params_schema: dict[str, Any]
    result_schema: dict[str, Any]
    replicas: list[Replica]


class Models(TypedDict):
    """All served models, the default first."""

    default: str
    models: list[Model]


def model_object(card: ModelCard, replicas: Sequence[ReplicaCard]) -> Model:
    """The model with the reports of its running replicas."""
    return {
        "name": card.name,
        "input": card.input_layer,
        "params_schema": card.params_schema,
        "result_schema": card.result_schema,
        "replicas": [
            {"replica": one.replica, "version": one.version, "device": one.device, "description": one.description}
            for one in replicas
        ],
    }
