"""Pictures and models of the load tests: drawn micrographs, random weights, and models that crash or hang."""

from __future__ import annotations

import io
import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from serve_app.models.contract import Prepared
from serve_app.models.sem_classifier import ClassifierParams, Recipe, SemClassifier

RANDOM_MODEL = "bench/vit-base-patch32-random"
SEED = 20261120
SMALL_QUALITY = 75
"""Makes 64 kB of the small picture."""


def draw(folder: Path, count: int, size: tuple[int, int], seed: int = SEED) -> list[Path]:
    """Draw `count` JPEG files, the ten classes in turns; existing files are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:04}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        if not path.exists():
            _picture(number, size, seed).save(path, quality=90)
    return paths


def small_jpeg() -> bytes:
    """One picture of 64 kB."""
    buffer = io.BytesIO()
    _picture(0, (640, 480), SEED).save(buffer, "JPEG", quality=SMALL_QUALITY)
    return buffer.getvalue()


def _picture(number: int, size: tuple[int, int], seed: int) -> Image.Image:
    # Imported here because gateways import this module for the parameters, and their memory is measured.
    from demo_model.pictures import HELD_OUT, render
    from demo_model.scenes import LABELS

    return render(LABELS[number % len(LABELS)], np.random.default_rng((seed, number)), HELD_OUT, size)


def random_snapshot(cache: Path) -> Path:
    """A snapshot of RANDOM_MODEL, a ViT-B/32 with random weights, in the layout of the Hugging Face cache."""
    organisation, name = RANDOM_MODEL.split("/")
    folder = cache / f"models--{organisation}--{name}" / "snapshots" / "random"
    if not (folder / "model.safetensors").exists():
        import torch
        from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

        torch.manual_seed(SEED)
        labels = {number: f"class_{number}" for number in range(10)}
        config = ViTConfig(patch_size=32, id2label=labels, label2id={label: n for n, label in labels.items()})
        ViTForImageClassification(config).save_pretrained(folder)
        ViTImageProcessorPil().save_pretrained(folder)
    return folder


class Act(ClassifierParams):
    """The forward pass classifies, or does this instead."""

    act: Literal["none", "die", "hang"] = "none"


class ActingClassifier(SemClassifier):
    """The served classifier; on request its forward pass kills the process or never returns."""

    Params = Act

    @staticmethod
    def preprocess(data: bytes | None, params: Any, recipe: Recipe) -> Prepared:
        prepared = SemClassifier.preprocess(data, params, recipe)
        return Prepared((params.act, prepared.item), prepared.notes)

    def forward(self, items: Sequence[Any]) -> list[NDArray[np.float64]]:
        for act, _ in items:
            if act == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if act == "hang":
                threading.Event().wait()
        return super().forward([pixels for _, pixels in items])

    def warm_up_input(self) -> tuple[bytes, Any]:
        return super().warm_up_input()[0], Act()


class Hang(Act):
    """Hangs by default."""

    act: Literal["none", "die", "hang"] = "hang"


class Sleeper(ActingClassifier):
    """Takes jobs and never ends them: measures submits without the load of a model."""

    Params = Hang
