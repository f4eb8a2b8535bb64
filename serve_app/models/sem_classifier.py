"""The default model: a Hugging Face image classifier for scanning-electron-microscopy images."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from serve_app.contracts import Json
from serve_app.errors import ModelRejected
from serve_app.images.decode import read_pixels
from serve_app.images.resize import Geometry
from serve_app.models.checkpoint import check_fit, is_multi_label, load_network, read_channels, read_labels
from serve_app.models.contract import Model, Prepared, Schema
from serve_app.models.engines import Engine, Score, load_engine, sigmoid, softmax
from serve_app.models.preprocessing import OwnProcessor, Preprocessing, choose
from serve_app.models.snapshot import CheckpointOptions, Snapshot, locate
from serve_app.settings import Settings

DEFAULT_THRESHOLD = 0.5
SCORES_MAX_BYTES = 58_000
"""Part of a result's 64 kB that its scores may take."""
SCORE_BYTES = 28
"""Longest score as JSON, with its punctuation."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a decode worker needs to know about the model and the limits."""

    preparation: Geometry | OwnProcessor
    multi_label: bool
    settings: Settings


class ClassifierParams(Schema):
    """What a submit may choose."""

    page: int | None = Field(
        default=None,
        ge=1,
        description="Which page or frame of the file, from 1. By default TIFF's largest picture, else the first",
    )
    threshold: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="For models whose labels are independent of each other: the score from which a label is in "
        "`labels`, 0.5 by default. A model that answers one label refuses it",
    )


class Classification(Schema):
    """The result of one image."""

    label: str = Field(description="The most likely class")
    confidence: float = Field(ge=0, le=1, description="Its score")
    all_scores: dict[str, float] = Field(
        description="Every class and its score; they sum to 1, but where `labels` is there: then each is independent"
    )
    labels: tuple[str, ...] | None = Field(
        default=None,
        exclude_if=lambda labels: labels is None,
        description="Of a model whose labels are independent: those from the threshold on, best first; maybe none",
    )
    device_used: str = Field(description="cpu or cuda")
    model: Json = Field(description="What answered: id, revision, weights' sha256, engine, precision, demo or not")
    image: Json = Field(description="How the image was read and what was done to it")


class SemClassifier(Model):
    """Classifies by one snapshot (`MODEL_SOURCE`), with images prepared exactly as the snapshot's own processor does.

    Scores are the softmax over all classes, or the sigmoid of each if the checkpoint says
    `problem_type: multi_label_classification`.
    """

    Params = ClassifierParams
    Result = Classification
    Options = CheckpointOptions

    _engine: Engine
    _preprocessing: Preprocessing
    _score: Score
    _scores_listed: int
    _description: Json

    def load(self, settings: Settings) -> None:
        settings = self.options.over(settings)
        snapshot = locate(settings)
        network = load_network(snapshot)
        multi_label = is_multi_label(network.config)
        self._score = sigmoid if multi_label else softmax
        self.labels = read_labels(network.config)
        self._scores_listed = _how_many_fit(self.labels)
        self._preprocessing = choose(snapshot.folder, read_channels(network.config))
        self.recipe = Recipe(self._preprocessing.preparation, multi_label, settings)
        shape = check_fit(network, self._preprocessing, len(self.labels))
        self._engine = load_engine(network, shape, self._score, settings)
        self._description = _describe(snapshot, self._engine)

    @staticmethod
    def prepare_worker(recipe: Recipe) -> None:
        if isinstance(recipe.preparation, OwnProcessor):
            recipe.preparation.prepare_worker()

    @staticmethod
    def preprocess(data: bytes | None, params: ClassifierParams, recipe: Recipe) -> Prepared:
        if data is None:
            raise ModelRejected("This model needs an image.")
        if params.threshold is not None and not recipe.multi_label:
            raise ModelRejected("This model answers one label: `threshold` is for models with independent labels.")
        pixels = read_pixels(data, recipe.settings, params.page)
        item = recipe.preparation.item(pixels.array)
        return Prepared(item, {**pixels.how, "resized_to": recipe.preparation.describe()})

    def forward(self, items: Sequence[Any]) -> list[NDArray[np.float64]]:
        """One row of scores per image."""
        rows: dict[int, NDArray[np.float64]] = {}
        for places, inputs in self._preprocessing.batches(items):
            rows.update(zip(places, self._score(self._engine.logits(inputs)), strict=True))
        return [rows[place] for place in range(len(items))]

    def postprocess(self, output: NDArray[np.float64], params: ClassifierParams, notes: Json) -> Classification:
        if not np.isfinite(output).all():
            raise ModelRejected("The model's scores for this image are not numbers.")
        best_first = np.argsort(-output, kind="stable")
        listed = range(len(output)) if self._scores_listed == len(output) else best_first[: self._scores_listed]
        best = int(best_first[0])
        chosen = None
        if self.recipe.multi_label:
            threshold = DEFAULT_THRESHOLD if params.threshold is None else params.threshold
            # Only labels that are in all_scores, so that the result keeps its size limit.
            chosen = tuple(self.labels[at] for at in best_first[: self._scores_listed] if output[at] >= threshold)
        return Classification(
            label=self.labels[best],
            confidence=float(output[best]),
            all_scores={self.labels[at]: float(output[at]) for at in listed},
            labels=chosen,
            device_used=self._engine.device,
            model=self._description,
            image=notes,
        )

    def warm_up_input(self) -> tuple[bytes, ClassifierParams]:
        """A small grey gradient as PNG."""
        from PIL import Image

        file = io.BytesIO()
        Image.linear_gradient("L").save(file, "PNG")
        return file.getvalue(), ClassifierParams()

    def describe(self) -> Json:
        return {**super().describe(), "device": self._engine.device, **self._description}


def _how_many_fit(labels: tuple[str, ...]) -> int:
    """How many scores a result can list: all, except for models with thousands of classes (SCORES_MAX_BYTES)."""
    sizes = sorted((len(json.dumps(label)) + SCORE_BYTES for label in labels), reverse=True)
    return next((count for count, size in enumerate(accumulate(sizes)) if size > SCORES_MAX_BYTES), len(sizes))


def _describe(snapshot: Snapshot, engine: Engine) -> Json:
    return {
        "id": snapshot.id,
        "revision": snapshot.revision,
        "sha256": snapshot.sha256(),
        **engine.describe(),
        "demo": snapshot.demo,
    }
