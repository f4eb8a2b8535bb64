"""The report's numbers as shapes: positions of bars and labels of axes. The templates draw them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from serve_app.contracts import Json
from serve_app.usage.report.window import BUCKETS, Clock, floor

DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MERGED: Final = {
    "minute": (1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1440),
    "hour": (1, 2, 3, 6, 12, 24),
    "day": (1, 7, 14, 28),
}
"""How many buckets one bar may cover, or a multiple of the last: familiar spans of time."""
_LABEL_WIDTH: Final = 84


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis. `at`: pixels, or a percentage in a chart without pixels."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Bar:
    """One span of the timeline; y runs downwards."""

    x: float
    y: float
    width: float
    height: float
    error_height: float
    title: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """Requests over time as bars, with both axes."""

    width: int
    height: int
    left: int
    base: int
    bars: Sequence[Bar]
    times: Sequence[Tick]
    counts: Sequence[Tick]
    step: str
    """The span of time that one bar covers."""


def timeline(
    buckets: Sequence[Json], bucket: str, *, width: int, most: int, ticks: int, timezone: str = "UTC"
) -> Timeline:
    """The time from the first bucket to the last, including empty buckets, in at most `most` bars.

    Bars of up to an hour follow real time: an hour that the clock repeats has two bars, a skipped hour has none.
    """
    left, top, bottom, height = 46, 32, 30, 260
    sums, merged = _sums(buckets, bucket, most, Clock(timezone))
    number = len(sums)
    marks = axis(max(count for count, _ in sums.values()))
    base, scale = height - bottom, (height - bottom - top) / marks[-1]
    slot_width = (width - left - 8) / number
    bars, times = [], []
    every = max(1, math.ceil(number / ticks))
    for index, (name, (count, errors)) in enumerate(sums.items()):
        red = min(count * scale, max(3.0, errors * scale)) if errors else 0.0
        title = f"{_moment(name, bucket)}: {count:,} requests, {errors:,} errors"
        bar_width = max(1.0, slot_width * 0.8)
        x = left + index * slot_width + (slot_width - bar_width) / 2
        bars.append(Bar(x, base - count * scale, bar_width, count * scale, red, title))
        middle = left + (index + 0.5) * slot_width
        if index % every == 0 and middle <= width - _LABEL_WIDTH / 2:
            times.append(Tick(middle, _short(name, bucket)))
    counts = [Tick(base - mark * scale, compact(mark)) for mark in marks]
    return Timeline(width, height, left, base, bars, times, counts, bucket if merged == 1 else f"{merged} {bucket}s")


def _sums(buckets: Sequence[Json], bucket: str, most: int, clock: Clock) -> tuple[dict[str, list[int]], int]:
    """Requests and errors of each bar by the name of its span, in order of time; and the buckets per bar."""
    places = [clock.read(row["bucket"], BUCKETS[bucket]) for row in buckets]
    merged = _merged(places[0], places[-1], bucket, most)
    span = merged * BUCKETS[bucket]
    begin = floor(places[0][0], span)
    if span <= BUCKETS["hour"]:
        slots = list(clock.spans((begin, places[0][1]), places[-1], span))
    else:
        slots = [(begin + index * span, timedelta()) for index in range((places[-1][0] - begin) // span + 1)]
    sums = {clock.name(start, offset, span): [0, 0] for start, offset in slots}
    for (start, offset), row in zip(places, buckets, strict=True):
        slot = sums[clock.name(begin + (start - begin) // span * span, offset, span)]
        slot[0] += row["n"]
        slot[1] += row["errors"]
    return sums, merged


@dataclass(frozen=True, slots=True)
class Cell:
    """One hour of the week. `share`: relative to the busiest hour, 0 to 1."""

    column: int
    row: int
    share: float
    text: str
    title: str


def heatmap(hours: Sequence[Json]) -> list[Cell]:
    """The week, 7 days by 24 hours, including hours without requests."""
    counts = {(row["dow"], row["hour"]): row["n"] for row in hours}
    most = max(counts.values(), default=0)
    cells = []
    for day, name in enumerate(DAYS):
        for hour in range(24):
            count = counts.get((day + 1, hour), 0)
            title = f"{name} {hour:02d}:00–{hour:02d}:59: {count:,} requests"
            cells.append(Cell(hour, day, count / most if most else 0, compact(count) if count else "", title))
    return cells


@dataclass(frozen=True, slots=True)
class Row:
    """A name with its count, as a bar."""

    name: str
    count: int
    percent: float
    """Percentage of all."""
    width: float
    """Percentage of the longest bar."""


def bars(rows: Sequence[Json], total: int, shown: int, others: str) -> list[Row]:
    """The first `shown` rows, and one more for the rest of `total`."""
    counts = [(row["name"], row["n"]) for row in rows[:shown]]
    if left := total - sum(count for _, count in counts):
        counts.append((others, left))
    most = max((count for _, count in counts), default=0)
    return [Row(name, count, 100 * count / total, 100 * count / most) for name, count in counts]


class LatencyScale:
    """A logarithmic axis of milliseconds, from 0 to 100 percent, that spans the given latencies."""

    def __init__(self, values: Sequence[float]) -> None:
        kept = [max(value, 0.01) for value in values]
        self._low = math.floor(math.log10(min(kept, default=1)))
        self._high = max(math.ceil(math.log10(max(kept, default=10))), self._low + 1)

    def at(self, value: float) -> float:
        """The position of `value`."""
        return 100 * (math.log10(max(value, 0.01)) - self._low) / (self._high - self._low)

    @property
    def ticks(self) -> list[Tick]:
        """Powers of ten."""
        return [Tick(self.at(10.0**power), milliseconds(10.0**power)) for power in range(self._low, self._high + 1)]


def axis(most: float) -> list[int]:
    """Round numbers from 0 to at least `most`, at most six."""
    step = next(step for step in _round_numbers() if step * 5 >= most)
    return [index * step for index in range(math.ceil(most / step) + 1)] if most else [0, 1]


def compact(number: float) -> str:
    """A count in at most five characters."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}" if number < 999.5 * size else f"{number / size:.0f}{letter}"
    return f"{number:.0f}"


def milliseconds(value: float | None) -> str:
    """A latency with its unit."""
    if value is None:
        return "–"
    return (
        f"{value:.3g} ms" if value < 999.5 else f"{value / 1000:.3g} s" if value < 999_500 else f"{value / 1000:.0f} s"
    )


def size(number: float) -> str:
    """Bytes with a decimal unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 999.5:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.1f} TB"


def duration(seconds: float) -> str:
    """Compute time with its unit."""
    if seconds < 99.95:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:,.1f} h"


def _merged(first: tuple[datetime, timedelta], last: tuple[datetime, timedelta], bucket: str, most: int) -> int:
    """Buckets per bar, for at most `most` bars. One is reserved for a first bar that begins earlier."""
    passed = (last[0] - last[1]) - (first[0] - first[1])
    needed = (passed / BUCKETS[bucket] + 1) / (most - 1)
    largest = _MERGED[bucket][-1]
    return next((number for number in _MERGED[bucket] if number >= needed), largest * math.ceil(needed / largest))


def _round_numbers() -> Iterator[int]:
    power = 1
    while True:
        yield from (power, 2 * power, 5 * power)
        power *= 10


def _moment(name: str, bucket: str) -> str:
    """A span's name without the parts that never vary: seconds, and the time of days."""
    return name[:10] if bucket == "day" else f"{name[:16]} {name[19:]}".rstrip()


def _short(name: str, bucket: str) -> str:
    start = datetime.fromisoformat(name)
    return f"{start:%d %b %Y}" if bucket == "day" else f"{start:%d %b %H:%M}{name[19:]}"
