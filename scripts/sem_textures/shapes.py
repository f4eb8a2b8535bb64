"""Scenes made of long or built things: tips, nanowires, devices, fibres."""

from __future__ import annotations

import math

import numpy as np

from sem_textures.sheet import Array, Points, Rng, Sheet, Size, clouds, ramp


def tips(rng: Rng, size: Size, zoom: float) -> Array:
    """Sharp needles that reach into dark vacuum, or the pyramid at the end of a cantilever."""
    x, y = ramp(size)
    turn = rng.choice([0, math.pi / 2, math.pi, -math.pi / 2]) + rng.uniform(-0.35, 0.35)
    sheet = Sheet(size, rng.uniform(12, 45), turn)
    if rng.uniform() < 0.3:
        _cantilever(rng, sheet, zoom)
    else:
        count = int(rng.choice([1, 1, 1, 2, 3]))
        pitch = rng.uniform(0.26, 0.34) * zoom
        for index in range(count):
            _needle(rng, sheet, 0.5 + (index - (count - 1) / 2) * pitch + rng.uniform(-0.04, 0.04), zoom, count)
    glow = rng.uniform(0, 16) * (x * rng.uniform(-1, 1) + y * rng.uniform(-1, 1))
    return np.asarray(sheet.array() * (1 + 0.04 * clouds(rng, size, 0.02, 2)) + glow, np.float32)


def _needle(rng: Rng, sheet: Sheet, x: float, zoom: float, count: int) -> None:
    """A cone that comes in from one side of the field and ends near the middle in a point."""
    apex = sheet.height / 2 + rng.uniform(-0.22, 0.08)
    base = rng.uniform(0.1, 0.2) * zoom / (1 if count == 1 else 1.7)
    shank = apex + rng.uniform(0.3, 0.75) * zoom
    power, level = rng.uniform(0.85, 1.5), rng.uniform(135, 200)
    along = np.linspace(0, 1, 24)
    half = np.maximum(base * along**power, 0.004)
    depth = apex + (shank - apex) * along
    depth, half = np.append(depth, 1.6), np.append(half, half[-1] * 1.05)
    for share, grey in ((1.0, 1.3), (0.9, 1.0), (0.72, 0.85), (0.5, 0.75), (0.25, 0.82)):
        lean = (1 - share) * 0.25 * half
        left, right = np.stack([x - half * share - lean, depth], 1), np.stack([x + half * share - lean, depth], 1)
        sheet.polygon(np.vstack([left, right[::-1]]), min(255, level * grey))


def _cantilever(rng: Rng, sheet: Sheet, zoom: float) -> None:
    """A flat beam seen from above, with a four-sided pyramid close to its free end."""
    half, end = rng.uniform(0.14, 0.2) * zoom, sheet.height / 2 - rng.uniform(0.1, 0.22)
    level = rng.uniform(95, 135)
    nose = half * rng.uniform(0.3, 1.0)
    beam = np.array([[0.5 - half, 1.7], [0.5 - half, end + nose], [0.5 - half * 0.3, end]])
    beam = np.vstack([beam, (beam * (-1, 1) + (1, 0))[::-1]])
    sheet.polygon(beam + np.array([0.01, 0.014]), level * 0.5)
    sheet.polygon(beam, level)
    sheet.line(np.vstack([beam, beam[:1]]), 0.007, min(255, level * 1.7))
    foot = half * rng.uniform(0.55, 0.75)
    middle = np.array([0.5, end + nose * 0.5 + foot * 1.2])
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * foot + middle
    point = middle + rng.uniform(-0.3, 0.3, 2) * foot
    for side, grey in enumerate((1.75, 1.3, 0.7, 1.1)):
        sheet.polygon(np.stack([corners[side], corners[(side + 1) % 4], point]), min(255, level * grey))
    sheet.polygon(np.array([[-1, -1], [1, -1], [0, 1]]) * 0.012 * zoom + point, 255)


def nanowires(rng: Rng, size: Size, zoom: float) -> Array:
    """Many thin straight wires: strewn in all directions, combed one way, or a forest that stands on its substrate."""
    sheet = Sheet(size, rng.uniform(18, 50))
    width, level = rng.uniform(0.0065, 0.0095) * zoom, rng.uniform(150, 215)
    kind = rng.integers(3)
    spread = (math.pi, rng.uniform(0.12, 0.3), rng.uniform(0.06, 0.16))[kind]
    main = math.pi / 2 if kind == 2 else rng.uniform(0, math.pi)
    count = round(rng.uniform(55, 105) / max(zoom, 0.3) ** 1.3) * (2 if kind == 2 else 1)
    starts = rng.uniform((-0.1, -0.1), (1.1, sheet.height + 0.1), (count, 2))
    for start in starts[np.argsort(starts[:, 1])]:
        turn = main + rng.uniform(-spread, spread)
        length = rng.uniform(0.15, 0.5) * min(zoom, 1.2)
        grey = level * rng.uniform(0.55, 1.0)
        path = start + np.outer((-0.5, 0.5), (math.cos(turn), math.sin(turn))) * length
        sheet.line(path + width * 0.6, width * 1.4, 10)
        sheet.line(path, width, min(255, grey * 1.15))
        if kind == 2:
            end = path[0]
            sheet.ball(end[0], end[1], (width * 1.0, width * 1.0), 0.0, 240)
    return sheet.array() + 4 * clouds(rng, size, 0.2, 2)


def fibres(rng: Rng, size: Size, zoom: float) -> Array:
    """Thick round threads that bend and cross the whole field: a loose web, or a bundle in one direction."""
    sheet = Sheet(size, rng.uniform(8, 35))
    width, level = rng.uniform(0.035, 0.075) * zoom, rng.uniform(125, 180)
    bundle = rng.uniform() < 0.35
    main, spread = rng.uniform(0, math.pi), (0.22 if bundle else math.pi / 2)
    count = round(rng.uniform(0.9, 1.5) / width * (1.0 if bundle else 0.8))
    for rank in range(count):
        path = _thread(rng, sheet, main + rng.uniform(-spread, spread))
        sheet.tube(path, width * rng.uniform(0.8, 1.2), level * (0.5 + 0.5 * rank / count))
    return sheet.array() * (1 + 0.04 * clouds(rng, size, 0.015, 2))


def _thread(rng: Rng, sheet: Sheet, turn: float) -> Points:
    """A wavy line through the field from border to border."""
    s = np.linspace(-0.9, 0.9, 22)
    wave = rng.uniform(0.04, 0.13) * np.sin(s * rng.uniform(2.5, 5.5) + rng.uniform(0, 7))
    bend = wave + rng.uniform(-0.25, 0.25) * s**2
    middle = np.array([0.5, sheet.height / 2])
    along = np.array([math.cos(turn), math.sin(turn)])
    across = np.array([-along[1], along[0]])
    return middle + np.outer(s, along) + np.outer(bend + rng.uniform(-0.55, 0.55), across)


def mems_devices_and_electrodes(rng: Rng, size: Size, zoom: float) -> Array:
    """Straight-edged metal on a plain chip: pads with leads, comb drives, folded springs, plates with release holes."""
    turn = rng.choice([0, math.pi / 2, math.pi, -math.pi / 2]) + rng.normal(0, 0.12)
    sheet = Sheet(size, rng.uniform(40, 80), turn)
    level = rng.uniform(140, 190)
    middle = sheet.height / 2
    draw = (_comb_drive, _electrodes, _spring_plate)[rng.integers(3)]
    draw(rng, sheet, middle + rng.uniform(-0.05, 0.05), zoom, level)
    return sheet.array() + 3 * clouds(rng, size, 0.01, 1) + 4 * clouds(rng, size, 0.4, 1)


def _metal(sheet: Sheet, x: float, y: float, width: float, height: float, level: float) -> None:
    """A raised rectangle: shadow on one side, bright edges."""
    sheet.box(x + 0.008, y + 0.01, width, height, 12)
    sheet.box(x, y, width, height, min(255, level * 1.35))
    sheet.box(x, y, max(width - 0.009, 0.003), max(height - 0.009, 0.003), level)


def _comb_drive(rng: Rng, sheet: Sheet, middle: float, zoom: float, level: float) -> None:
    """Two combs whose fingers reach between each other, each with its lead and pad."""
    fingers, pitch = int(rng.integers(6, 10)), rng.uniform(0.055, 0.072) * zoom
    length, span = rng.uniform(0.16, 0.24) * zoom, fingers * pitch
    x, reach = 0.5 + rng.uniform(-0.06, 0.06), length * rng.uniform(0.25, 0.45)
    for index in range(2 * fingers):
        side = -1 if index % 2 else 1
        place = x + (index - fingers + 0.5) * pitch / 2
        _metal(sheet, place, middle + side * reach * 0.6, pitch * 0.26, length, level)
    for side in (-1, 1):
        bar = middle + side * (reach * 0.6 + length / 2)
        _metal(sheet, x, bar, span * 1.1, 0.05 * zoom, level)
        _metal(sheet, x + side * span * 0.2, bar + side * 0.12 * zoom, 0.05 * zoom, 0.22 * zoom, level)
        _metal(sheet, x + side * span * 0.2, bar + side * 0.3 * zoom, 0.26 * zoom, 0.2 * zoom, level)


def _electrodes(rng: Rng, sheet: Sheet, middle: float, zoom: float, level: float) -> None:
    """Square pads on two sides, each with a lead that bends towards a small device in the middle."""
    pads, pad = int(rng.integers(2, 4)), rng.uniform(0.15, 0.19) * zoom
    for side in (-1, 1):
        for index in range(pads):
            y = middle + (index - (pads - 1) / 2) * pad * 1.5
            x, bend = 0.5 + side * rng.uniform(0.32, 0.36) * zoom, 0.5 + side * rng.uniform(0.13, 0.17) * zoom
            inner = middle + (index - (pads - 1) / 2) * 0.06 * zoom
            _metal(sheet, (x + bend) / 2, y, abs(x - bend), 0.028 * zoom, level)
            _metal(sheet, bend, (y + inner) / 2, 0.028 * zoom, abs(y - inner) + 0.028 * zoom, level)
            _metal(sheet, (bend + 0.5 + side * 0.02) / 2, inner, abs(bend - 0.5), 0.022 * zoom, level)
            _metal(sheet, x, y, pad, pad, level)
            sheet.box(x, y, pad * 0.7, pad * 0.7, level * 0.8)
    sheet.box(0.5, middle, 0.07 * zoom, 0.12 * zoom, level * 0.5)


def _spring_plate(rng: Rng, sheet: Sheet, middle: float, zoom: float, level: float) -> None:
    """A plate with release holes that hangs on two folded springs between anchors."""
    width, height = rng.uniform(0.28, 0.36) * zoom, rng.uniform(0.2, 0.28) * zoom
    _metal(sheet, 0.5, middle, width, height, level)
    holes = int(rng.integers(3, 5))
    for x in (np.arange(holes) - (holes - 1) / 2) * width / holes:
        for y in (np.arange(holes) - (holes - 1) / 2) * height / holes:
            sheet.box(0.5 + x, middle + y, 0.022 * zoom, 0.022 * zoom, 20)
    for side in (-1, 1):
        for fold in range(4):
            x = 0.5 + side * (width / 2 + (fold + 0.5) * 0.042 * zoom)
            _metal(sheet, x, middle, 0.013 * zoom, height * 0.8, level)
            end = middle + (height * 0.4 if fold % 2 else -height * 0.4)
            _metal(sheet, x + side * 0.021 * zoom, end, 0.055 * zoom, 0.014 * zoom, level)
        _metal(sheet, 0.5 + side * (width / 2 + 0.28 * zoom), middle, 0.15 * zoom, height * 1.15, level)
