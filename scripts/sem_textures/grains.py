"""Scenes made of separate bodies: particles on a substrate, a heap of powder, living things."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from PIL import Image

from sem_textures.sheet import SPRITE, Array, Points, Rng, Sheet, Size, clouds, outline, scatter, sprite_of


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
