"""Finds circles and ellipses in a picture: candidates, their refinement, and the choice among those that overlap."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from serve_app.models.circle_arcs import edge_chains
from serve_app.models.circle_arcs import ellipses as ellipses_of
from serve_app.models.circle_features import SIDE, Ellipses, Fields, boxes_of, features, fields, refined
from serve_app.models.circle_score import scores

SMALLEST_SIDE: Final = 24
"""A working picture with a shorter side holds no circle that could be told from noise."""
LEAST_RADIUS: Final = 7.0
SAME: Final = 0.9
"""Intersection over union of boxes from which two candidates are one."""
OVERLAP_MOST: Final = 0.55
INSIDE_MOST: Final = 0.8
BAR_FROM: Final = 0.84
BAR_TO: Final = 0.97
LEVELS: Final = 8


def without_bar(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture above the data bar of a microscope: a bar starts at a sharp horizontal line in the lowest part, and
    one grey level fills most of what is below."""
    height = len(pixels)
    start = int(BAR_FROM * height)
    grey = pixels[max(start - 1, 0) :].astype(np.int16)
    grey = grey.mean(axis=2).astype(np.int16) if grey.ndim == 3 else grey
    if len(grey) < 4:
        return pixels
    for row in np.flatnonzero((np.abs(np.diff(grey, axis=0)) > LEVELS).mean(axis=1) >= 0.6) + 1:
        below = grey[row:]
        if start - 1 + row > BAR_TO * height or len(below) < 2:
            break
        plain = np.abs(below - np.median(below)) <= LEVELS
        if plain.mean() >= 0.6 and plain.mean(axis=1).min() >= 0.3:
            return pixels[: max(start - 1, 0) + row]
    return pixels


def resized(pixels: NDArray[np.uint8], longest: int, enlarge: bool) -> NDArray[np.uint8]:
    """The picture with its longest side at `longest`; smaller ones stay as they are unless `enlarge`."""
    import cv2

    height, width = pixels.shape[:2]
    scale = longest / max(height, width)
    if scale == 1 or (scale > 1 and not enlarge):
        return pixels
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(
        cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR), np.uint8
    )


def channels(rgb: NDArray[np.uint8], field: Fields) -> list[NDArray[np.uint8]]:
    """The grey pictures in which candidates are looked for: lightness, difference from the background, saturation."""
    import cv2

    grey = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8)
    distance = np.sqrt(((field.lab - field.background) ** 2).sum(axis=2))
    unlike = np.clip(3 * distance, 0, 255).astype(np.uint8)
    if (rgb[..., :1] == rgb).all():
        return [grey, unlike]
    return [grey, unlike, np.ascontiguousarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)[..., 1])]


def candidates(rgb: NDArray[np.uint8], field: Fields) -> tuple[Ellipses, NDArray[np.uint8]]:
    """All ellipses worth a closer look, from each channel at half the size and from the first two at full size; and a
    mask of the edges of those two."""
    import cv2

    found, edges = [], np.zeros(field.shape, np.uint8)
    for number, grey in enumerate(channels(rgb, field)):
        half = np.asarray(cv2.resize(grey, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), np.uint8)
        found.append(ellipses_of(edge_chains(half)) * [2, 2, 2, 2, 1] + [0.5, 0.5, 0, 0, 0])
        if number < 2:
            chains = edge_chains(grey)
            found.append(ellipses_of(chains))
            for chain in chains:
                edges[chain[:, 1], chain[:, 0]] = 1
    return np.concatenate(found), edges


def overlaps(boxes: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Intersection over union, and over the smaller area, of each box with each."""
    corner = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    other = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    common = np.clip(other - corner, 0, None).prod(axis=2)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    union = np.maximum(area[:, None] + area[None] - common, 1e-9)
    return common / union, common / np.maximum(np.minimum(area[:, None], area[None]), 1e-9)


def merged(ellipses: Ellipses) -> tuple[Ellipses, NDArray[np.float64]]:
    """One ellipse of each group of nearly equal ones (its median), and how many there were."""
    if not len(ellipses):
        return ellipses, np.zeros(0)
    same = overlaps(boxes_of(ellipses))[0] > SAME
    order = np.argsort(-same.sum(axis=1), kind="stable")
    free = np.ones(len(ellipses), bool)
    kept, counts = [], []
    for place in order:
        if free[place]:
            group = same[place] & free
            kept.append(place)
            counts.append(group.sum())
            free &= ~group
    return ellipses[kept], np.array(counts, np.float64)


def chosen(boxes: Any, scores: NDArray[np.float64]) -> list[int]:
    """Places of the boxes to keep, best first: one that overlaps a better one too much is dropped."""
    union, smaller = overlaps(boxes)
    against = (union > OVERLAP_MOST) | (smaller > INSIDE_MOST)
    kept: list[int] = []
    for place in np.argsort(-scores, kind="stable"):
        if not against[place, kept].any():
            kept.append(int(place))
    return kept


def proposals(rgb: NDArray[np.uint8]) -> tuple[Ellipses, NDArray[np.float64]]:
    """Ellipses of a picture of the working size, and their features."""
    if min(rgb.shape[:2]) < SMALLEST_SIDE:
        return np.zeros((0, 5)), np.zeros((0, 0))
    field = fields(rgb)
    proposed, edges = candidates(rgb, field)
    found = refined(field, proposed)
    size = np.sqrt(found[:, 2] * found[:, 3])
    found, counts = merged(found[(size > LEAST_RADIUS) & (found[:, 2] < 3.5 * found[:, 3])])
    if not len(found):
        return found, np.zeros((0, 0))
    return found, features(field, found, counts, edges)


def find(pixels: NDArray[np.uint8]) -> tuple[Any, NDArray[np.float64]]:
    """Boxes in pixels of `pixels`, clipped to it, and their scores; overlapping ones included."""
    rgb = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    work = resized(np.ascontiguousarray(rgb), SIDE, enlarge=True)
    found, values = proposals(work)
    if not len(found):
        return np.zeros((0, 4)), np.zeros(0)
    height, width = pixels.shape[:2]
    scale = np.array([width / work.shape[1], height / work.shape[0]] * 2)
    boxes = (boxes_of(found) + 0.5) * scale
    return np.clip(boxes, 0, [width, height, width, height]), scores(values)
