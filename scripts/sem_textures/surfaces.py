"""Scenes that fill the whole field: sponge, periodic pattern, film."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from sem_textures.sheet import Array, Rng, Sheet, Size, clouds, outline, ramp, rounded, scatter


def porous_sponge(rng: Rng, size: Size, zoom: float) -> Array:
    """Walls around open pores of many sizes; through the pores the next walls, darker, and behind them black."""
    pore = rng.uniform(0.03, 0.052) * zoom
    picture = np.full((size[1], size[0]), rng.uniform(5, 25), np.float32)
    for depth in (1, 0):
        wall = rng.uniform(150, 205) * 0.5**depth
        sheet = Sheet(size, 0)
        holes = Sheet(size, 255)
        radii = -np.sort(-pore * np.exp(rng.normal(0, 0.42, round(0.48 / pore**2))))
        for x, y, radius in scatter(rng, sheet.height, radii, 0.86, tries=4):
            shape = rounded(outline(rng, 9, 0.3)) * (radius, radius * rng.uniform(0.75, 1.0)) + (x, y)
            middle = shape.mean(0)
            sheet.polygon(middle + (shape - middle) * 1.16, 255)
            holes.polygon(shape, 0)
        lumps = 1 + 0.1 * clouds(rng, size, pore * 1.5, 3)
        near = wall * lumps + sheet.array() * 0.16 * 0.6**depth
        picture = np.where(holes.array() > 0, near, picture)
    return picture


def patterned_surface(rng: Rng, size: Size, zoom: float) -> Array:
    """A lattice of one element, repeated over the whole field: lines, dots, holes, squares, crosses or rings."""
    pitch = rng.uniform(0.055, 0.12) * zoom
    angle = rng.uniform(0, math.pi)
    x, y = ramp(size)
    u = (x * math.cos(angle) + y * math.sin(angle)) / pitch + rng.uniform()
    v = (y * math.cos(angle) - x * math.sin(angle)) / pitch + rng.uniform()
    kind = int(rng.integers(6))
    if kind in (1, 2) and rng.uniform() < 0.5:
        v = v / np.float32(math.sqrt(3) / 2)
        u = u + 0.5 * np.mod(np.floor(v), 2)
    u, v = np.abs(np.mod(u, 1) - 0.5), np.abs(np.mod(v, 1) - 0.5)
    duty = rng.uniform(0.22, 0.32)
    distance = _element(kind, u, v, duty)
    floor, top = rng.uniform(30, 80), rng.uniform(130, 185)
    edge = rng.uniform(0.03, 0.06)
    raised = np.clip(0.5 - distance / 0.05, 0, 1)
    rim = np.exp(-((distance / edge) ** 2)) * rng.uniform(30, 80)
    return np.asarray((floor + (top - floor) * raised + rim) * (1 + 0.03 * clouds(rng, size, 0.02, 2)), np.float32)


def _element(kind: int, u: Array, v: Array, duty: float) -> Array:
    """Signed distance to the lattice's element, negative inside it; `u` and `v` lead away from its middle."""
    radius = np.hypot(u, v)
    match kind:
        case 0:  # line
            return u - duty
        case 1:  # dot
            return radius - duty * 1.2
        case 2:  # hole
            return duty * 1.2 - radius
        case 3:  # square
            return np.maximum(u, v) - duty * 1.1
        case 4:  # cross
            return np.maximum(np.minimum(u, v) - duty * 0.45, np.maximum(u, v) - duty * 1.5)
        case _:  # ring
            return np.abs(radius - duty) - 0.09


def films_coated_surface(rng: Rng, size: Size, zoom: float) -> Array:
    """A fine-grained layer: cracked as dry mud, scratched and pitted, cut across, or peeling from what it covers."""
    film = rng.uniform(120, 175) + 5 * clouds(rng, size, 0.012, 2) + 5 * clouds(rng, size, 0.35, 2)
    draw = (_cracked, _scratched, _cut_across, _peeling)[rng.integers(4)]
    return draw(rng, size, zoom, film)


def _plates(rng: Rng, size: Size, cell: float) -> tuple[Array, Array]:
    """Distance to the nearest border between cells, in field units, and a random number per cell."""
    small = (256, max(1, round(256 * size[1] / size[0])))
    x, y = ramp(small)
    x = x + 0.09 * cell * clouds(rng, small, cell * 0.7, 2)
    y = y + 0.09 * cell * clouds(rng, small, cell * 0.7, 2)
    spots = scatter(rng, size[1] / size[0], np.full(round(1.6 / cell**2), cell / 2), 0.72)
    nearest = np.full(x.shape, 9.0, np.float32)
    second = nearest.copy()
    shade = np.zeros_like(nearest)
    for spot_x, spot_y, _ in spots:
        distance = np.hypot(x - spot_x, y - spot_y)
        second = np.minimum(second, np.maximum(nearest, distance))
        shade = np.where(distance < nearest, rng.standard_normal(), shade).astype(np.float32)
        nearest = np.minimum(nearest, distance)
    border = Image.fromarray(second - nearest).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(border), np.asarray(Image.fromarray(shade).resize(size, Image.Resampling.BILINEAR))


def _cracked(rng: Rng, size: Size, zoom: float, film: Array) -> Array:
    border, shade = _plates(rng, size, rng.uniform(0.17, 0.3) * zoom)
    width = rng.uniform(0.008, 0.016) * zoom
    crack = np.clip(1.4 - border / width, 0, 1)
    lip = np.exp(-(((border - 2.0 * width) / (0.7 * width)) ** 2)) * 22
    return np.asarray((film + 4 * shade + lip) * (1 - 0.85 * crack), np.float32)


def _scratched(rng: Rng, size: Size, zoom: float, film: Array) -> Array:
    sheet = Sheet(size, 128)
    for _ in range(rng.integers(3, 7)):
        start, turn = rng.uniform((-0.1, 0), (1.1, sheet.height)), rng.uniform(0, math.pi)
        path = start + np.outer(np.linspace(-1, 1, 5) * rng.uniform(0.3, 1), (math.cos(turn), math.sin(turn)))
        width = rng.uniform(0.004, 0.009) * zoom
        sheet.line(path + np.array([0, width]), width, 170)
        sheet.line(path, width, 60)
    for x, y, radius in scatter(rng, sheet.height, rng.uniform(0.006, 0.014, rng.integers(8, 26)) * zoom, 2.5):
        shape = rounded(outline(rng, 8, 0.3)) * radius + (x, y)
        sheet.polygon(shape + np.array([0, radius * 0.4]), 175)
        sheet.polygon(shape, 35)
    return film + sheet.array() - 128


def _cut_across(rng: Rng, size: Size, zoom: float, film: Array) -> Array:
    """The broken edge: dark vacuum, then two or three layers of unequal thickness, the film with columns."""
    x, y = ramp(size)
    lean, height = rng.uniform(-0.25, 0.25), size[1] / size[0]
    depth = y + lean * (x - 0.5) + 0.006 * clouds(rng, size, 0.06, 2) - rng.uniform(0.12, 0.28) * height
    layers = np.cumsum(rng.uniform(0.09, 0.2, 2)) * zoom
    columns = Image.fromarray(rng.standard_normal((2, round(90 / zoom)), dtype=np.float32))
    grain = np.asarray(columns.resize(size, Image.Resampling.BICUBIC))
    picture = np.where(depth < layers[0], film + 28 + 16 * grain, film * 0.62)
    picture = np.where(depth > layers[1], film * rng.uniform(0.75, 0.9), picture)
    for border in (0.0, *layers):
        picture = picture + 55 * np.exp(-(((depth - border) / 0.005) ** 2))
    return np.asarray(np.where(depth < 0, rng.uniform(8, 30), picture), np.float32)


def _peeling(rng: Rng, size: Size, zoom: float, film: Array) -> Array:
    """Islands where the film has come off, with a bright curled edge and a shadow."""
    field = clouds(rng, size, rng.uniform(0.3, 0.45) * zoom, 3)
    field = field - np.quantile(field[::8, ::8], rng.uniform(0.6, 0.75))
    bare = np.clip(field / 0.04, 0, 1)
    lip = np.exp(-(((field + 0.05) / 0.06) ** 2)) * 60
    shadow = np.exp(-(((field - 0.12) / 0.09) ** 2)) * 45
    return np.asarray(film * (1 - 0.55 * bare) + lip - shadow, np.float32)
