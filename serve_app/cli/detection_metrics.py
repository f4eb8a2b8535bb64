"""How well boxes fit the truth: Jaccard index on pixels, and precision, recall and F1 by one-to-one assignment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Box = Sequence[float]
"""x_min, y_min, x_max, y_max in pixels."""
THRESHOLDS: Final = (0.3, 0.5, 0.7, 0.9)
"""Least intersection over union of a prediction and the true object that it counts for."""


@dataclass(frozen=True, slots=True)
class Counts:
    """True positives, false positives and false negatives, of one image or summed over many."""

    tp: int = 0
    fp: int = 0
    fn: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)

    @property
    def precision(self) -> float:
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float:
        return _ratio(2 * self.precision * self.recall, self.precision + self.recall)


@dataclass(frozen=True, slots=True)
class Jaccard:
    """The Jaccard indices of many images in four numbers."""

    simple: float
    """Mean over the images."""
    weighted: float
    """Mean weighted by the number of true objects; 0 if there are none."""
    min: float
    max: float


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def iou(first: Box, second: Box) -> float:
    """Intersection over union of two boxes; 0 if they do not overlap."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return width * height / (areas - width * height)


def jaccard(predicted: Sequence[Box], true: Sequence[Box], width: int, height: int) -> float:
    """Shared pixels of both unions of boxes, divided by the pixels of either; 1 if both are empty."""
    ours, theirs = _mask(predicted, width, height), _mask(true, width, height)
    either = int(np.count_nonzero(ours | theirs))
    return int(np.count_nonzero(ours & theirs)) / either if either else 1.0


def _mask(boxes: Sequence[Box], width: int, height: int) -> NDArray[np.bool_]:
    mask = np.zeros((height, width), dtype=np.bool_)
    for box in boxes:
        left, top = _clip(box[0], width - 1), _clip(box[1], height - 1)
        right, bottom = _clip(box[2], width), _clip(box[3], height)
        mask[top:bottom, left:right] = True
    return mask


def _clip(value: float, highest: int) -> int:
    return min(max(int(value), 0), highest)


def overlaps(predicted: Sequence[Box], true: Sequence[Box]) -> list[float]:
    """The intersection over union of every assigned pair: the assignment with the largest sum (Hungarian method)."""
    if not predicted or not true:
        return []
    from scipy.optimize import linear_sum_assignment

    fit = np.array([[iou(one, other) for other in true] for one in predicted])
    rows, columns = linear_sum_assignment(1 - fit)
    return [float(value) for value in fit[rows, columns]]


def count(predicted: Sequence[Box], true: Sequence[Box]) -> dict[float, Counts]:
    """The counts of one image at every threshold. An assigned pair counts if its overlap reaches the threshold."""
    pairs = overlaps(predicted, true)
    matched = {threshold: sum(pair >= threshold for pair in pairs) for threshold in THRESHOLDS}
    return {at: Counts(hits, len(predicted) - hits, len(true) - hits) for at, hits in matched.items()}


def summarize(indices: Sequence[float], weights: Sequence[int]) -> Jaccard:
    """The Jaccard indices of all images, at least one; the weights are the numbers of true objects."""
    weighted = sum(index * weight for index, weight in zip(indices, weights, strict=True))
    return Jaccard(sum(indices) / len(indices), _ratio(weighted, sum(weights)), min(indices), max(indices))
