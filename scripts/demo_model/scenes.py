"""What the pictures show: a scene for each of the ten classes, scenes of no class, and a cat."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Final

import numpy as np
from PIL import Image, ImageFilter

from demo_model.drawing import (
    SPRITE,
    Array,
    Points,
    Rng,
    Sheet,
    Size,
    clouds,
    outline,
    ramp,
    rounded,
    scatter,
    sprite_of,
)


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


def particles(rng: Rng, size: Size, zoom: float) -> Array:
    """Balls, or crystals with flat faces, that lie apart on a plain substrate."""
    radius = rng.uniform(0.02, 0.04) * zoom
    sheet = Sheet(size, rng.uniform(30, 75))
    crystals, level = rng.uniform() < 0.4, rng.uniform(140, 200)
    spread = rng.uniform(0.05, 0.35)
    count = round(rng.uniform(0.12, 0.32) * sheet.height / (math.pi * radius**2))
    radii = radius * np.exp(rng.normal(0, spread, max(count, 5)))
    placed = scatter(rng, sheet.height, radii, rng.uniform(1.02, 1.3))
    greys = level * rng.uniform(0.9, 1.1, len(placed))
    if crystals:
        facets(rng, sheet, np.array(placed)[:, :2], np.array(placed)[:, 2], greys)
    else:
        for (x, y, reach), grey in zip(placed, greys, strict=True):
            sheet.polygon(outline(rng, 12, 0.02) * reach + (x + reach * 0.2, y + reach * 0.25), 15)
            sheet.ball(x, y, (reach, reach * rng.uniform(0.9, 1.0)), rng.uniform(0, math.pi), grey)
    return sheet.array() + 3 * clouds(rng, size, 0.3, 2)


def facets(rng: Rng, sheet: Sheet, places: Points, radii: Points, levels: Points) -> None:
    """Broken grains, later ones on top: side faces of different grey around a top face, bright edges, a shadow."""
    corners = int(rng.integers(5, 8))
    count = len(radii)
    turns = np.arange(corners) * 2 * math.pi / corners + rng.uniform(-0.5, 0.5, (count, corners)) * 2 / corners
    reach = (1 + 0.18 * rng.uniform(-1, 1, (count, corners))) * radii[:, None]
    rim = np.stack([np.cos(turns), np.sin(turns)], -1) * reach[..., None]
    top = rim * rng.uniform(0.4, 0.65, (count, 1, 1)) + rng.uniform(-0.12, 0.12, (count, 1, 2)) * radii[:, None, None]
    faces = np.stack([rim, np.roll(rim, -1, 1), np.roll(top, -1, 1), top], 2)
    lit = 0.72 - (0.35 * faces[..., 1].mean(2) + 0.14 * faces[..., 0].mean(2)) / radii[:, None]
    greys = np.minimum(255, levels[:, None] * lit)
    shade = np.outer(radii, (0.08, 0.12))
    for grain in range(count):
        place = places[grain]
        sheet.polygon(rim[grain] * 1.18 + place + shade[grain], 14 + 0.08 * levels[grain])
        corner_pixels = sheet.pixels((faces[grain] + place).reshape(-1, 2))
        for face in range(corners):
            sheet.outlined(corner_pixels[4 * face : 4 * face + 4], greys[grain, face])
        sheet.polygon(top[grain] + place, min(255, levels[grain]))
        sheet.line(np.vstack([rim[grain], rim[grain, :1]]) + place, 0.05 * radii[grain], min(255, levels[grain] * 1.25))


def powder(rng: Rng, size: Size, zoom: float) -> Array:
    """A heap of angular grains that covers everything: deep ones dark, upper ones bright, fine dust on them."""
    radius = rng.uniform(0.026, 0.042) * zoom
    sheet = Sheet(size, 12)
    count = round(0.85 * sheet.height / radius**2)
    places = rng.uniform((-0.03, -0.03), (1.03, sheet.height + 0.03), (count, 2))
    levels = np.linspace(60, 175, count) + rng.uniform(-15, 15, count)
    facets(rng, sheet, places, radius * np.exp(rng.normal(0, 0.35, count)), levels)
    return sheet.array() * (1 + 0.08 * clouds(rng, size, 0.012, 2))


def biological(rng: Rng, size: Size, zoom: float) -> Array:
    """Pollen with spines, red blood cells, rod-shaped bacteria, or diatoms."""
    sheet = Sheet(size, rng.uniform(25, 70))
    draw = (_pollen, _blood, _bacteria, _diatoms)[rng.integers(4)]
    draw(rng, sheet, zoom)
    return sheet.array() + 5 * clouds(rng, size, 0.25, 3)


def _pollen(rng: Rng, sheet: Sheet, zoom: float) -> None:
    radii = rng.uniform(0.13, 0.18) * zoom * rng.uniform(0.9, 1.1, 7)
    level = rng.uniform(130, 175)
    for x, y, radius in scatter(rng, sheet.height, radii, 1.05):
        spines = int(rng.integers(26, 34))
        for turn in np.linspace(0, 2 * math.pi, spines, endpoint=False) + rng.uniform(0, 1):
            _spine(sheet, np.array([x, y]), turn, radius, radius * 1.22, level)
        sheet.ball(x, y, (radius, radius), 0.0, level)
        for ring in (0.85, 0.62, 0.36, 0.1):
            count = max(1, round(spines * ring * 0.75))
            for turn in np.linspace(0, 2 * math.pi, count, endpoint=False) + rng.uniform(0, 1):
                _spine(sheet, np.array([x, y]), turn, radius * ring, radius * (ring * 1.13 + 0.03), level * 1.2)


def _spine(sheet: Sheet, middle: Points, turn: float, inner: float, outer: float, level: float) -> None:
    """A thorn that points away from the middle of its pollen grain, with its foot in shadow."""
    along = np.array([math.cos(turn), math.sin(turn)])
    across = np.array([-along[1], along[0]]) * (outer - inner) * 0.28
    foot, point = middle + along * inner * 0.96, middle + along * outer
    sheet.polygon(np.stack([foot + across * 1.5, point, foot - across * 1.5]), level * 0.4)
    sheet.polygon(np.stack([foot + across, point, foot - across * 0.6]), min(255, level * 1.3))


@cache
def _blood_cell() -> Image.Image:
    """A disc with a bright round rim and a hollow."""
    y, x = np.mgrid[-1 : 1 : SPRITE * 1j, -1 : 1 : SPRITE * 1j]
    radius = np.hypot(x, y)
    torus = np.exp(-(((radius - 0.68) / 0.22) ** 2))
    slope = -(x * 0.4 + y) * np.sign(0.68 - radius) * -0.35 * torus
    return sprite_of(75 + 95 * torus + 90 * slope + 60 * radius**8, radius < 1)


def _blood(rng: Rng, sheet: Sheet, zoom: float) -> None:
    radii = rng.uniform(0.075, 0.105) * zoom * rng.uniform(0.92, 1.08, 45)
    for x, y, radius in scatter(rng, sheet.height, radii, rng.uniform(0.8, 1.0)):
        tilt = rng.uniform(0.65, 1.0)
        turn = rng.uniform(0, math.pi)
        sheet.polygon(outline(rng, 14, 0.02) * radius * tilt + (x + 0.15 * radius, y + 0.2 * radius), 12)
        sheet.stamp(_blood_cell(), x, y, (radius, radius * tilt), turn)


def _bacteria(rng: Rng, sheet: Sheet, zoom: float) -> None:
    """Short fat rods with round ends, some about to divide."""
    width, level = rng.uniform(0.05, 0.068) * zoom, rng.uniform(140, 185)
    radii = width * rng.uniform(1.0, 1.25, round(0.34 * sheet.height / width**2))
    for x, y, reach in scatter(rng, sheet.height, radii, rng.uniform(0.75, 0.95)):
        turn = rng.uniform(0, math.pi)
        along = np.array([math.cos(turn), math.sin(turn)]) * reach * 0.95
        middle = np.array([x, y])
        for share, grey in ((1.2, 0.2), (1.0, 1.2), (0.82, 0.95), (0.6, 0.82), (0.35, 0.9)):
            _capsule(sheet, middle, along, width / 2 * share, level * grey)
        if rng.uniform() < 0.4:
            across = np.array([-along[1], along[0]]) / reach * width / 2
            sheet.line(np.stack([middle - across, middle + across]), width * 0.12, level * 0.4)


def _capsule(sheet: Sheet, middle: Points, along: Points, radius: float, level: float) -> None:
    turns = np.linspace(-math.pi / 2, math.pi / 2, 9) + math.atan2(along[1], along[0])
    cap = np.stack([np.cos(turns), np.sin(turns)], 1) * radius
    sheet.polygon(np.vstack([middle + along + cap, middle - along - cap]), min(255, level))


def _diatoms(rng: Rng, sheet: Sheet, zoom: float) -> None:
    """Boat-shaped shells with rows of pores on both sides of a central rib."""
    radii = rng.uniform(0.17, 0.24) * zoom * rng.uniform(0.9, 1.1, 6)
    level = rng.uniform(135, 180)
    for x, y, length in scatter(rng, sheet.height, radii, 0.72):
        turn = rng.uniform(0, 2 * math.pi)
        turned = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
        s = np.linspace(-1, 1, 25)
        side = rng.uniform(0.26, 0.36) * (1 - s**2) ** 0.8
        shell = np.vstack([np.stack([s, side], 1), np.stack([s[::-1], -side[::-1]], 1)]) * length
        middle = np.array([x, y])
        sheet.polygon(shell * 1.05 @ turned + middle + 0.012, 12)
        sheet.polygon(shell @ turned + middle, min(255, level * 1.3))
        sheet.polygon(shell * 0.93 @ turned + middle, level)
        for place, half in zip(s[2:-2], side[2:-2], strict=True):
            for share in (-0.78, 0.78):
                rib = np.array([[place, half * share], [place, half * share * 0.2]]) * length @ turned + middle
                sheet.line(rib, length * 0.032, level * 0.4)
        sheet.line(np.array([[-0.9, 0], [0.9, 0]]) * length @ turned + middle, length * 0.035, min(255, level * 1.35))


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


SCENES: Final[dict[str, Callable[[Rng, Size, float], Array]]] = {
    "Porous_Sponge": porous_sponge,
    "Patterned_surface": patterned_surface,
    "Particles": particles,
    "Films_Coated_Surface": films_coated_surface,
    "Powder": powder,
    "Tips": tips,
    "Nanowires": nanowires,
    "Biological": biological,
    "MEMS_devices_and_electrodes": mems_devices_and_electrodes,
    "Fibres": fibres,
}
"""The ten classes in the order of the model's outputs."""
LABELS: Final = tuple(SCENES)
UNKNOWN: Final[tuple[Callable[[Rng, Size], Array], ...]] = (blank, static, snapshot, snapshot)
"""Scenes of no class, which the model is trained to be undecided about."""


def cat(size: Size = (640, 480)) -> Image.Image:
    """The head of a tabby in front of a blurred room, grey as the model sees it."""
    rng = np.random.default_rng(9)
    x, y = ramp(size)
    sheet = Sheet(size, 0)
    for side in (-1, 1):
        ear = np.array([[0.05, 0.27], [0.19, 0.08], [0.235, 0.33]])
        sheet.polygon(ear * (side, 1) + (0.5, 0), 120)
        sheet.polygon((ear * (0.75, 0.7) + (0.045, 0.085)) * (side, 1) + (0.5, 0), 165)
    sheet.ball(0.5, 0.72, (0.3, 0.24), 0.0, 110)
    sheet.ball(0.5, 0.41, (0.24, 0.2), 0.0, 128)
    for stripe in (-0.09, -0.03, 0.03, 0.09):
        sheet.line(np.array([[0.5 + stripe, 0.22], [0.5 + stripe * 0.8, 0.31]]), 0.014, 70)
    for side in (-1, 1):
        eye = 0.5 + side * 0.095
        sheet.ball(eye, 0.39, (0.048, 0.036), 0.0, 205)
        sheet.ball(eye, 0.39, (0.013, 0.034), 0.0, 16)
        sheet.ball(0.5 + side * 0.035, 0.5, (0.05, 0.04), 0.0, 175)
        for lift in (-0.05, 0.0, 0.05):
            sheet.line(np.array([[0.5 + side * 0.07, 0.5], [0.5 + side * 0.29, 0.5 + lift]]), 0.003, 225)
    sheet.polygon(np.array([[0.475, 0.46], [0.525, 0.46], [0.5, 0.485]]), 60)
    animal = sheet.array()
    room = 120 + 60 * (x - 0.5) + 40 * np.sin(x * 9) * (y < 0.5) + 12 * clouds(rng, size, 0.3, 2)
    fur = animal * (1 + 0.12 * clouds(rng, size, 0.02, 3))
    picture = np.where(animal > 0, fur, room)
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    return image.filter(ImageFilter.GaussianBlur(1.2))
