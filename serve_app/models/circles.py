"""Finds round objects: coins in photos, spheres and pores in micrographs. It needs OpenCV, but no network."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from serve_app.contracts import Json, Output
from serve_app.errors import ModelRejected, ModelUnready
from serve_app.images.decode import read_pixels
from serve_app.models.circle_features import SIDE
from serve_app.models.circle_search import chosen, find, resized, without_bar
from serve_app.models.contract import Answer, Model, Prepared, Schema
from serve_app.models.detection import DETECTIONS_MAX, Detections, detection, digest, how_many_fit
from serve_app.models.engines import processors
from serve_app.settings import Settings

DRAWN_SIDE: Final = 1600
"""Longest side of `annotated.png`."""
RED: Final = (220, 30, 30)


class CircleParams(Schema):
    """What a submit may choose. Lengths are in pixels of the upright image."""

    label: str = Field(default="coin", min_length=1, max_length=100, description="Carried into the result")
    min_radius: float = Field(
        default=0, ge=0, description="Smallest radius; radius means a quarter of width and height"
    )
    max_radius: float | None = Field(default=None, gt=0, description="Largest radius; by default there is no limit")
    sensitivity: float = Field(
        default=0.5, ge=0, le=1, description="Objects with a score of at least 1 - sensitivity are in the result"
    )
    max_count: int = Field(default=DETECTIONS_MAX, ge=1, le=DETECTIONS_MAX, description="Most objects, best first")
    annotated: bool = Field(default=False, description="Also make `annotated.png`, the image with the objects drawn in")
    page: int | None = Field(
        default=None,
        ge=1,
        description="Which page or frame of the file, from 1. By default TIFF's largest picture, else the first",
    )

    @model_validator(mode="after")
    def _radii_agree(self) -> Self:
        if self.max_radius is not None and self.max_radius < self.min_radius:
            raise ValueError("max_radius must be at least min_radius")
        return self


@dataclass(frozen=True, slots=True)
class Item:
    """One image on its way to the forward pass."""

    params: CircleParams
    digest: str
    pixels: NDArray[np.uint8]
    """Without a data bar, its longest side SIDE or shorter."""
    size: tuple[int, int]
    """Width and height that `pixels` had before it was made smaller."""
    picture: NDArray[np.uint8] | None
    """What `annotated.png` is drawn on."""
    scale: float
    """Pixels of `picture` per pixel of the image."""


@dataclass(frozen=True, slots=True)
class Found:
    digest: str
    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    drawn: bytes | None


class Circles(Model):
    """Proposes ellipses from edges, scores each by rim and contrast, and keeps the best of those that overlap."""

    Params = CircleParams
    Result = Detections

    @classmethod
    def missing(cls, settings: Settings, options: Any) -> str | None:
        if find_spec("cv2") is None:
            return "The model circles needs OpenCV: pip install 'sem-image-classifier[vision]'."
        return None

    def load(self, settings: Settings) -> None:
        import cv2

        if not hasattr(cv2, "ximgproc"):  # OpenCV's builds share a folder, and the last one installed wins
            command = "pip install --force-reinstall --no-deps opencv-contrib-python-headless"
            raise ModelUnready(f"This build of OpenCV lacks ximgproc. Get it with: {command}")
        cv2.setNumThreads(settings.inference_threads or processors())
        self.recipe = settings

    @staticmethod
    def prepare_worker(recipe: Settings) -> None:
        import cv2

        cv2.setNumThreads(1)

    @staticmethod
    def preprocess(data: bytes | None, params: CircleParams, recipe: Settings) -> Prepared:
        if data is None:
            raise ModelRejected("This model needs an image.")
        read = read_pixels(data, recipe, params.page)
        height, width = read.array.shape[:2]
        cropped = without_bar(read.array)
        small = resized(cropped, SIDE, enlarge=False)
        picture = resized(read.array, DRAWN_SIDE, enlarge=False) if params.annotated else None
        scale = 1.0 if picture is None else max(picture.shape[:2]) / max(height, width)
        item = Item(params, digest(data), small, (width, len(cropped)), picture, scale)
        notes = {**read.how, "searched": f"{small.shape[1]}x{small.shape[0]}"}
        if len(cropped) < height:
            notes["data_bar"] = f"rows from {len(cropped)} are a data bar and were not searched"
        return Prepared(item, notes)

    def forward(self, items: Sequence[Item]) -> list[Found]:
        return [_found(item) for item in items]

    def postprocess(self, output: Found, params: CircleParams, notes: Json) -> Detections | Answer:
        objects = tuple(
            detection(output.digest, box, score, params.label)
            for box, score in zip(output.boxes, output.scores, strict=True)
        )
        result = Detections(count=len(objects), detections=objects, model=self.describe(), image=notes)
        if output.drawn is None:
            return result
        return Answer(result, {"annotated.png": Output("image/png", output.drawn)})

    def warm_up_input(self) -> tuple[bytes, CircleParams]:
        from PIL import Image, ImageDraw

        image = Image.new("L", (128, 96), 60)
        ImageDraw.Draw(image).ellipse((40, 20, 90, 70), 200)
        file = io.BytesIO()
        image.save(file, "PNG")
        return file.getvalue(), CircleParams()

    def describe(self) -> Json:
        return {**super().describe(), "id": "circles", "revision": "1", "engine": "opencv"}


def _found(item: Item) -> Found:
    params = item.params
    boxes, scores = find(item.pixels)
    scale = np.array(item.size * 2) / np.array(item.pixels.shape[1::-1] * 2)
    boxes = boxes * scale
    radius = (boxes[:, 2:] - boxes[:, :2]).sum(axis=1) / 4
    most = np.inf if params.max_radius is None else params.max_radius
    wanted = (radius >= params.min_radius) & (radius <= most) & (radius > 0) & (scores >= 1 - params.sensitivity)
    boxes, scores = boxes[wanted], scores[wanted]
    kept = chosen(boxes, scores)[: min(params.max_count, how_many_fit(params.label))]
    boxes, scores = boxes[kept], scores[kept]
    drawn = None if item.picture is None else _drawn(item.picture, boxes * item.scale, scores, params.label)
    return Found(item.digest, boxes, scores, drawn)


def _drawn(picture: NDArray[np.uint8], boxes: Any, scores: Any, label: str) -> bytes:
    """The picture as PNG, with an ellipse, the label and the score at each object."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.fromarray(picture).convert("RGB")
    pen = ImageDraw.Draw(image)
    line = max(2, max(image.size) // 400)
    font = ImageFont.load_default(max(11, max(image.size) // 60))
    for box, score in zip(boxes, scores, strict=True):
        left, top, right, bottom = (float(side) for side in box)
        pen.ellipse((left, top, max(left, right - 1), max(top, bottom - 1)), outline=RED, width=line)
        middle = (left + right) / 2, (top + bottom) / 2
        pen.text(middle, f"{label}\n{score:.2f}", RED, font, "mm", align="center", stroke_width=2, stroke_fill="white")
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=4)
    return file.getvalue()
