"""Pictures that show none of the ten classes. The model is taught to be undecided about them."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from sem_textures.sheet import Array, Rng, Sheet, Size, clouds, outline, rounded


def blank(rng: Rng, size: Size) -> Array:
    """One grey level, from black to white."""
    return np.full((size[1], size[0]), rng.uniform(0, 255), np.float32)


def static(rng: Rng, size: Size) -> Array:
    """Noise of one grain, from single pixels to large clouds."""
    grain = math.exp(rng.uniform(math.log(0.001), math.log(0.4)))
    return np.asarray(128 + rng.uniform(5, 70) * clouds(rng, size, grain, int(rng.integers(1, 4))), np.float32)


def snapshot(rng: Rng, size: Size) -> Array:
    """A few large soft things in front of each other, as in an ordinary photograph."""
    sheet = Sheet(size, rng.uniform(20, 235))
    for _ in range(rng.integers(3, 14)):
        corners = outline(rng, int(rng.integers(3, 11)), 0.4) * rng.uniform(0.04, 0.35, 2)
        shape = corners if rng.uniform() < 0.3 else rounded(corners)
        sheet.polygon(shape + rng.uniform((0, 0), (1, sheet.height)), rng.uniform(10, 245))
    return sheet.array() + rng.uniform(2, 25) * clouds(rng, size, rng.uniform(0.05, 0.5), 3)


STRANGERS: tuple[Callable[[Rng, Size], Array], ...] = (blank, static, snapshot, snapshot)
