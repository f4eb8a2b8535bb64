"""Bodies and answers of the KServe V1 protocol and the Open Inference Protocol (V2), as their clients know them."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, NotRequired

from pydantic import BaseModel, ConfigDict, Field, RootModel
from typing_extensions import TypedDict

from serve_app.contracts import Json
from serve_app.gateway.schemas.predictions import Row

INPUTS_MAX: Final = 16
"""Images of one request."""

# ---------------------------------------------------------------------------------------------------------- KServe V1


class Encoded(BaseModel):
    """Bytes as text."""

    model_config = ConfigDict(extra="forbid")

    b64: Annotated[str, Field(description="An image in base64.")]


class Instance(BaseModel):
    """One image; none for a model without."""

    model_config = ConfigDict(extra="forbid")

    image: Encoded | None = None


class EncodedInput(BaseModel):
    """One image, in the other form."""

    model_config = ConfigDict(extra="forbid")

    data: Annotated[str, Field(description="An image in base64.")]


class PredictBody(BaseModel):
    """Either `instances` or `inputs`, and the parameters for all of them."""

    model_config = ConfigDict(extra="forbid")

    instances: Annotated[list[Instance], Field(min_length=1, max_length=INPUTS_MAX)] | None = None
    inputs: Annotated[list[EncodedInput], Field(min_length=1, max_length=INPUTS_MAX)] | None = None
    parameters: Annotated[dict[str, Any] | None, Field(description="By the model's params_schema.")] = None


class Predictions(TypedDict):
    """A result for each instance, in order. Of `aiq-detector`: the circles of the instance, or if there are several
    instances a list of circles for each."""

    predictions: list[Any]


class ModelNames(TypedDict):
    """The served models."""

    models: list[str]


class ModelReady(TypedDict):
    """A model that takes jobs."""

    name: str
    ready: Literal[True]


def circle(row: Row) -> Json:
    """A detection as `aiq-detector` answered it."""
    left, top, right, bottom = row.box or (0.0, 0.0, 0.0, 0.0)
    return {
        "bounding_box": {"xmin": left, "ymin": top, "xmax": right, "ymax": bottom},
        "centroid": {"x": round((left + right) / 2, 2), "y": round((top + bottom) / 2, 2)},
        "radius": {"radius": round((right - left + bottom - top) / 4, 2)},
        "label": row.text,
        "score": row.score,
    }


# --------------------------------------------------------------------------------------------- Open Inference Protocol


class ServerMetadata(TypedDict):
    """The server and its extensions of the protocol."""

    name: str
    version: str
    extensions: list[str]


class Live(TypedDict):
    """The server answers."""

    live: bool


class Ready(TypedDict):
    """Whether the server works on jobs."""

    ready: bool


class TensorMetadata(TypedDict):
    """A tensor; -1 is any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(TypedDict):
    """A model's tensors. Its version is that of the release that serves it."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class InferInput(BaseModel):
    """The images: in `data` as base64, or after the JSON as `binary_data_size` says."""

    name: str
    shape: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=8)]
    datatype: str
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = None


class InferOutput(BaseModel):
    """An output that is wanted."""

    name: str
    parameters: dict[str, Any] | None = None


class InferBody(BaseModel):
    """The input `image` of type BYTES; for a model without images no input."""

    id: str | None = None
    parameters: Annotated[dict[str, Any] | None, Field(description="By the model's params_schema.")] = None
    inputs: Annotated[list[InferInput], Field(max_length=INPUTS_MAX)]
    outputs: Annotated[list[InferOutput], Field(max_length=INPUTS_MAX)] | None = None


class BinaryInferBody(RootModel[Annotated[str, Field(json_schema_extra={"format": "binary"})]]):
    """The same JSON, of the length in `Inference-Header-Content-Length`, and the inputs' bytes after it."""


class OutputTensor(TypedDict):
    """A tensor of the answer; without `data` its bytes follow the JSON."""

    name: str
    datatype: str
    shape: list[int]
    parameters: NotRequired[dict[str, Any]]
    data: NotRequired[list[Any]]


class Inferred(TypedDict):
    """The outputs of all images. `parameters` names the jobs that were made."""

    model_name: str
    model_version: str
    id: NotRequired[str]
    parameters: dict[str, Any]
    outputs: list[OutputTensor]
