"""Deep greyscale and colour to 8 bits: a percentile window, because microscopes rarely use a sample's whole range."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LOW_PERCENTILE, HIGH_PERCENTILE = 0.1, 99.9
SAMPLE_PIXELS = 4_000_000
"""Larger images are measured on an even grid of at most about this many pixels."""
ROWS_AT_ONCE = 256
CONSTANT_GREY = 128

Numbers = NDArray[Any]


def to_eight_bits(values: Numbers) -> tuple[NDArray[np.uint8], tuple[float, float]]:
    """Scale real numbers of any width to 0–255, and the window (low, high) that became 0 and 255.

    The window goes from the 0.1th to the 99.9th percentile of the finite values, all channels together; where these are
    equal, from the least to the greatest. A constant image becomes mid-grey. NaN becomes 0. Raises `ValueError` when no
    value is finite.
    """
    low, high = _window(values)
    scaled = np.empty(values.shape, np.uint8)
    if low == high:
        scaled.fill(CONSTANT_GREY)
        return scaled, (low, high)
    exact = np.float32 if values.dtype.itemsize <= 2 else np.float64
    with np.errstate(all="ignore"):  # NaN, infinities and spans beyond float64 are numbers like others here
        for start in range(0, values.shape[0], ROWS_AT_ONCE):
            rows: Numbers = values[start : start + ROWS_AT_ONCE].astype(exact)
            rows = np.clip((rows - low) / (high - low), 0.0, 1.0) * 255.0
            scaled[start : start + ROWS_AT_ONCE] = np.rint(np.nan_to_num(rows, copy=False, nan=0.0))
    return scaled, (low, high)


def _window(values: Numbers) -> tuple[float, float]:
    step = int(np.ceil(np.sqrt(max(1.0, values.size / SAMPLE_PIXELS))))
    sample = _finite(values[::step, ::step])
    low, high = np.percentile(sample, (LOW_PERCENTILE, HIGH_PERCENTILE), method="nearest")
    if low < high:
        return float(low), float(high)
    whole = _finite(values)
    return float(whole.min()), float(whole.max())


def _finite(values: Numbers) -> Numbers:
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if finite.size == 0:
        raise ValueError("none of its values is a finite number")
    return finite
