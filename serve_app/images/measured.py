"""Which values of a deep picture say something of the specimen, and so may decide the window.

Not measured are values that are no measurement: masks and fill values (GDAL_NODATA, -9999, the least number of the
type), not-a-number and infinity, and the data bar that instruments draw under the picture in full black and white.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[Any]
Edge = Literal["bottom", "top", "left", "right"]

FAR = 2.0
"""A value is far from the others when the gap to them is this many times their own spread (0.1 to 99.9 %)."""
SHARE = 0.001
"""Fewer pixels than this share do not decide the window: its percentiles leave them out."""
MOST_UNKNOWN = 0.5
"""A value that no one has named is a mask only when it covers at most this share: else it is the ground."""
BETWEEN_SHARE, BETWEEN_OF_MASK = 0.0002, 0.01
"""Masks are drawn over a picture: there is next to nothing between them and it. Real bright or dark parts have edges."""
FILL_VALUES = (-9999.0, -99999.0, -999.0, -32767.0, -32768.0)
HUGE = 1e30

BAR_SHARE, BAR_LINES = 0.4, 4
"""A data bar covers at most this share of the picture and has at least so many lines."""
BAR_GROUND, BAR_VALUES = 0.4, 64
"""In each line of a bar one value, its ground, has this share, and there are few others: the text and its edges."""


@dataclass(frozen=True, slots=True)
class Bar:
    """The data bar: `lines` rows or columns at an edge of the picture as stored."""

    edge: Edge
    lines: int
    named: bool = False
    """By the instrument's metadata; else found by its looks."""

    def outside(self, values: Numbers) -> Numbers:
        """The picture without the bar, as a view."""
        match self.edge:
            case "bottom":
                return values[: -self.lines]
            case "top":
                return values[self.lines :]
            case "left":
                return values[:, self.lines :]
            case "right":
                return values[:, : -self.lines]

    def __str__(self) -> str:
        lines = "rows" if self.edge in ("bottom", "top") else "columns"
        source = "named by the instrument" if self.named else "found as a flat strip"
        return f"data bar ({self.lines} {lines} at the {self.edge}, {source})"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A value that does not count. `drawn` is black or white; `share` of the measured pixels have it."""

    value: float
    share: float
    drawn: Literal["black", "white"]
    why: str

    def __str__(self) -> str:
        return f"{self.value:g} ({self.share:.1%} of the pixels, {self.why}, drawn {self.drawn})"


def find_bar(values: Numbers) -> Bar | None:
    """A flat strip with few values and at least two, at an edge of a picture that has many values elsewhere."""
    grey = values if values.ndim == 2 else values[:, :, 0]
    edges: tuple[tuple[Edge, Numbers], ...] = (
        ("bottom", grey[::-1]),
        ("top", grey),
        ("right", grey.T[::-1]),
        ("left", grey.T),
    )
    for edge, lines in edges:
        most = int(lines.shape[0] * BAR_SHARE)
        count = 0
        while count <= most and _is_flat(lines[count]):
            count += 1
        if BAR_LINES <= count <= most:
            strip, rest = finite(lines[:count]), finite(lines[count:])
            if strip.size and rest.size and _outdoes(strip, rest):
                return Bar(edge, count)
    return None


def finite(values: Numbers) -> Numbers:
    """The finite ones of `values`, flat."""
    return values[np.isfinite(values)] if values.dtype.kind == "f" else values.ravel()


def _outdoes(strip: Numbers, rest: Numbers) -> bool:
    """Whether the strip's black and white are as far apart as those of the picture: dim parts of it have few values too."""
    step = max(1, rest.size // 100_000)
    low, high = (float(end) for end in np.percentile(rest[::step], (0.1, 99.9), method="nearest"))
    least, most = float(strip.min()), float(strip.max())
    return least < most and most - least >= high - low and (most >= high or least <= low)


def _is_flat(line: Numbers) -> bool:
    found, counts = np.unique(line, return_counts=True)
    return len(found) <= max(2, min(BAR_VALUES, line.size // 8)) and counts.max() >= BAR_GROUND * line.size


def left_out(sample: Numbers, named: tuple[float, ...]) -> tuple[Numbers, list[LeftOut]]:
    """The values of `sample` that count, and those that do not.

    Left out are values that the file itself names, and an extreme value far from all others: a known fill value, or any
    that covers no more than half and has no edges. Both extremes are looked at.
    """
    found: list[LeftOut] = []
    size = sample.size
    for value in named:
        chosen = equal(sample, value)
        if count := int(np.count_nonzero(chosen)):
            found.append(LeftOut(value, count / size, "black", "named by the file"))
            sample = sample[~chosen]
    for extreme in (np.min, np.max):
        if sample.size and (one := _mask(sample, extreme(sample), size)):
            found.append(one)
            sample = sample[sample != extreme(sample)]
    return sample, found


def equal(values: Numbers, value: float) -> NDArray[np.bool_]:
    """Where `values` are `value`, which was read from text and may have lost digits."""
    if values.dtype.kind == "f":
        with np.errstate(all="ignore"):
            return np.asarray(np.isclose(values.astype(np.float64), value, rtol=1e-5, atol=0))
    return np.asarray(values == value)


def _mask(sample: Numbers, value: Any, size: int) -> LeftOut | None:
    """What is known of the extreme `value` when it is a mask."""
    chosen = sample == value
    count = int(np.count_nonzero(chosen))
    if count <= SHARE * size or count == sample.size:
        return None
    rest = sample[~chosen]
    low, high = (float(end) for end in np.percentile(rest, (0.1, 99.9), method="nearest"))
    spread = high - low
    number = float(value)
    gap = low - number if number < low else number - high
    if not spread > 0 or gap < FAR * spread:
        return None
    # float64 arithmetic: the middle between a mask and a picture may be beyond the picture's own type
    between = np.count_nonzero(np.abs(rest.astype(np.float64) - (low + high) / 2) > spread)
    known = (
        number in FILL_VALUES or abs(number) >= HUGE or (value.dtype.kind == "i" and value == np.iinfo(value.dtype).min)
    )
    if between > BETWEEN_SHARE * size or between > BETWEEN_OF_MASK * count:
        return None
    if not known and count > MOST_UNKNOWN * size:
        return None
    drawn: Literal["black", "white"] = "black" if number < low else "white"
    return LeftOut(number, count / size, drawn, "a fill value" if known else "far from all others")
