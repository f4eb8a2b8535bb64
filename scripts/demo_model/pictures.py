"""The drawn micrographs of the demo model: from a scene to a picture, and which picture has which number.

A picture is a scene seen with tilt, contrast, charging, blur, shot noise and a data bar. The ranges for held-out
pictures lie between those for training and do not overlap them, so that the score shows what carries over to unseen
conditions. `OUTSIDE` lies beyond all of them; docs/demo-model.md reports both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from demo_model.drawing import Array, Rng, Size, ramp
from demo_model.scenes import LABELS, SCENES, UNKNOWN

Range = tuple[float, float]
Ranges = tuple[Range, ...]
"""One range or several, each equally likely."""

HELD_OUT_SIZE = (1024, 768)
TRAINING_PICTURES = 9020
TRAINING_SIZES = ((384, 288), (384, 288), (448, 336), (344, 316), (512, 384))
"""Smaller than real micrographs, because drawing costs by the pixel; the resize to the model's input evens it out."""
TRAINING_SEED, HELD_OUT_SEED = 20_240_101, 770_002
"""Two streams of seeds; numpy mixes them with the picture's number, so they share no picture."""


@dataclass(frozen=True)
class Conditions:
    """How pictures are taken."""

    magnification: Ranges
    contrast: Ranges
    brightness: Ranges
    """Grey level of the picture's mean, of 255."""
    dose: Ranges
    """Electrons per pixel at full brightness when the field is 1024 pixels wide; sets the shot noise."""
    blur: Ranges
    """Deviation of the beam, in thousandths of the field's width."""
    tilt: Ranges
    """Degrees."""
    bar: Ranges
    """Height of the data bar as a share of the picture."""


TRAINING = Conditions(
    magnification=((0.66, 0.92), (1.12, 1.5)),
    contrast=((0.42, 0.68), (0.9, 1.3)),
    brightness=((65, 105), (135, 180)),
    dose=((14, 60), (160, 800)),
    blur=((0.0, 1.6), (2.6, 4.2)),
    tilt=((0, 12), (20, 34)),
    bar=((0.0, 0.0), (0.045, 0.07), (0.09, 0.12)),
)
HELD_OUT = Conditions(
    magnification=((0.92, 1.12),),
    contrast=((0.68, 0.9),),
    brightness=((105, 135),),
    dose=((60, 160),),
    blur=((1.6, 2.6),),
    tilt=((12, 20),),
    bar=((0.07, 0.09),),
)
OUTSIDE = Conditions(
    magnification=((0.6, 0.66), (1.5, 1.62)),
    contrast=((0.38, 0.42), (1.3, 1.4)),
    brightness=((58, 65), (180, 188)),
    dose=((11, 14), (800, 1400)),
    blur=((4.2, 5.0),),
    tilt=((34, 39),),
    bar=((0.12, 0.14),),
)
"""Beyond the ends of every training range at once: how far the model can be stretched."""


def draw_from(rng: Rng, ranges: Ranges) -> float:
    """A number from one of the ranges."""
    return float(rng.uniform(*ranges[rng.integers(len(ranges))]))


def render(label: str, rng: Rng, conditions: Conditions, size: Size) -> Image.Image:
    """One micrograph of a class, 8-bit grey."""
    scene = SCENES[label](rng, size, draw_from(rng, conditions.magnification))
    return photograph(scene, rng, conditions)


def held_out(number: int, conditions: Conditions = HELD_OUT) -> tuple[Image.Image, int]:
    """Held-out picture `number` and its class; classes take turns."""
    label = number % len(LABELS)
    return render(LABELS[label], np.random.default_rng((HELD_OUT_SEED, number)), conditions, HELD_OUT_SIZE), label


def training(number: int) -> tuple[Image.Image, int]:
    """Training picture `number` and its class; every eleventh has class `len(LABELS)`, which is none of them."""
    rng = np.random.default_rng((TRAINING_SEED, number))
    size = TRAINING_SIZES[rng.integers(len(TRAINING_SIZES))]
    label = number % (len(LABELS) + 1)
    if label == len(LABELS):
        scene = UNKNOWN[rng.integers(len(UNKNOWN))](rng, size)
        return photograph(scene, rng, TRAINING), label
    return render(LABELS[label], rng, TRAINING, size), label


def squashed(image: Image.Image, side: int) -> NDArray[np.uint8]:
    """The model's input as the service makes it: the grey picture resized to a square, bilinear."""
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))


def photograph(scene: Array, rng: Rng, conditions: Conditions) -> Image.Image:
    """An 8-bit grey picture of a scene, of the scene's size."""
    picture = _tilted(scene, rng, draw_from(rng, conditions.tilt))
    size = picture.size
    softness = max(draw_from(rng, conditions.blur) / 1000 * size[0], 0.5)
    grey = np.asarray(picture.filter(ImageFilter.GaussianBlur(softness)), dtype=np.float32)
    grey = _charged(grey, rng)
    contrast = draw_from(rng, conditions.contrast)
    grey = (grey - grey.mean()) * np.float32(contrast) + np.float32(draw_from(rng, conditions.brightness))
    dose = draw_from(rng, conditions.dose) * (1024 / size[0]) ** 2
    grain = rng.standard_normal(grey.shape, dtype=np.float32)
    grey += grain * np.sqrt(np.clip(grey, 8, 255) * np.float32(255 / dose))
    image = Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))
    bar = draw_from(rng, conditions.bar)
    if bar:
        _data_bar(image, rng, bar)
    return image


def _tilted(scene: Array, rng: Rng, degrees: float) -> Image.Image:
    """The scene seen under an angle: rows closer together, the far side narrower; cut to what fills the picture."""
    height, width = scene.shape
    image = Image.fromarray(np.clip(scene, 0, 255).astype(np.uint8))
    slope = math.radians(degrees)
    inset = width * 0.22 * math.sin(slope)
    rows = height * (1 - 0.5 * (1 - math.cos(slope)))
    top = (height - rows) * rng.uniform()
    corners = (0.0, top, inset, top + rows, width - inset, top + rows, float(width), top)
    picture = image.transform((width, height), Image.Transform.QUAD, corners, Image.Resampling.BILINEAR)
    return picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if rng.uniform() < 0.5 else picture


def _charged(grey: Array, rng: Rng) -> Array:
    """What an insulating sample does: a slow gradient, bright streaks along the scan, a gamma of the detector."""
    x, y = ramp((grey.shape[1], grey.shape[0]))
    grey = grey + np.float32(rng.normal(0, 14)) * (x - 0.5) + np.float32(rng.normal(0, 14)) * (y - 0.4)
    if rng.uniform() < 0.35:
        streaks = np.repeat(rng.standard_normal(48, dtype=np.float32), math.ceil(len(grey) / 48))[: len(grey), None]
        grey = grey + np.float32(rng.uniform(2, 7)) * streaks
    gamma = np.float32(math.exp(rng.normal(0, 0.15)))
    return np.asarray(255 * (np.clip(grey, 0, 255) / 255) ** gamma, np.float32)


def _data_bar(image: Image.Image, rng: Rng, share: float) -> None:
    """The strip with voltage, magnification and scale, white on black or black on white, at the lower edge."""
    width, height = image.size
    top = round(height * (1 - share))
    paper, ink = (0, 255) if rng.uniform() < 0.6 else (255, 0)
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, top, width, height), fill=paper)
    words = f"HV {rng.integers(1, 30)}.00 kV   mag {rng.integers(1, 90) * 500} x   WD {rng.uniform(3, 12):.1f} mm"
    text = max(6.0, (height - top) * 0.42)
    pen.text((width * 0.02, top + (height - top) * 0.25), words, fill=ink, font_size=text)
    length, middle = width * rng.uniform(0.1, 0.2), (top + height) / 2
    scale = (width * 0.97 - length, middle, width * 0.97, middle)
    pen.line(scale, fill=ink, width=max(1, round((height - top) * 0.08)))
