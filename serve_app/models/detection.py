"""The result of every detector: objects in an image, with the same fields whichever model found them."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Sequence
from typing import Final

from pydantic import Field

from serve_app.contracts import Json
from serve_app.models.contract import ResultWithOutputs, Schema

NAMESPACE: Final = uuid.UUID("5c0f9f0e-4f1d-5a52-9f5b-6d6b1c3f4a77")
"""Of the ids of objects (UUIDv5, RFC 9562)."""
DETECTIONS_MAX: Final = 250
"""Most objects of a result, which has room for 64 kB."""
ROOM: Final = 62_000
"""Bytes of a result that its objects may take."""
OBJECT_BYTES: Final = 240
"""Most bytes of an object as JSON, without its label."""


class Centroid(Schema):
    """A point in pixels of the upright image, from its upper left corner."""

    x: float
    y: float


class Detection(Schema):
    """One object. Lengths are in pixels of the upright image."""

    object_id: uuid.UUID = Field(description="The same for the same object in the same image")
    bbox: tuple[float, float, float, float] = Field(description="x_min, y_min, x_max, y_max")
    centroid: Centroid
    radius: float = Field(gt=0, description="A quarter of width and height together")
    score: float = Field(ge=0, le=1)
    label: str


class Detections(ResultWithOutputs):
    """The result of one image, best score first."""

    count: int
    detections: tuple[Detection, ...]
    model: Json = Field(description="What answered: id, engine, and of a network revision and the weights' sha256")
    image: Json = Field(description="How the image was read and what was done to it")


def digest(data: bytes) -> str:
    """What the ids of the objects in an image depend on; `preprocess` computes it from the file's bytes."""
    return hashlib.sha256(data).hexdigest()


def how_many_fit(label: str) -> int:
    """Most objects of this label in a result: DETECTIONS_MAX, or fewer where the label is long."""
    return min(DETECTIONS_MAX, ROOM // (OBJECT_BYTES + len(json.dumps(label))))


def detection(image_digest: str, bbox: Sequence[float], score: float, label: str) -> Detection:
    """An object from its box; the id follows from image, label and box."""
    left, top, right, bottom = (round(float(side), 2) for side in bbox)
    name = f"{image_digest} {label} {left} {top} {right} {bottom}"
    return Detection(
        object_id=uuid.uuid5(NAMESPACE, name),
        bbox=(left, top, right, bottom),
        centroid=Centroid(x=round((left + right) / 2, 2), y=round((top + bottom) / 2, 2)),
        radius=round((right - left + bottom - top) / 4, 2),
        score=round(min(max(float(score), 0.0), 1.0), 4),
        label=label,
    )
