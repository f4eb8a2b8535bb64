"""Deep greyscale and colour to 8 bits: a percentile window, because microscopes rarely use a sample's whole range.

The window is measured without values that do not show the specimen: masks and fill values (GDAL_NODATA, -9999, the
least number of the type), not-a-number and infinity, and the data bar that instruments draw under the picture in full
black and white."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

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
    """The values that became 0 and 255, and what was left out of the measurement."""

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

    The window spans the 0.1th to the 99.9th percentile of the measured values of all channels, or from the least to the
    greatest if those are equal. Measured are finite values outside the data bar (`bar`, or one found at an edge) that
    `alpha` (0 to 1) does not hide, except those in `no_data` and masks. A constant image becomes mid-grey, `no_data`
    becomes 0. A picture with transparent parts is scaled from 0 to its own white instead, like its 8-bit kind, because
    white will appear beside it. Raises `ValueError` if no value is left to measure.
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
    """The white of a picture's samples: 1 for floats, for integers the greatest number of the bits in use."""
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
    with np.errstate(all="ignore"):  # NaN, infinities and spans beyond float64 are expected
        for start in range(0, values.shape[0], ROWS_AT_ONCE):
            rows: Numbers = values[start : start + ROWS_AT_ONCE].astype(exact)
            rows = np.clip((rows - low) / (high - low), 0.0, 1.0) * 255.0
            scaled[start : start + ROWS_AT_ONCE] = np.rint(np.nan_to_num(rows, copy=False, nan=0.0))
    return scaled


def _by_table(values: Numbers, low: float, high: float) -> NDArray[np.uint8]:
    """The same for 16-bit integers, by a table of all values."""
    words = np.arange(65536, dtype=np.uint16).view(values.dtype).astype(np.float64)
    table = np.rint(np.clip((words - low) / (high - low), 0.0, 1.0) * 255.0).astype(np.uint8)
    return table[np.ascontiguousarray(values).view(np.uint16)]


def _window(values: Numbers, no_data: tuple[float, ...], bar: Bar | None, visible: NDArray[np.bool_] | None) -> Window:
    bars = (bar,) if bar else find_bars(values, no_data)
    for strips in (bars, ()) if bars else ((),):  # include the bars if the rest is constant
        inside, shown = values, visible
        for strip in strips:
            inside, shown = strip.outside(inside), strip.outside(shown) if shown is not None else None
        step = int(np.ceil(np.sqrt(max(1.0, inside.size / SAMPLE_PIXELS))))
        for every in (step, 1) if step > 1 else (1,):  # all values if the grid is constant or empty
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


Edge = Literal["bottom", "top", "right", "left"]
EDGES: tuple[Edge, ...] = ("bottom", "top", "right", "left")

FAR, FAR_OF_FILL_VALUE = 2.0, 0.25
"""A value is far from the others if the gap is this many times their spread (0.1 to 99.9 %)."""
SHARE = 0.001
"""A smaller share of the pixels cannot affect the window: its percentiles leave them out."""
MOST_UNKNOWN, FEW_VALUES = 0.5, 16
"""An unnamed value is a mask only if it covers at most this share (else it is the background) and there are so many
other values (else the picture is a drawing or a label map)."""
BEYOND_SIGHT = 1000.0
"""Any value this many spreads away is a mask: no scale can show both."""
BETWEEN_SHARE, BETWEEN_OF_MASK = 0.0002, 0.01
"""Masks are drawn over a picture, so almost no value lies in the outer three quarters of the gap. Real bright or dark
parts have edges with values between; dead and hot pixels are near the picture's range or on its other side."""
MOST_MASKS = 4
FILL_VALUES = (-9999.0, -99999.0, -999.0, -32767.0, -32768.0)
HUGE = 1e30

BAR_SHARE, BAR_LINES = 0.4, 4
"""A data bar covers at most this share of the picture and has at least this many lines."""
BAR_VALUES, BAR_PART, BAR_INK = 3, 0.45, 0.08
"""In each line of a bar the three commonest values (backgrounds and ink) cover at least this share. In the whole bar
the second commonest covers at least this share of what is not the first: text has grey edges, but solid strokes."""
REST_PIXELS = 100_000
"""Most other pixels sampled for the comparison."""
FULL_SCALES = (255, 1023, 4095, 16383, 65535)
"""White of 8, 10, 12, 14 and 16 bits: a bar may be drawn with fewer bits than the picture has."""


@dataclass(frozen=True, slots=True)
class Bar:
    """The data bar: `lines` rows or columns at an edge of the picture as stored."""

    edge: Edge
    lines: int
    named: bool = False
    """Named by the instrument's metadata; else detected."""

    def outside(self, values: Numbers) -> Numbers:
        """The picture without the bar, as a view. The line next to a detected bar may be a mixture, so it is removed
        too."""
        lines = self.lines + (not self.named)
        match self.edge:
            case "bottom":
                return values[:-lines]
            case "top":
                return values[lines:]
            case "left":
                return values[:, lines:]
            case "right":
                return values[:, :-lines]

    def __str__(self) -> str:
        lines = "rows" if self.edge in ("bottom", "top") else "columns"
        source = "named by the instrument" if self.named else "found as a flat strip"
        return f"data bar ({self.lines} {lines} at the {self.edge}, {source})"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A value left out of the measurement, with the share of measured pixels that have it and how it is drawn."""

    value: float
    share: float
    drawn: Literal["black", "white"]
    why: str
    named: bool = False
    """Named by the file; such a value is always drawn black."""

    def swapped(self) -> LeftOut:
        """The same for a picture whose small numbers mean white."""
        return replace(self, drawn="white" if self.drawn == "black" else "black")

    def __str__(self) -> str:
        return f"{self.value:g} ({self.share:.1%} of the pixels, {self.why}, drawn {self.drawn})"


def find_bars(values: Numbers, named: tuple[float, ...]) -> tuple[Bar, ...]:
    """Flat strips of text at the edges, whose black and white lie outside the picture's range.

    `named` are values that the file declares as no data.
    """
    strips: list[tuple[Bar, Numbers]] = []
    for edge in EDGES:
        lines = values.swapaxes(0, 1) if edge in ("left", "right") else values
        lines = lines[::-1] if edge in ("bottom", "right") else lines
        most = int(lines.shape[0] * BAR_SHARE)
        count = 0
        while count <= most and _is_flat(lines[count]):
            count += 1
        if BAR_LINES <= count <= most:
            strips.append((Bar(edge, count), finite(lines[:count])))
            values = strips[-1][0].outside(values)
    if not strips:
        return ()
    every = math.ceil(math.sqrt(max(1, values.size / REST_PIXELS)))
    counted, _ = left_out(Distribution.of(finite(values[::every, ::every])), named)
    if counted.size == 0:
        return ()
    low, high = counted.percentiles(0.1, 99.9)
    return tuple(bar for bar, strip in strips if _is_of_another_scale(strip, low, high))


def finite(values: Numbers) -> Numbers:
    """The finite values, as a flat array."""
    return values[np.isfinite(values)] if values.dtype.kind == "f" else values.ravel()


def _is_of_another_scale(strip: Numbers, low: float, high: float) -> bool:
    """Whether a strip holds text whose black and white lie outside the range `low` to `high` of the picture.

    A dim or saturated part of a picture also has few values, but within that range.
    """
    found, counts = np.unique(strip, return_counts=True)
    order = np.argsort(counts)
    if len(found) < 2 or counts[order[-2]] < BAR_INK * counts[order[:-1]].sum():
        return False
    common = found[order[-BAR_VALUES:]]
    black, white = float(common.min()), float(common.max())
    if low <= black and white <= high:
        return False
    return white - black >= high - low or (black == 0 and white in FULL_SCALES)


def _is_flat(line: Numbers) -> bool:
    counts = np.sort(np.unique(line, return_counts=True)[1])
    return bool(counts[-BAR_VALUES:].sum() >= BAR_PART * line.size)


@dataclass(frozen=True, slots=True)
class Distribution:
    """Distinct values in ascending order, and how many pixels have each."""

    values: Numbers
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, sample: Numbers) -> Distribution:
        if sample.dtype.kind in "iu" and sample.dtype.itemsize == 2:
            least = int(sample.min()) if sample.size else 0
            counts = np.bincount(sample.astype(np.int64) - least if least < 0 else sample, minlength=1)
            found = np.flatnonzero(counts)
            return cls((found + min(least, 0)).astype(sample.dtype), counts[found])
        ordered = np.sort(sample)
        starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1]))) if ordered.size else np.arange(0)
        return cls(ordered[starts], np.diff(starts, append=ordered.size))

    @property
    def size(self) -> int:
        return int(self.counts.sum())

    def percentiles(self, low: float, high: float) -> tuple[float, float]:
        """The values nearest to two percentiles."""
        ranks = np.rint(np.array((low, high)) / 100 * (self.size - 1))
        found = self.values[np.searchsorted(np.cumsum(self.counts), ranks, side="right")]
        return float(found[0]), float(found[1])

    def without(self, chosen: NDArray[np.bool_]) -> Distribution:
        return Distribution(self.values[~chosen], self.counts[~chosen])


def left_out(sample: Distribution, named: tuple[float, ...]) -> tuple[Distribution, list[LeftOut]]:
    """Split `sample` into the values to measure and those left out.

    Left out are values that the file names, and extreme values far from all others: known fill values, or values that
    cover at most half of the picture and have no edges.
    """
    found: list[LeftOut] = []
    size = sample.size
    for value in named:
        chosen = equal(sample.values, value)
        if count := int(sample.counts[chosen].sum()):
            found.append(LeftOut(value, count / size, "black", "named by the file", named=True))
            sample = sample.without(chosen)
    for _ in range(MOST_MASKS):
        masks = (_mask(sample, end, size) for end in (0, -1))
        one = next((mask for mask in masks if mask), None) if len(sample.values) > 2 else None
        if one is None:
            break
        found.append(one)
        sample = sample.without(sample.values == one.value)
    return sample, found


def equal(values: Numbers, value: float) -> NDArray[np.bool_]:
    """Where `values` equal `value`, which was read from text and may have lost digits."""
    if values.dtype.kind == "f":
        with np.errstate(all="ignore"):
            return np.asarray(np.isclose(values.astype(np.float64), value, rtol=1e-5, atol=0))
    return np.asarray(values == value)


def _mask(sample: Distribution, end: Literal[0, -1], size: int) -> LeftOut | None:
    """The least (0) or greatest (-1) value, if it is a mask."""
    value, count = sample.values[end], int(sample.counts[end])
    if count <= SHARE * size:
        return None
    apart = sample.values == value
    if sample.counts[-1 - end] > SHARE * size:  # it may be a mask too
        apart |= sample.values == sample.values[-1 - end]
    rest = sample.without(apart)
    low, high = rest.percentiles(0.1, 99.9)
    spread, number = high - low, float(value)
    least_of_type = value.dtype.kind == "i" and value == np.iinfo(value.dtype).min
    fill_value = number in FILL_VALUES and not least_of_type
    gap = low - number if end == 0 else number - high
    if not spread > 0 or gap < (FAR_OF_FILL_VALUE if fill_value else FAR) * spread:
        return None
    # float64 arithmetic: the bound may be beyond the picture's own type
    others = rest.values.astype(np.float64)
    between = int(rest.counts[others < low - gap / 4 if end == 0 else others > high + gap / 4].sum())
    if between > BETWEEN_SHARE * size or between > BETWEEN_OF_MASK * count:
        return None
    known = fill_value or bool(least_of_type) or abs(number) >= HUGE
    doubtful = count > MOST_UNKNOWN * size or len(rest.values) < FEW_VALUES
    if not known and doubtful and gap < BEYOND_SIGHT * spread:
        return None
    drawn: Literal["black", "white"] = "black" if end == 0 else "white"
    return LeftOut(number, count / size, drawn, "a fill value" if known else "far from all others")
