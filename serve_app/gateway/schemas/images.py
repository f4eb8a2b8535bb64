"""Images and the objects found in them, in the shapes of the predecessor's images API, with more fields."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from serve_app.contracts import JobStatus, Json
from serve_app.gateway.schemas.common import Count, FormShape, JobProblem, Moment, timestamp
from serve_app.gateway.schemas.jobs import job_path
from serve_app.usage.images import Image as ImageRow

ROOT: Final = "/api/v1/images"

ImageId = Annotated[str, Field(pattern="^[0-9a-f]{64}$", description="The SHA-256 of the image's bytes.")]
Score = Annotated[float, Field(ge=0, le=1)]
WholeBox = Annotated[list[int], Field(min_length=4, max_length=4, description="x_min, y_min, x_max, y_max; rounded.")]


class ImageForm(FormShape):
    """One image as a file."""

    file: Annotated[str, Field(json_schema_extra={"format": "binary"})]


class ImagesQuery(BaseModel):
    """Where to continue."""

    model_config = ConfigDict(frozen=True)

    limit: Annotated[int, Field(ge=1, le=200)] = 50
    cursor: Annotated[str, Field(min_length=1, max_length=100)] | None = None


class Point(TypedDict):
    """In pixels of the upright image, from its upper left corner."""

    x: float
    y: float


class Detection(TypedDict):
    """One object. Lengths are in pixels of the upright image."""

    bbox: Annotated[list[float], Field(min_length=4, max_length=4, description="x_min, y_min, x_max, y_max.")]
    centroid: Point
    radius: float
    object_id: str
    score: Score
    label: str


class Found(TypedDict):
    """The objects of an image, best score first."""

    detections: list[Detection]
    count: Count


class ImageLinks(TypedDict):
    """Links to the image, its objects and its job."""

    self: str
    objects: str
    job: Annotated[str, Field(description="Answers as long as the job's record is kept.")]


class ImageEntry(TypedDict):
    """An image as in a list."""

    image_id: ImageId
    job_id: Annotated[str, Field(description="Of the job that looks for objects.")]
    model: str
    media_type: str
    bytes: Count
    created_at: Annotated[Moment, Field(description="When it was first sent.")]
    links: ImageLinks


class Looked(TypedDict):
    """How far the job of an image has come."""

    status: Annotated[JobStatus | None, Field(description="Of the job; null if the job is gone.")]
    detection: Annotated[Found | None, Field(description="Null until the job is COMPLETED.")]
    problem: Annotated[JobProblem | None, Field(description="Why there is no detection. Send the image again.")]


class Image(ImageEntry, Looked):
    """An image with what was found in it."""


class ImagePage(TypedDict):
    """A page of images, newest first; `next_cursor` leads to the next page and is null on the last."""

    data: list[ImageEntry]
    next_cursor: str | None


class ObjectEntry(TypedDict):
    """An object as in a list."""

    object_id: str
    bbox: WholeBox


class Objects(TypedDict):
    """The objects of an image, best score first."""

    image_id: ImageId
    count: Count
    objects: list[ObjectEntry]


class ObjectDetail(ObjectEntry):
    """One object. Lengths are in pixels of the upright image."""

    centroid: Annotated[list[float], Field(min_length=2, max_length=2, description="x, y.")]
    radius: float
    score: Score
    label: str


def image_path(image_id: str) -> str:
    """The path of an image."""
    return f"{ROOT}/{image_id}"


def image_entry(image: ImageRow) -> ImageEntry:
    """The image in a list."""
    path = image_path(image.id)
    return {
        "image_id": image.id,
        "job_id": image.job_id,
        "model": image.model,
        "media_type": image.media_type,
        "bytes": image.bytes,
        "created_at": timestamp(image.created_at // 1000),
        "links": {"self": path, "objects": f"{path}/objects", "job": job_path(image.job_id)},
    }


def looked(status: JobStatus | None, result: Json | None, problem: JobProblem | None) -> Looked:
    """How far the job has come, with the objects of its result."""
    found = None if result is None else detections(result)
    detection: Found | None = None if found is None else {"detections": found, "count": len(found)}
    return {"status": status, "detection": detection, "problem": problem}


def detections(result: Json) -> list[Detection]:
    """The objects in a detector's result."""
    found: list[Any] = result["detections"]
    return [
        {
            "bbox": one["bbox"],
            "centroid": one["centroid"],
            "radius": one["radius"],
            "object_id": one["object_id"],
            "score": one["score"],
            "label": one["label"],
        }
        for one in found
    ]


def objects(image_id: str, result: Json) -> Objects:
    """The list of an image's objects."""
    found = [object_entry(one) for one in detections(result)]
    return {"image_id": image_id, "count": len(found), "objects": found}


def object_entry(found: Detection) -> ObjectEntry:
    """An object in a list."""
    return {"object_id": found["object_id"], "bbox": [round(side) for side in found["bbox"]]}


def object_detail(found: Detection) -> ObjectDetail:
    """An object with all that is known of it."""
    return {
        **object_entry(found),
        "centroid": [found["centroid"]["x"], found["centroid"]["y"]],
        "radius": found["radius"],
        "score": found["score"],
        "label": found["label"],
    }
