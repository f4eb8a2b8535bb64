"""Labels, seeds and sizes: which picture is drawn for which number."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sem_textures import grains, shapes, surfaces
from sem_textures.microscope import HELD_OUT, TRAINING, Conditions, draw_from, photograph
from sem_textures.sheet import Array, Rng, Size
from sem_textures.strangers import STRANGERS

SCENES: dict[str, Callable[[Rng, Size, float], Array]] = {
    "Porous_Sponge": surfaces.porous_sponge,
    "Patterned_surface": surfaces.patterned_surface,
    "Particles": grains.particles,
    "Films_Coated_Surface": surfaces.films_coated_surface,
    "Powder": grains.powder,
    "Tips": shapes.tips,
    "Nanowires": shapes.nanowires,
    "Biological": grains.biological,
    "MEMS_devices_and_electrodes": shapes.mems_devices_and_electrodes,
    "Fibres": shapes.fibres,
}
"""The ten classes in the order of the model's outputs."""
LABELS = tuple(SCENES)
STRANGER = len(LABELS)
"""The number of what belongs to no class."""

HELD_OUT_SIZE = (1024, 768)
TRAINING_PICTURES = 9020
TRAINING_SIZES = ((384, 288), (384, 288), (448, 336), (344, 316), (512, 384))
"""Smaller than real micrographs, because drawing costs by the pixel; the step to the model's input evens it out."""
TRAINING_SEED, HELD_OUT_SEED = 20_240_101, 770_002
"""Two streams of seeds; numpy mixes them with the picture's number, so that they share no picture."""


def render(label: str, rng: Rng, conditions: Conditions, size: Size) -> Image.Image:
    """One micrograph of a class, 8-bit grey."""
    scene = SCENES[label](rng, size, draw_from(rng, conditions.magnification))
    return photograph(scene, rng, conditions)


def held_out(number: int, conditions: Conditions = HELD_OUT) -> tuple[Image.Image, int]:
    """Held-out picture `number` and its class; classes take turns."""
    label = number % len(LABELS)
    return render(LABELS[label], np.random.default_rng((HELD_OUT_SEED, number)), conditions, HELD_OUT_SIZE), label


def training(number: int) -> tuple[Image.Image, int]:
    """Training picture `number` and its class; every eleventh shows none of them."""
    rng = np.random.default_rng((TRAINING_SEED, number))
    size = TRAINING_SIZES[rng.integers(len(TRAINING_SIZES))]
    label = number % (len(LABELS) + 1)
    if label == STRANGER:
        scene = STRANGERS[rng.integers(len(STRANGERS))](rng, size)
        return photograph(scene, rng, TRAINING), label
    return render(LABELS[label], rng, TRAINING, size), label


def squashed(image: Image.Image, side: int) -> NDArray[np.uint8]:
    """The model's input as the service makes it: the grey picture resized to a square, bilinear."""
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))
