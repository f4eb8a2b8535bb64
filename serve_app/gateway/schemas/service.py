"""The service about itself: its health, version and models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, NotRequired

from pydantic import BaseModel, Field, RootModel
from typing_extensions import TypedDict

from serve_app.contracts import Json, ModelCard, ReplicaCard
from serve_app.gateway.schemas.common import Count
from serve_app.images.header import MEDIA_TYPES
from serve_app.jobs.limits import PARAMS_MAX_BYTES, RESULT_MAX_BYTES
from serve_app.jobs.records import Stopped
from serve_app.settings import Settings


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
    """A served model. `asleep`: its next job starts a replica; `starting`: it should have one, and has none yet;
    `refused`: this machine lacks something for it, which `reason` says."""

    name: str
    state: Literal["serving", "asleep", "starting", "refused"]
    reason: str | None
    input: Literal["image", "none"]
    params_schema: dict[str, Any]
    result_schema: dict[str, Any]
    replicas: list[Replica]


class ModelLimits(TypedDict):
    """What one job of the model may have, and what it may take."""

    media_types: Annotated[list[str], Field(description="Of the image; empty for a model without.")]
    image_bytes: int
    image_pixels: int
    image_frames: int
    params_bytes: int
    result_bytes: int
    outputs_bytes: int
    decode_s: float
    forward_s: float
    batch: Annotated[int, Field(description="Most jobs in one forward pass.")]


class ModelDetail(Model):
    """A served model with its limits. Labels, engine and version are null while no replica runs."""

    labels: list[str] | None
    engine: str | None
    version: Annotated[str | None, Field(description="The revision of its checkpoint, or of the library it is from.")]
    limits: ModelLimits


class Models(TypedDict):
    """All served models, the default first."""

    default: str
    models: list[Model]


def model_object(card: ModelCard, replicas: Sequence[ReplicaCard], refusal: str | None) -> Model:
    """The model with the reports of its running replicas. `refusal`: why it cannot be served here."""
    return {
        "name": card.name,
        "state": _state(card, replicas, refusal),
        "reason": refusal,
        "input": card.input_layer,
        "params_schema": card.params_schema,
        "result_schema": card.result_schema,
        "replicas": [
            {"replica": one.replica, "version": one.version, "device": one.device, "description": one.description}
            for one in replicas
        ],
    }


def model_detail(
    card: ModelCard, replicas: Sequence[ReplicaCard], refusal: str | None, settings: Settings
) -> ModelDetail:
    """As `model_object`, with what the first replica reports and the limits of a job."""
    description: Json = replicas[0].description if replicas else {}
    return {
        **model_object(card, replicas, refusal),
        "labels": description.get("labels"),
        "engine": description.get("engine"),
        "version": description.get("revision"),
        "limits": {
            "media_types": [] if card.input_layer == "none" else list(MEDIA_TYPES.values()),
            "image_bytes": settings.image_max_bytes,
            "image_pixels": settings.image_max_pixels_in_steps if card.reads_in_steps else settings.image_max_pixels,
            "image_frames": settings.image_max_frames,
            "params_bytes": PARAMS_MAX_BYTES,
            "result_bytes": RESULT_MAX_BYTES,
            "outputs_bytes": settings.output_max_bytes,
            "decode_s": settings.decode_timeout_s,
            "forward_s": settings.forward_timeout_s,
            "batch": card.max_batch_size,
        },
    }


def _state(
    card: ModelCard, replicas: Sequence[ReplicaCard], refusal: str | None
) -> Literal["serving", "asleep", "starting", "refused"]:
    if refusal is not None:
        return "refused"
    if replicas:
        return "serving"
    return "asleep" if card.wakes_from_zero else "starting"
