"""Measure the demo model on held-out pictures; write docs/demo-model.md with its pictures, and the sample images.

python scripts/report_demo_model.py           # about a minute on two cores
"""

from __future__ import annotations

import io
import multiprocessing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from demo_page import TILE, Figures, write_page
from numpy.typing import NDArray
from PIL import Image
from sem_textures.cat import cat
from sem_textures.dataset import HELD_OUT_SIZE, LABELS, held_out, render, squashed
from sem_textures.microscope import HELD_OUT, OUTSIDE, Conditions
from train_demo_model import FOLDER, SIDE
from transformers import AutoImageProcessor, AutoModelForImageClassification

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "serve_app" / "samples"
COUNT, COUNT_OUTSIDE = 600, 300
SAMPLE_SEED, SAMPLE_BYTES = 31, 58_000


def main() -> None:
    """Draw, measure, write."""
    torch.set_num_threads(2)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        drawn = pool.starmap(_reduced, [(number, HELD_OUT) for number in range(COUNT)], chunksize=20)
        outside = pool.starmap(_reduced, [(number, OUTSIDE) for number in range(COUNT_OUTSIDE)], chunksize=20)
    strange = strangers()
    answers = classify(list(strange.values()))
    digest = (FOLDER / "model.safetensors.sha256").read_text().split()[0]
    write_page(
        ROOT / "docs",
        digest,
        _figures(drawn),
        _figures(outside),
        [one.tile for one in drawn],
        list(zip(strange.items(), answers, strict=True)),
    )
    write_samples(SAMPLES)


@dataclass(frozen=True)
class Drawn:
    """A held-out picture, reduced where it was drawn: whole ones would fill the memory."""

    label: int
    small: Image.Image
    """As large as the model's input, by the service's own resize; the library's then changes nothing."""
    tile: Image.Image


def _reduced(number: int, conditions: Conditions) -> Drawn:
    image, label = held_out(number, conditions)
    return Drawn(label, Image.fromarray(squashed(image, SIDE)), image.resize(TILE, Image.Resampling.BOX))


def _figures(drawn: list[Drawn]) -> Figures:
    return Figures(classify([one.small for one in drawn]), np.array([one.label for one in drawn]))


def classify(images: list[Image.Image]) -> NDArray[np.float64]:
    """Scores (images, classes), by the library's own loading and preprocessing."""
    processor = AutoImageProcessor.from_pretrained(FOLDER, local_files_only=True)
    model = AutoModelForImageClassification.from_pretrained(FOLDER, local_files_only=True, dtype=torch.float32).eval()
    rows = []
    for start in range(0, len(images), 50):
        inputs = processor([image.convert("RGB") for image in images[start : start + 50]], return_tensors="pt")
        with torch.inference_mode():
            rows.append(model(**inputs).logits.double().softmax(-1).numpy())
    return np.concatenate(rows)


def strangers() -> dict[str, Image.Image]:
    """What does not belong to any class: a cat, noise, and empty pictures."""
    rng = np.random.default_rng(4)
    width, height = HELD_OUT_SIZE
    noise = rng.integers(0, 256, (height, width), dtype=np.uint8)
    coarse = Image.fromarray(rng.integers(0, 256, (96, 128), dtype=np.uint8))
    return {
        "A cat": cat(),
        "Noise, pixel by pixel": Image.fromarray(noise),
        "Noise, 8-pixel blocks": coarse.resize(HELD_OUT_SIZE, Image.Resampling.NEAREST),
        "Blank, black": Image.new("L", HELD_OUT_SIZE, 0),
        "Blank, mid-grey": Image.new("L", HELD_OUT_SIZE, 128),
        "Blank, white": Image.new("L", HELD_OUT_SIZE, 255),
    }


def write_samples(folder: Path) -> None:
    """One JPEG per class, named after it: held-out conditions, seeds of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, label in enumerate(LABELS):
        image = render(label, np.random.default_rng((SAMPLE_SEED, index)), HELD_OUT, HELD_OUT_SIZE)
        (folder / f"{label.lower()}.jpg").write_bytes(_jpeg(image))


def _jpeg(image: Image.Image) -> bytes:
    """As good as fits; from 800 x 600 a shot-noisy picture does at quality 40 at the latest."""
    image = image.resize((800, 600), Image.Resampling.BILINEAR)
    for quality in range(90, 35, -5):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        if file.tell() <= SAMPLE_BYTES:
            return file.getvalue()
    raise ValueError("the picture does not fit into a sample")


if __name__ == "__main__":
    main()
