"""A grey drawing in field units, and the few strokes that every scene is made of.

Lengths are fractions of the field's width, so one scene can be drawn at any number of pixels. Grey levels are 0 to 255.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Array = NDArray[np.floating[Any]]
Points = Array
"""Rows of (x, y) in field units."""
Size = tuple[int, int]
Rng = np.random.Generator

SPRITE = 96
"""Pixels across a prepared ball; larger balls are magnified, which the microscope's blur hides."""


class Sheet:
    """The drawing so far. `angle` turns every stroke about the middle of the field (radians)."""

    def __init__(self, size: Size, level: float, angle: float = 0.0) -> None:
        self.size = size
        self.height = size[1] / size[0]
        self.image = Image.new("L", size, round(level))
        self._pen = ImageDraw.Draw(self.image)
        self._turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])

    def pixels(self, points: Points) -> list[tuple[float, float]]:
        """Field units to pixels, after the turn."""
        middle = np.array([0.5, self.height / 2])
        turned = ((points - middle) @ self._turn + middle) * self.size[0]
        return list(map(tuple, turned.tolist()))

    def polygon(self, points: Points, level: float) -> None:
        self.outlined(self.pixels(points), level)

    def outlined(self, corners: list[tuple[float, float]], level: float) -> None:
        """A polygon whose corners are pixels already."""
        self._pen.polygon(corners, fill=round(level))

    def box(self, x: float, y: float, width: float, height: float, level: float) -> None:
        """A rectangle around (x, y)."""
        half = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (width / 2, height / 2)
        self.polygon(half + np.array([x, y]), level)

    def line(self, points: Points, width: float, level: float) -> None:
        """A polyline; one pixel wide at least."""
        self._pen.line(self.pixels(points), fill=round(level), width=max(1, round(width * self.size[0])), joint="curve")

    def tube(self, points: Points, width: float, level: float) -> None:
        """A round bar: a shadow beneath, bright edges (more electrons leave there), a duller middle."""
        self.line(points, width * 1.35, level * 0.25)
        for share, shade in ((1.0, 1.15), (0.78, 0.92), (0.5, 0.76), (0.25, 0.7)):
            self.line(points, width * share, min(255.0, level * shade))

    def ball(self, x: float, y: float, axes: tuple[float, float], angle: float, level: float) -> None:
        """An ellipsoid with half axes `axes`, lit from above, with the bright rim of secondary electrons."""
        self.stamp(ball_sprite(round(level / 16)), x, y, axes, angle)

    def stamp(self, sprite: Image.Image, x: float, y: float, axes: tuple[float, float], angle: float) -> None:
        """Put an `LA` sprite with its middle at (x, y)."""
        scale = 2 * self.size[0]
        pixels = (max(2, round(axes[0] * scale)), max(2, round(axes[1] * scale)))
        picture = sprite.resize(pixels, Image.Resampling.BILINEAR)
        if axes[0] != axes[1]:
            picture = picture.rotate(math.degrees(angle), Image.Resampling.BILINEAR, expand=True)
        [(left, top)] = self.pixels(np.array([[x, y]]))
        corner = (round(left - picture.width / 2), round(top - picture.height / 2))
        self.image.paste(picture.getchannel("L"), corner, picture.getchannel("A"))

    def array(self) -> Array:
        return np.asarray(self.image, dtype=np.float32)


@cache
def ball_sprite(level: int) -> Image.Image:
    """A lit ball whose middle has the grey `16 * level`."""
    y, x = np.mgrid[-1 : 1 : SPRITE * 1j, -1 : 1 : SPRITE * 1j]
    radius = np.hypot(x, y)
    height = np.sqrt(np.clip(1 - radius**2, 0, 1))
    grey = 16 * level * (0.62 + 0.3 * (height - 0.7 * y - 0.3 * x) + 0.55 * radius**6)
    return sprite_of(grey, radius < 1)


def sprite_of(grey: Points, mask: NDArray[np.bool_]) -> Image.Image:
    """An `LA` picture of a grey array where `mask` holds."""
    layers = (np.clip(grey, 0, 255), np.where(mask, 255.0, 0.0))
    return Image.merge("LA", [Image.fromarray(layer.astype(np.uint8)) for layer in layers])


def clouds(rng: Rng, size: Size, grain: float, octaves: int = 1) -> Array:
    """Smooth noise of about unit deviation; `grain` is the length of its largest lumps."""
    total = np.zeros((size[1], size[0]), np.float32)
    for octave in range(octaves):
        step = max(grain * size[0] / 2**octave, 1.0)
        cells = (max(2, round(size[1] / step) + 2), max(2, round(size[0] / step) + 2))
        small = Image.fromarray(rng.standard_normal(cells, dtype=np.float32))
        total += np.asarray(small.resize(size, Image.Resampling.BICUBIC)) / 1.5**octave
    return total


def ramp(size: Size) -> tuple[Array, Array]:
    """The x and y of every pixel in field units."""
    y, x = np.mgrid[0 : size[1], 0 : size[0]].astype(np.float32) / size[0]
    return x, y


def outline(rng: Rng, corners: int, roughness: float) -> Points:
    """A closed shape of about unit radius around the origin, its corners in order."""
    even = np.linspace(0, 2 * math.pi, corners, endpoint=False)
    turns = np.sort(even + rng.uniform(-0.5, 0.5, corners) * 2 / corners)
    radii = 1 + roughness * rng.uniform(-1, 1, corners)
    return np.stack([np.cos(turns), np.sin(turns)], 1) * radii[:, None]


def rounded(shape: Points, points: int = 28) -> Points:
    """The same closed shape without corners: cut to its lowest frequencies."""
    spectrum = np.fft.fft(shape[:, 0] + 1j * shape[:, 1])
    wide = np.zeros(points, complex)
    half = min(3, (len(shape) - 1) // 2)
    wide[: half + 1] = spectrum[: half + 1]
    wide[-half:] = spectrum[-half:]
    curve = np.fft.ifft(wide) * points / len(shape)
    return np.stack([curve.real, curve.imag], 1)


def scatter(rng: Rng, height: float, radii: Points, gap: float, tries: int = 8) -> list[tuple[float, float, float]]:
    """Places (x, y, radius) at least `gap` times the sum of two radii apart; those without room are left out."""
    placed = np.empty((len(radii), 3))
    count = 0
    for radius in radii:
        spots = rng.uniform((-0.02, -0.02), (1.02, height + 0.02), (tries, 2))
        away = (placed[:count, None, :2] - spots) ** 2
        free = np.all(away.sum(2) >= (gap * (placed[:count, 2:] + radius)) ** 2, axis=0)
        if free.any():
            placed[count] = (*spots[free.argmax()], radius)
            count += 1
    return [(float(x), float(y), float(radius)) for x, y, radius in placed[:count]]
