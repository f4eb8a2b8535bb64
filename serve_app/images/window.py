"""Deep greyscale and colour to 8 bits: a percentile window, because microscopes rarely use a sample's whole range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.images.measured import Bar, LeftOut, equal, find_bar, finite, left_out

LOW_PERCENTILE, HIGH_PERCENTILE = 0.1, 99.9
SAMPLE_PIXELS = 4_000_000
"""Larger images are measured on an even grid of at most about this many pixels."""
ROWS_AT_ONCE = 256
CONSTANT_GREY = 128

Numbers = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Window:
    """The values that became 0 and 255, and what did not decide them."""

    low: float
    high: float
    bar: Bar | None = None
    left_out: tuple[LeftOut, ...] = ()
    not_finite: float = 0.0
    """Share of the values that are not-a-number or infinite."""

    def __str__(self) -> str:
        words = f"window {LOW_PERCENTILE:g}–{HIGH_PERCENTILE:g} % ({self.low:g}–{self.high:g})"
        apart = [str(self.bar)] if self.bar else []
        apart += [str(value) for value in self.left_out]
        if self.not_finite:
            apart.append(f"NaN and infinity ({self.not_finite:.1%} of the pixels, NaN drawn black)")
        return words + (f" measured without {', '.join(apart)}" if apart else "")


def to_eight_bits(
    values: Numbers,
    *,
    no_data: tuple[float, ...] = (),
    bar: Bar | None = None,
    visible: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.uint8], Window]:
    """Scale real numbers of any width to 0–255.

    The window goes from the 0.1th to the 99.9th percentile of what is measured, all channels together; where these are
    equal, from the least to the greatest. Measured are finite values outside the data bar (`bar`, or one found at an
    edge) where `visible`, without those in `no_data` and without masks (`serve_app.images.measured`). A constant image
    becomes mid-grey, NaN and `no_data` become 0. Raises `ValueError` when nothing is left to measure.
    """
    window = _window(values, no_data, bar, visible)
    scaled = _scaled(values, window.low, window.high)
    for value in no_data:
        scaled[equal(values, value)] = 0
    return scaled, window


def _scaled(values: Numbers, low: float, high: float) -> NDArray[np.uint8]:
    if low == high:
        return np.full(values.shape, CONSTANT_GREY, np.uint8)
    if values.dtype.kind in "iu" and values.dtype.itemsize == 2:
        return _by_table(values, low, high)
    scaled = np.empty(values.shape, np.uint8)
    exact = np.float32 if values.dtype.itemsize <= 2 else np.float64
    with np.errstate(all="ignore"):  # NaN, infinities and spans beyond float64 are numbers like others here
        for start in range(0, values.shape[0], ROWS_AT_ONCE):
            rows: Numbers = values[start : start + ROWS_AT_ONCE].astype(exact)
            rows = np.clip((rows - low) / (high - low), 0.0, 1.0) * 255.0
            scaled[start : start + ROWS_AT_ONCE] = np.rint(np.nan_to_num(rows, copy=False, nan=0.0))
    return scaled


def _by_table(values: Numbers, low: float, high: float) -> NDArray[np.uint8]:
    """The same for 16-bit integers: every value is scaled once, then looked up."""
    words = np.arange(65536, dtype=np.uint16).view(values.dtype).astype(np.float64)
    table = np.rint(np.clip((words - low) / (high - low), 0.0, 1.0) * 255.0).astype(np.uint8)
    return table[np.ascontiguousarray(values).view(np.uint16)]


def _window(values: Numbers, no_data: tuple[float, ...], bar: Bar | None, visible: NDArray[np.bool_] | None) -> Window:
    bar = bar or find_bar(values)
    inside = bar.outside(values) if bar else values
    shown = bar.outside(visible) if bar and visible is not None else visible
    step = int(np.ceil(np.sqrt(max(1.0, inside.size / SAMPLE_PIXELS))))
    for every in (step, 1):  # all values where a grid of them is constant or empty
        chosen = inside[::every, ::every]
        if shown is not None:
            chosen = chosen[shown[::every, ::every]]
        real = finite(chosen)
        lost = 1 - real.size / max(1, chosen.size)
        sample, apart = left_out(real, no_data)
        if sample.size == 0:
            continue
        low, high = np.percentile(sample, (LOW_PERCENTILE, HIGH_PERCENTILE), method="nearest")
        if low == high:
            low, high = sample.min(), sample.max()
        if low < high:
            return Window(float(low), float(high), bar, tuple(apart), lost)
    if sample.size:
        return Window(float(low), float(high), bar, tuple(apart), lost)
    raise ValueError("none of its values is a finite number" + (" that counts" if apart else ""))
