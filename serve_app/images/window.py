"""Deep greyscale and colour to 8 bits: a percentile window, because microscopes rarely use a sample's whole range."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.images.measured import Bar, Distribution, LeftOut, equal, find_bars, finite, left_out

LOW_PERCENTILE, HIGH_PERCENTILE = 0.1, 99.9
SAMPLE_PIXELS = 4_000_000
"""Larger images are measured on an even grid of at most about this many pixels."""
ROWS_AT_ONCE = 256
TRANSPARENT_SHARE = 0.001
"""A picture with fewer transparent pixels counts as opaque."""
CONSTANT_GREY = 128

Numbers = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Window:
    """The values that became 0 and 255, and what did not decide them."""

    low: float
    high: float
    bars: tuple[Bar, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    not_finite: float = 0.0
    """Share of the values that are not-a-number or infinite."""
    full_scale: bool = False
    """True where `high` is the samples' own white, not a percentile."""
    inverted: bool = False
    """True where `low` is drawn white."""

    def __str__(self) -> str:
        if self.full_scale:
            zero = ", white is zero" if self.inverted else ""
            return f"full scale ({self.low:g}–{self.high:g}) because parts are transparent{zero}"
        words = f"window {LOW_PERCENTILE:g}–{HIGH_PERCENTILE:g} % ({self.low:g}–{self.high:g})"
        apart = [str(bar) for bar in self.bars]
        apart += [str(value) for value in self.left_out]
        if self.not_finite:
            drawn = "white" if self.inverted else "black"
            apart.append(f"NaN and infinity ({self.not_finite:.1%} of the pixels, NaN drawn {drawn})")
        words += f" measured without {', '.join(apart)}" if apart else ""
        return words + (", white is zero" if self.inverted else "")


def to_eight_bits(
    values: Numbers,
    *,
    no_data: tuple[float, ...] = (),
    bar: Bar | None = None,
    alpha: NDArray[np.float32] | None = None,
    inverted: bool = False,
) -> tuple[NDArray[np.uint8], Window]:
    """Scale real numbers of any width to 0–255, or to 255–0 where they are `inverted`: small numbers mean white.

    The window goes from the 0.1th to the 99.9th percentile of what is measured, all channels together; where these are
    equal, from the least to the greatest. Measured are finite values outside the data bar (`bar`, or one found at an
    edge) that `alpha` (0 to 1) does not hide, without those in `no_data` and without masks
    (`serve_app.images.measured`). A constant image becomes mid-grey, `no_data` becomes 0. A picture with
    transparent parts is scaled from 0 to its own white instead, as its 8-bit kind is: white will stand beside it.
    Raises `ValueError` when nothing is left to measure.
    """
    visible = alpha > 0 if alpha is not None else None
    full = _full_scale(values[visible]) if alpha is not None and (alpha < 1).mean() > TRANSPARENT_SHARE else None
    window = Window(0.0, full, full_scale=True) if full else _window(values, no_data, bar, visible)
    scaled = _scaled(values, window.low, window.high)
    if inverted:
        swapped = tuple(value if value.named else value.swapped() for value in window.left_out)
        window, scaled = replace(window, inverted=True, left_out=swapped), 255 - scaled
    for value in no_data:
        scaled[equal(values, value)] = 0
    return scaled, window


def _full_scale(shown: Numbers) -> float | None:
    """The white of a picture's samples: 1 of floats, of integers the greatest number of the bits they use."""
    most = float(np.percentile(shown, HIGH_PERCENTILE, method="nearest")) if shown.size else 0.0
    if shown.dtype.kind == "f":
        return 1.0 if 0.5 < most <= 1 and shown.min() >= 0 else None
    return float(2 ** max(8, int(most).bit_length()) - 1) if shown.dtype.kind == "u" else None


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
    bars = (bar,) if bar else find_bars(values, no_data)
    for strips in (bars, ()) if bars else ((),):  # with the bars where there is nothing to see beside them
        inside, shown = values, visible
        for strip in strips:
            inside, shown = strip.outside(inside), strip.outside(shown) if shown is not None else None
        step = int(np.ceil(np.sqrt(max(1.0, inside.size / SAMPLE_PIXELS))))
        for every in (step, 1) if step > 1 else (1,):  # all values where a grid of them is constant or empty
            window = _measured(
                inside[::every, ::every], shown[::every, ::every] if shown is not None else None, no_data
            )
            if window and window.low < window.high:
                return replace(window, bars=strips)
    if window is None:
        raise ValueError("none of its values is a finite number that counts")
    return window


def _measured(values: Numbers, shown: NDArray[np.bool_] | None, no_data: tuple[float, ...]) -> Window | None:
    chosen = values[shown] if shown is not None else values
    real = finite(chosen)
    sample, apart = left_out(Distribution.of(real), no_data)
    if sample.size == 0:
        return None
    low, high = sample.percentiles(LOW_PERCENTILE, HIGH_PERCENTILE)
    if low == high:
        low, high = float(sample.values[0]), float(sample.values[-1])
    return Window(low, high, (), tuple(apart), 1 - real.size / chosen.size)
