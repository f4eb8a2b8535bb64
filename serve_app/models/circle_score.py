"""The score of a candidate: boosted trees over its features, fitted on generated scenes by scripts/circles/train.py."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

TREES: Final = Path(__file__).with_name("circle_trees.safetensors")
MIDDLE: Final = 0.45
"""What the trees answer for a candidate that is as likely an object as not: its score is 0.5."""


@lru_cache(maxsize=1)
def load() -> Mapping[str, NDArray[Any]]:
    """The trees of the package."""
    from safetensors.numpy import load_file

    return load_file(TREES)


def evaluate(trees: Mapping[str, NDArray[Any]], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum of all trees, for each row of features. The nodes of one level of a tree ask one question."""
    asked = values.astype(np.float32)
    leaf: Any = 0
    for feature, limit in zip(trees["features"].T, trees["limits"].T, strict=True):
        leaf = leaf * 2 + (asked[:, feature] > limit)
    total: NDArray[np.float64] = trees["leaves"][np.arange(len(trees["leaves"])), leaf].sum(axis=1, dtype=np.float64)
    return total + float(trees["start"][0])


def scores(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """From 0 to 1; MIDDLE becomes 0.5."""
    raw = np.clip(evaluate(load(), values), 0, 1)
    return np.where(raw < MIDDLE, 0.5 * raw / MIDDLE, 0.5 + 0.5 * (raw - MIDDLE) / (1 - MIDDLE))
