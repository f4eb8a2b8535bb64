"""A stand-in for a detector: it answers one fixed circle for every image. For trying clients; it detects nothing."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Final

from pydantic import Field

from serve_app.contracts import Json
from serve_app.errors import ModelRejected
from serve_app.images.decode import read_pixels
from serve_app.models.contract import Model, Prepared, Schema
from serve_app.models.detection import Detections, detection, digest
from serve_app.settings import Settings

CIRCLE: Final = (10.0, 10.0, 50.0, 50.0)


class DummyParams(Schema):
    """What a submit may choose."""

    label: str = Field(default="coin", min_length=1, max_length=100, description="Carried into the result")


class DummyDetector(Model):
    """Reads the image like every other model, and answers CIRCLE with a score of 1."""

    Params = DummyParams
    Result = Detections

    def load(self, settings: Settings) -> None:
        self.recipe = settings

    @staticmethod
    def preprocess(data: bytes | None, params: DummyParams, recipe: Settings) -> Prepared:
        if data is None:
            raise ModelRejected("This model needs an image.")
        return Prepared(digest(data), read_pixels(data, recipe).how)

    def forward(self, items: Sequence[str]) -> list[str]:
        return list(items)

    def postprocess(self, output: str, params: DummyParams, notes: Json) -> Detections:
        found = detection(output, CIRCLE, 1.0, params.label)
        return Detections(count=1, detections=(found,), model=self.describe(), image=notes)

    def warm_up_input(self) -> tuple[bytes, DummyParams]:
        from PIL import Image

        file = io.BytesIO()
        Image.new("L", (64, 64), 128).save(file, "PNG")
        return file.getvalue(), DummyParams()

    def describe(self) -> Json:
        return {**super().describe(), "id": "dummy-detector", "revision": "1", "engine": "none", "stand_in": True}
