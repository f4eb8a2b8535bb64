"""Resizing to a model's input size, bit for bit like transformers' image processors with Pillow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from serve_app.errors import ModelRejected

MAX_SIDE = 4096
"""Longest side of a result. A picture that is cropped afterwards may have 16 times its shorter side."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """Resize to (height, width), or the shortest edge to a length with the aspect ratio kept; then crop the centre."""

    size: tuple[int, int] | int
    filter: int = Image.Resampling.BILINEAR
    crop: tuple[int, int] | None = None
    """Height and width; not larger than what `size` makes."""
    channels: int = 3
    """1: colour is converted to grey."""

    def item(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize (height, width) grey or (height, width, 3) RGB; the result is of the same kind, still uint8.

        Pillow's filters return the same bits for a grey image as for its RGB copy, at an eighth of the cost.
        Raises `ModelRejected` for an image so narrow that keeping its aspect ratio would take too much memory.
        """
        image = as_image(pixels, self.channels)
        height, width = self._target(image.height, image.width)
        resized = np.asarray(image.resize((width, height), Image.Resampling(self.filter)))
        if self.crop is None:
            return resized
        top, left = (height - self.crop[0]) // 2, (width - self.crop[1]) // 2
        return np.ascontiguousarray(resized[top : top + self.crop[0], left : left + self.crop[1]])

    def _target(self, height: int, width: int) -> tuple[int, int]:
        if isinstance(self.size, tuple):
            return self.size
        short, long = sorted((height, width))
        longer = int(self.size * long / short)
        if longer > max(MAX_SIDE, 16 * self.size):
            raise ModelRejected(f"The image is too narrow for this model: {width} x {height} pixels.")
        return (longer, self.size) if width <= height else (self.size, longer)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of every item; not meaningful for a shortest edge without a crop, where shapes vary."""
        if self.crop is not None:
            return self.crop
        return self.size if isinstance(self.size, tuple) else (self.size, self.size)

    def describe(self) -> str:
        """For example `224x224, bilinear` or `shortest edge 256, bicubic, centre 224x224`."""
        name = Image.Resampling(self.filter).name.lower()
        size = f"shortest edge {self.size}" if isinstance(self.size, int) else f"{self.size[1]}x{self.size[0]}"
        return f"{size}, {name}" + (f", centre {self.crop[1]}x{self.crop[0]}" if self.crop else "")


def as_image(pixels: NDArray[np.uint8], channels: int) -> Image.Image:
    """A Pillow image; grey for a model with one channel."""
    image = Image.fromarray(pixels)
    return image.convert("L") if channels == 1 else image
