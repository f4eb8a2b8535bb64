"""Pictures with round objects whose places are known: coins on a table, spheres under an electron microscope."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

Random = np.random.Generator
Picture = NDArray[np.float32]

METALS: Final = ((192, 188, 180), (150, 148, 145), (205, 165, 85), (170, 105, 65), (110, 85, 60), (225, 215, 200))
VISIBLE_LEAST: Final = 0.4
"""Smallest visible share of an object that counts as one."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture, (height, width, 3) or (height, width) for a micrograph, and the box of each object in it."""

    pixels: NDArray[np.uint8]
    boxes: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Disc:
    """An ellipse: centre, larger half axis, ratio of the axes, angle of the larger one."""

    x: float
    y: float
    radius: float
    ratio: float = 1.0
    angle: float = 0.0

    def box(self) -> tuple[float, float, float, float]:
        a, b = self.radius, self.radius * self.ratio
        width = float(np.hypot(a * np.cos(self.angle), b * np.sin(self.angle)))
        height = float(np.hypot(a * np.sin(self.angle), b * np.cos(self.angle)))
        return self.x - width, self.y - height, self.x + width, self.y + height

    def frame(self, shape: tuple[int, ...], margin: float = 1.0) -> tuple[tuple[slice, slice], Any, Any, Any]:
        """The part of a picture around it; there, coordinates in which it is the unit circle, and its opacity."""
        left, top, right, bottom = self.box()
        pad = 3 + (margin - 1) * self.radius
        rows = slice(max(0, int(top - pad)), max(0, min(shape[0], int(bottom + pad) + 1)))
        columns = slice(max(0, int(left - pad)), max(0, min(shape[1], int(right + pad) + 1)))
        down, across = np.mgrid[rows, columns].astype(np.float32) + np.float32(0.5)
        across, down = across - self.x, down - self.y
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        u = (across * cos + down * sin) / self.radius
        v = (down * cos - across * sin) / (self.radius * self.ratio)
        inside = np.clip((1 - np.hypot(u, v)) * self.radius * self.ratio + 0.5, 0, 1)
        return (rows, columns), u, v, inside.astype(np.float32)


def noise_of_grain(random: Random, shape: tuple[int, int], grain: tuple[float, float]) -> Picture:
    """Smooth noise of mean 0 and deviation about 1; `grain` is its size in pixels, down and across."""
    small = [max(2, round(side / size) + 1) for side, size in zip(shape, grain, strict=True)]
    coarse = random.standard_normal((small[0], small[1])).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC), np.float32)


def _background(random: Random, shape: tuple[int, int]) -> Picture:
    """A table: plain, cloth, wood, stone or leaves, unevenly lit."""
    colour = random.uniform(15, 245, 3) * random.choice([0, 1]) + random.uniform(10, 245) * random.choice([0.3, 1])
    colour = np.clip(colour, 5, 250).astype(np.float32)
    kind = random.integers(7)
    texture = np.zeros(shape, np.float32)
    if kind == 1:
        pitch = random.uniform(3, 9)
        down, across = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
        texture = (np.sin(down * 2 * np.pi / pitch) + np.sin(across * 2 * np.pi / pitch)) * random.uniform(2, 10)
    elif kind == 2:
        thin, long = random.uniform(2, 8), random.uniform(60, 300)
        grain = (thin, long) if random.random() < 0.5 else (long, thin)
        texture = noise_of_grain(random, shape, grain) * random.uniform(4, 18)
    elif kind in (3, 4):
        for size in (2, 5, 14, 40, 90):
            texture = texture + noise_of_grain(random, shape, (size, size)) * random.uniform(0, 9 if kind == 3 else 16)
    elif kind >= 5:
        texture = _pattern(random, shape, kind == 6)
    light = noise_of_grain(random, shape, (shape[0], shape[1])) * random.uniform(0, 25)
    tint = random.uniform(0.7, 1.1, 3).astype(np.float32)
    table: Picture = colour + (texture + light)[..., None] * tint
    return table


def _pattern(random: Random, shape: tuple[int, int], zigzag: bool) -> Picture:
    """Woven cloth: stripes, straight or in zigzag, with a thread's grain."""
    down, across = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    turn = random.uniform(0, np.pi)
    along, beside = across * np.cos(turn) + down * np.sin(turn), down * np.cos(turn) - across * np.sin(turn)
    if zigzag:
        width = random.uniform(15, 60)
        beside = beside + np.abs(along % (2 * width) - width) * random.uniform(0.5, 1.5)
    levels = random.uniform(-60, 60, random.integers(2, 7)).astype(np.float32)
    stripes = levels[(beside / random.uniform(6, 40)).astype(int) % len(levels)]
    thread = np.sin(along * random.uniform(0.6, 2)) * np.sin(beside * random.uniform(0.6, 2)) * random.uniform(0, 15)
    pattern: Picture = (stripes + thread + noise_of_grain(random, shape, (3, 3)) * random.uniform(0, 8)).astype(
        np.float32
    )
    return pattern


def _fingers(random: Random, picture: Picture) -> NDArray[np.uint8]:
    """Shaded rods over the picture; the mask of where they are."""
    height, width = picture.shape[:2]
    covered = np.zeros((height, width), np.uint8)
    for _ in range(random.integers(1, 4)):
        thick = int(random.uniform(0.08, 0.3) * max(height, width))
        tip = int(random.uniform(0.1, 0.9) * width), int(random.uniform(0.1, 0.9) * height)
        turn = random.uniform(0, 2 * np.pi)
        mask = np.zeros((height, width), np.uint8)
        end = int(tip[0] + 900 * np.cos(turn)), int(tip[1] + 900 * np.sin(turn))
        cv2.line(mask, tip, end, 255, thick, cv2.LINE_AA)
        depth = cv2.distanceTransform((mask > 127).astype(np.uint8), cv2.DIST_L2, 3) * (2 / thick)
        skin = np.array((220, 170, 140), np.float32) * np.float32(random.uniform(0.4, 1.1))
        shaded = skin * (0.65 + 0.35 * np.sqrt(np.clip(depth, 0, 1)))[..., None]
        opacity = cv2.GaussianBlur(mask, (0, 0), random.uniform(0.6, 4)).astype(np.float32)[..., None] / 255
        picture[:] = picture + (shaded - picture) * opacity
        covered |= (mask > 127).astype(np.uint8)
    return covered


def _distractors(random: Random, picture: Picture) -> None:
    """Straight edges, writing, blobs and capsules: things with rims that are no circles."""
    height, width = picture.shape[:2]
    for _ in range(random.integers(0, 7)):
        colour = [float(level) for level in random.uniform(0, 255, 3)]
        x, y = int(random.integers(width)), int(random.integers(height))
        size = int(random.integers(10, 140))
        kind = random.integers(6)
        if kind == 0:
            box = cv2.boxPoints(((x, y), (size, size * float(random.uniform(0.2, 1))), float(random.uniform(0, 90))))
            cv2.fillPoly(picture, [box.astype(np.int32)], colour, cv2.LINE_AA)
        elif kind == 1:
            words = "".join(random.choice(list("O0QCG8abcdeo69 BDSPR12345"), 8))
            scale = float(random.uniform(0.5, 3))
            _write(picture, words, (x - 40, y), scale, colour)
        elif kind == 2:
            corners = random.integers(3, 9)
            angles = np.sort(random.uniform(0, 2 * np.pi, corners))
            reach = random.uniform(0.3, 1, corners) * size
            points = np.stack([x + np.cos(angles) * reach, y + np.sin(angles) * reach], 1)
            cv2.fillPoly(picture, [points.astype(np.int32)], colour, cv2.LINE_AA)
        elif kind == 3:
            end = x + int(random.normal(0, 90)), y + int(random.normal(0, 90))
            cv2.line(picture, (x, y), end, colour, max(2, size // 2), cv2.LINE_AA)  # with round ends, like fingers
        elif kind == 4:
            angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
            orders = np.arange(2, 6)[:, None]
            wave = (random.normal(0, 0.25, (4, 1)) / orders * np.cos(orders * angles + orders)).sum(axis=0)
            reach = size * 0.6 * (1 + wave)
            points = np.stack([x + np.cos(angles) * reach, y + np.sin(angles) * reach], 1)
            cv2.fillPoly(picture, [points.astype(np.int32)], colour, cv2.LINE_AA)
        else:
            start = float(random.uniform(0, 360))
            turn = float(random.uniform(40, 170))
            cv2.ellipse(picture, (x, y), (size, size), 0, start, start + turn, colour, 2, cv2.LINE_AA)


def _write(picture: Picture, words: str, at: tuple[int, int], scale: float, colour: Sequence[float]) -> None:
    """Text; OpenCV writes on 8-bit pictures only."""
    mask = np.zeros(picture.shape[:2], np.uint8)
    cv2.putText(mask, words, at, cv2.FONT_HERSHEY_SIMPLEX, scale, 255, max(1, int(scale * 2)), cv2.LINE_AA)
    opacity = mask.astype(np.float32)[..., None] / 255
    picture[:] = picture * (1 - opacity) + np.asarray(colour[: picture.shape[2]], np.float32) * opacity


def _paint_coin(random: Random, picture: Picture, disc: Disc, light: float) -> None:
    shadow = Disc(
        disc.x - np.cos(light) * disc.radius * 0.05, disc.y - np.sin(light) * disc.radius * 0.05, disc.radius * 1.03
    )
    place, _, _, opacity = shadow.frame(picture.shape, 1.2)
    if opacity.size:
        soft = cv2.GaussianBlur(opacity, (0, 0), max(0.5, disc.radius * random.uniform(0.01, 0.06)))
        picture[place] *= 1 - soft[..., None] * np.float32(random.uniform(0, 0.6))
    place, u, v, opacity = disc.frame(picture.shape)
    if not opacity.size:
        return
    far = np.hypot(u, v)
    metal = np.asarray(METALS[random.integers(len(METALS))], np.float32) * np.float32(random.uniform(0.55, 1.15))
    height = np.zeros(far.shape, np.float32)
    rim = random.uniform(0.84, 0.97)
    height += ((far > rim) * random.uniform(0, 2.5)).astype(np.float32)
    if random.random() < 0.3:
        height += ((far < random.uniform(0.5, 0.75)) * random.uniform(-1, 1.5)).astype(np.float32)
    height += _relief(random, u, v, far, rim)
    height = cv2.GaussianBlur(height, (0, 0), max(0.5, disc.radius * random.uniform(0.008, 0.03)))
    slope_x, slope_y = cv2.Sobel(height, cv2.CV_32F, 1, 0), cv2.Sobel(height, cv2.CV_32F, 0, 1)
    shade = (slope_x * np.cos(light) + slope_y * np.sin(light)) * random.uniform(5, 45)
    gloss = (u * np.cos(light) + v * np.sin(light)) * random.uniform(-30, 30)
    grain = noise_of_grain(random, (far.shape[0], far.shape[1]), (3, 3)) * random.uniform(0, 8)
    face = metal + (shade + gloss + grain)[..., None]
    if random.random() < 0.12:  # of two metals
        face = np.where((far < random.uniform(0.6, 0.8))[..., None], face * random.uniform(0.7, 1.35), face)
    picture[place] += (face - picture[place]) * opacity[..., None]


def _relief(random: Random, u: Any, v: Any, far: Any, rim: float) -> Picture:
    """Portrait and writing, as heights."""
    height = np.zeros(far.shape, np.float32)
    for _ in range(random.integers(0, 9)):
        x, y = random.normal(0, 0.3, 2)
        wide, high = random.uniform(0.08, 0.45, 2)
        height += (np.hypot((u - x) / wide, (v - y) / high) < 1) * np.float32(random.uniform(-1, 1.5))
    if random.random() < 0.7:
        letters = np.sin(np.arctan2(v, u) * random.integers(12, 40) + np.sin(far * 60)) > 0.2
        band = (far > rim - 0.2) & (far < rim - 0.06)
        height += (letters & band) * np.float32(random.uniform(0.3, 1.5))
    flat_rim: Picture = (height * (far < rim)).astype(np.float32)
    return flat_rim


def _placed(
    random: Random, shape: tuple[int, int], count: int, radius: float, spread: float, overlap: float
) -> list[Disc]:
    """Discs of similar size; centres are at least `1 - overlap` of the radii's sum apart."""
    ratio, angle = (1.0, 0.0) if random.random() < 0.55 else (random.uniform(0.6, 1), random.uniform(-0.4, 0.4))
    inside = random.choice([1.1, 1.1, 0.3])  # 0.3: the picture's border may cut them
    discs: list[Disc] = []
    for _ in range(count * 12):
        if len(discs) == count:
            break
        size = float(np.clip(radius * np.exp(random.normal(0, spread)), 8, 240))
        room = min(size * inside, min(shape) * 0.49)
        near = discs[random.integers(len(discs))] if discs and random.random() < 0.5 else None
        if near is None:
            x, y = random.uniform(room, shape[1] - room), random.uniform(room, shape[0] - room)
        else:  # touching, where that is possible
            turn = random.uniform(0, 2 * np.pi)
            gap = (size + near.radius) * random.uniform(1 - overlap, 1.1)
            x, y = near.x + np.cos(turn) * gap, near.y + np.sin(turn) * gap * ratio
        apart = all(
            np.hypot(disc.x - x, (disc.y - y) / ratio) > (1 - overlap) * 0.999 * (disc.radius + size) for disc in discs
        )
        if apart and room <= x <= shape[1] - room and room <= y <= shape[0] - room:
            discs.append(Disc(float(x), float(y), size, float(ratio), float(angle)))
    return discs


def _truth(
    discs: Sequence[Disc], shape: tuple[int, int], covered: NDArray[np.uint8] | None = None
) -> NDArray[np.float64]:
    """Boxes, clipped to the picture, of the discs of which enough is visible; later ones lie on earlier ones."""
    owner = np.zeros(shape, np.int32)
    for number, disc in enumerate(discs, 1):
        place, _, _, opacity = disc.frame(shape)
        owner[place][opacity > 0.5] = number
    if covered is not None:
        owner[covered > 0] = 0
    boxes = []
    for number, disc in enumerate(discs, 1):
        area = np.pi * disc.radius**2 * disc.ratio
        if (owner == number).sum() >= VISIBLE_LEAST * area:
            boxes.append(np.clip(disc.box(), 0, [shape[1], shape[0], shape[1], shape[0]]))
    return np.array(boxes, np.float64).reshape(-1, 4)


def _taken(random: Random, picture: Picture, blur: float, noise: float) -> NDArray[np.uint8]:
    """The picture as a camera takes it."""
    if blur > 0.2:
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), blur), np.float32)
    picture = picture + random.normal(0, noise, picture.shape).astype(np.float32)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def coins(seed: int, *, count: int | None = None, overlap: float | None = None, distract: bool = True) -> Scene:
    """Coins on a table."""
    random = np.random.default_rng(seed)
    shape = (int(random.integers(300, 512)), 512) if random.random() < 0.75 else (512, int(random.integers(340, 512)))
    picture = _background(random, shape)
    if distract:
        _distractors(random, picture)
        if random.random() < 0.15:
            _fingers(random, picture)
        if random.random() < 0.4:
            picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), random.uniform(1, 7)), np.float32)
    number = int(random.choice([0, 1, 1, 1, 2, 3, 5, 7, 10, 16])) if count is None else count
    radius = random.uniform(0.3, 1) * min(230.0, 280 / np.sqrt(max(number, 1)))
    discs = _placed(
        random,
        shape,
        number,
        radius,
        random.uniform(0, 0.3),
        random.choice([0, 0, 0.1, 0.3, 0.45]) if overlap is None else overlap,
    )
    light = random.uniform(0, 2 * np.pi)
    for disc in discs:
        _paint_coin(random, picture, disc, light)
    covered = _fingers(random, picture) if distract and random.random() < 0.12 else None
    taken = _taken(random, picture, random.uniform(0, 1.6), random.choice([0.5, 2, 6]))
    if random.random() < 0.6:
        packed = cv2.imencode(".jpg", taken, [cv2.IMWRITE_JPEG_QUALITY, int(random.integers(50, 95))])[1]
        taken = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)
    return Scene(taken, _truth(discs, shape, covered))


def spheres(seed: int, *, count: int | None = None, bar: bool | None = None, noise: float | None = None) -> Scene:
    """Spheres with bright rims on a plain specimen, grey, with noise; with `bar`, a data bar below."""
    random = np.random.default_rng(seed)
    shape = (384, 512)
    picture = np.full(shape, random.uniform(20, 110), np.float32)
    picture += noise_of_grain(random, shape, (40, 40)) * random.uniform(0, 8)
    number = int(random.integers(3, 26)) if count is None else count
    radius = random.uniform(0.5, 1) * min(70.0, 200 / np.sqrt(max(number, 1)))
    discs = [
        Disc(disc.x, disc.y, disc.radius)
        for disc in _placed(random, shape, number, radius, random.uniform(0, 0.25), random.choice([0, 0.1, 0.25]))
    ]
    body, edge, pores = random.uniform(15, 90), random.uniform(10, 90), random.random() < 0.15
    for disc in discs:
        place, u, v, opacity = disc.frame(shape)
        far = np.hypot(u, v)
        tone = picture[place].mean() + (-body if pores else body) * random.uniform(0.8, 1.2)
        face = tone + edge * np.exp(-(1 - np.minimum(far, 1)) / 0.12) + (u + v) * random.uniform(-8, 8)
        picture[place] += (face - picture[place]) * opacity
    sigma = random.uniform(2, 22) if noise is None else noise
    taken = _taken(random, picture, random.uniform(0, 1.2), sigma)
    if random.random() < 0.5 if bar is None else bar:
        taken = np.vstack([taken, _data_bar(random, shape[1])])
    return Scene(taken, _truth(discs, shape))


def _data_bar(random: Random, width: int) -> NDArray[np.uint8]:
    bar = np.full((34, width), random.choice([0, 255]), np.uint8)
    ink = int(255 - bar[0, 0])
    words = f"{random.integers(1, 30)}.00 kV  x{random.integers(1, 99)},000  WD 8.0 mm  100 um"
    cv2.putText(bar, words, (8, 23), cv2.FONT_HERSHEY_SIMPLEX, 0.5, ink, 1, cv2.LINE_AA)
    cv2.line(bar, (width - 90, 18), (width - 20, 18), ink, 2)
    return bar
