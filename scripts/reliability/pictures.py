"""Pictures of all ten classes, and what the model says of each when it gets it alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from benchmark.one_at_a_time import answers_one_at_a_time
from sem_textures.dataset import LABELS, render
from sem_textures.microscope import HELD_OUT

from reliability.service import WEIGHTS
from serve_app.contracts import Json

SIZE = (384, 288)


@dataclass(frozen=True)
class Picture:
    """One JPEG file and the result that every job with it must have."""

    data: bytes
    reference: Json


def draw(folder: Path, count: int, seed: int) -> list[Picture]:
    """So many pictures; classes take turns."""
    folder.mkdir()
    for number in range(count):
        rng = np.random.default_rng((seed, number))
        render(LABELS[number % len(LABELS)], rng, HELD_OUT, SIZE).save(folder / f"{number:03}.jpg", quality=90)
    answers = answers_one_at_a_time(folder, WEIGHTS)
    return [Picture(path.read_bytes(), one) for path, one in zip(sorted(folder.iterdir()), answers, strict=True)]
