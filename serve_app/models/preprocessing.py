"""The preprocessing a snapshot asks for in its preprocessor_config.json, in the arithmetic of its own processor.

Pixels stay uint8 until the batch is normalised in the forward thread: a quarter of the bytes cross the processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.contracts import Json
from serve_app.errors import ModelUnready

BILINEAR = 2
UNSUPPORTED = ("do_center_crop", "do_pad", "do_reduce_labels")


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Resize to `size` x `size`, then (level x scale - mean) / std per channel."""

    size: int
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def from_config(cls, config: Json) -> Preprocessing:
        """Read preprocessor_config.json. What this cannot do exactly is refused, never approximated."""
        for step in UNSUPPORTED:
            if config.get(step):
                raise ModelUnready(f"preprocessor_config.json asks for {step}, which is not supported.")
        if not config.get("do_resize", True) or config.get("resample", BILINEAR) != BILINEAR:
            raise ModelUnready("preprocessor_config.json must resize, with the bilinear filter (resample 2).")
        normalise = config.get("do_normalize", True)
        return cls(
            size=_square(config.get("size")),
            scale=float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0,
            mean=_three(config, "image_mean") if normalise else (0.0, 0.0, 0.0),
            std=_deviations(config) if normalise else (1.0, 1.0, 1.0),
        )

    def normalise(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Grey (size, size) and RGB (size, size, 3) images to one batch (n, 3, size, size).

        There are 256 levels only, so the processor's arithmetic (float64 product, float32 rest) runs once per level.
        """
        levels = (np.arange(256, dtype=np.float64) * self.scale).astype(np.float32)
        mean, std = (np.array(values, dtype=np.float32) for values in (self.mean, self.std))
        table = (levels[None, :] - mean[:, None]) / std[:, None]
        batch = np.empty((len(images), 3, self.size, self.size), dtype=np.float32)
        for place, image in zip(batch, images, strict=True):
            for channel in range(3):
                plane = image if image.ndim == 2 else image[:, :, channel]
                np.take(table[channel], plane, out=place[channel], mode="clip")  # clip: `raise` would buffer
        return batch


def _square(size: Any) -> int:
    if isinstance(size, dict):
        height, width = size.get("height"), size.get("width")
        size = height if height == width else None
    if not isinstance(size, int) or not 1 <= size <= 4096:
        raise ModelUnready("preprocessor_config.json must name one square size (equal height and width).")
    return size


def _three(config: Json, name: str) -> tuple[float, float, float]:
    value = config.get(name, 0.5)
    values = [value] * 3 if isinstance(value, (int, float)) else value
    if not isinstance(values, list) or len(values) != 3 or not all(isinstance(one, (int, float)) for one in values):
        raise ModelUnready(f"preprocessor_config.json: {name} must be three numbers.")
    return float(values[0]), float(values[1]), float(values[2])


def _deviations(config: Json) -> tuple[float, float, float]:
    deviations = _three(config, "image_std")
    if min(deviations) <= 0:
        raise ModelUnready("preprocessor_config.json: image_std must be above zero.")
    return deviations
