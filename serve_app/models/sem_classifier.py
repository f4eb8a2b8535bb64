"""The default model: a Hugging Face image classifier that names what a scanning-electron-microscopy image shows."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from serve_app.contracts import Json
from serve_app.errors import ModelRejected, ModelUnready
from serve_app.images.decode import read_pixels
from serve_app.images.resize import to_model_input
from serve_app.models.contract import Model, Prepared, Schema
from serve_app.models.engine import Engine, load_engine, softmax
from serve_app.models.preprocessing import Preprocessing
from serve_app.models.snapshot import Snapshot, locate
from serve_app.settings import Settings


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a decode worker needs to know of the model and of the limits."""

    size: int
    settings: Settings


class NoParams(Schema):
    """What a submit may choose."""

    page: int | None = Field(
        default=None,
        ge=1,
        description="Which page or frame of the file, from 1. By default TIFF's largest picture, else the first",
    )


class Classification(Schema):
    """The result of one image."""

    label: str = Field(description="The most likely class")
    confidence: float = Field(ge=0, le=1, description="Its score")
    all_scores: dict[str, float] = Field(description="Every class and its score; they sum to 1")
    device_used: str = Field(description="cpu or cuda")
    model: Json = Field(description="What answered: id, revision, weights' sha256, engine, precision, demo or not")
    image: Json = Field(description="How the image was read and what was done to it")


class SemClassifier(Model):
    """Softmax over all classes of one snapshot (`MODEL_SOURCE`), preprocessed as the snapshot's own processor does."""

    Params = NoParams
    Result = Classification

    _engine: Engine
    _preprocessing: Preprocessing
    _description: Json

    def load(self, settings: Settings) -> None:
        snapshot = locate(settings)
        self._preprocessing = Preprocessing.from_config(snapshot.read_json("preprocessor_config.json"))
        self.labels = _labels(snapshot.read_json("config.json"))
        self.recipe = Recipe(self._preprocessing.size, settings)
        self._engine = load_engine(snapshot, self._preprocessing.size, settings)
        self._description = _describe(snapshot, self._engine)

    @staticmethod
    def preprocess(data: bytes | None, params: NoParams, recipe: Recipe) -> Prepared:
        if data is None:
            raise ModelRejected("This model needs an image.")
        pixels = read_pixels(data, recipe.settings, params.page)
        item = to_model_input(pixels, recipe.size)
        return Prepared(item, {**pixels.how, "resized_to": f"{recipe.size}x{recipe.size}, bilinear"})

    def forward(self, items: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float64]]:
        """One row of scores per image."""
        logits = self._engine.logits(self._preprocessing.normalise(items))
        return list(softmax(logits))

    def postprocess(self, output: NDArray[np.float64], params: NoParams, notes: Json) -> Classification:
        if not np.isfinite(output).all():
            raise ModelRejected("The model's scores for this image are not numbers.")
        scores = {label: float(score) for label, score in zip(self.labels, output, strict=True)}
        best = self.labels[int(output.argmax())]
        return Classification(
            label=best,
            confidence=scores[best],
            all_scores=scores,
            device_used=self._engine.device,
            model=self._description,
            image=notes,
        )

    def warm_up_input(self) -> tuple[bytes, NoParams]:
        """A small grey slope as PNG."""
        from PIL import Image

        file = io.BytesIO()
        Image.linear_gradient("L").save(file, "PNG")
        return file.getvalue(), NoParams()

    def describe(self) -> Json:
        return {**super().describe(), "device": self._engine.device, **self._description}


def _labels(config: Json) -> tuple[str, ...]:
    """`id2label` in the order of the outputs."""
    named: dict[str, Any] = config.get("id2label") or {}
    try:
        labels = tuple(str(named[str(index)]) for index in range(len(named)))
    except KeyError as error:
        raise ModelUnready(f"config.json: id2label has no entry {error}.") from error
    if len(set(labels)) != len(labels) or not labels:
        raise ModelUnready("config.json: id2label must name every class, each once.")
    return labels


def _describe(snapshot: Snapshot, engine: Engine) -> Json:
    return {
        "id": snapshot.id,
        "revision": snapshot.revision,
        "sha256": snapshot.sha256(),
        **engine.describe(),
        "demo": snapshot.demo,
    }
