"""Measures the brightness of an image. `semapi model new` copies this file as the beginning of a model."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from serve_app.contracts import Json
from serve_app.errors import ModelRejected
from serve_app.images.decode import read_pixels
from serve_app.models.contract import Model, Prepared, Schema
from serve_app.settings import Settings


class ExampleParams(Schema):
    """What a submit may choose."""

    threshold: int = Field(default=128, ge=0, le=255, description="Pixels from this level on are bright")


class ExampleResult(Schema):
    """The result of one image."""

    mean: float = Field(description="Mean level, 0 to 255")
    bright: float = Field(ge=0, le=1, description="Share of bright pixels")
    model: Json = Field(description="What answered")
    image: Json = Field(description="How the image was read")


class Example(Model):
    """Counts the levels of an image in the decode worker, and computes the result from the counts."""

    Params = ExampleParams
    Result = ExampleResult

    def load(self, settings: Settings) -> None:
        """Read weights here, and import the library that needs them. `recipe` goes to `preprocess`."""
        self.recipe = settings

    @staticmethod
    def preprocess(data: bytes | None, params: ExampleParams, recipe: Settings) -> Prepared:
        if data is None:
            raise ModelRejected("This model needs an image.")
        pixels = read_pixels(data, recipe)
        return Prepared(np.bincount(pixels.array.ravel(), minlength=256), pixels.how)

    def forward(self, items: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float64]]:
        """All items of a batch at once: one row of shares per image."""
        counts = np.stack(items)
        return list(counts / counts.sum(axis=1, keepdims=True))

    def postprocess(self, output: NDArray[np.float64], params: ExampleParams, notes: Json) -> ExampleResult:
        return ExampleResult(
            mean=float(output @ np.arange(256)),
            bright=min(1.0, float(output[params.threshold :].sum())),
            model=self.describe(),
            image=notes,
        )

    def warm_up_input(self) -> tuple[bytes, ExampleParams]:
        from PIL import Image

        file = io.BytesIO()
        Image.linear_gradient("L").save(file, "PNG")
        return file.getvalue(), ExampleParams()

    def describe(self) -> Json:
        return {**super().describe(), "id": "example", "revision": "1", "engine": "numpy"}
