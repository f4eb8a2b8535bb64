"""Finds tables that CDLA's network takes for text: by the white between their columns, or by lines that cross."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np

from serve_app.models.pages import Box, Pixels
from serve_app.models.reading import Numbers, rows

LEVEL, UPRIGHT = (1, 60), (60, 1)
"""Shapes of what is a line: height and width."""
LEAST_CROSSINGS: Final = 9
LEAST_ROWS: Final = 3
RIVER: Final = 1.1
"""Least width of the white between two columns, in heights of a line."""
FARTHEST: Final = 4.0
"""Most distance between rows, in the same."""
PROSE: Final = 14.0
"""Usual width from which the chunks of two columns are prose, in the same."""


def tables_by_columns(page: Pixels) -> list[Box]:
    """The boxes of what has three or more rows of two or more columns, in a page (BGR)."""
    chunks, height = _chunks(page)
    if len(chunks) < 2 * LEAST_ROWS:
        return []
    lines = rows(chunks, range(len(chunks)))
    found: list[Box] = []
    start = 0
    while start < len(lines):
        end = _run(chunks, lines, start, height)
        start = _without_caption(chunks, lines, start, end)
        if end > start + 1 and _is_table(chunks, lines[start:end], height):
            found.append(_box(chunks, lines[_heading(chunks, lines, start, height) : end], height))
        start = max(end, start + 1)
    return found


def tables_by_lines(page: Pixels) -> list[Box]:
    """The boxes around lines that cross each other often enough for a table: a frame has four crossings."""
    import cv2

    ink = _ink(page)
    level, upright = (cv2.morphologyEx(ink, cv2.MORPH_OPEN, np.ones(size, np.uint8)) for size in (LEVEL, UPRIGHT))
    around = np.ones((5, 5), np.uint8)
    crossings = _boxes(cv2.bitwise_and(cv2.dilate(level, around), cv2.dilate(upright, around)))
    frames = _boxes(cv2.dilate(cv2.bitwise_or(level, upright), around))
    found: list[Box] = []
    for left, top, right, bottom in frames:
        inside = (crossings[:, :2] >= [left, top]).all(axis=1) & (crossings[:, 2:] <= [right, bottom]).all(axis=1)
        if int(inside.sum()) >= LEAST_CROSSINGS:
            found.append((float(left) + 2, float(top) + 2, float(right) - 2, float(bottom) - 2))
    return found


def _ink(page: Pixels) -> Pixels:
    import cv2

    _, ink = cv2.threshold(cv2.cvtColor(page, cv2.COLOR_BGR2GRAY), 0, 255, cv2.THRESH_BINARY_INV | cv2.THRESH_OTSU)
    return ink.astype(np.uint8, copy=False)


def _chunks(page: Pixels) -> tuple[Numbers, float]:
    """Boxes of words that stand close to each other, and the usual height of a line."""
    import cv2

    ink = _ink(page)
    for size in (LEVEL, UPRIGHT):  # without lines
        ink = cv2.subtract(ink, cv2.morphologyEx(ink, cv2.MORPH_OPEN, np.ones(size, np.uint8))).astype(np.uint8)
    letters = _boxes(ink)
    letters = letters[(letters[:, 3] - letters[:, 1] >= 5) & (letters[:, 3] - letters[:, 1] <= 80)]
    if not len(letters):
        return letters, 0.0
    height = 1.3 * float(np.median(letters[:, 3] - letters[:, 1]))
    joined = cv2.morphologyEx(ink, cv2.MORPH_CLOSE, np.ones((3, max(3, round(0.9 * height))), np.uint8))
    boxes = _boxes(joined)
    heights = boxes[:, 3] - boxes[:, 1]
    return boxes[(heights >= 0.4 * height) & (heights <= 3 * height)], height


def _boxes(ink: Any) -> Numbers:
    import cv2

    _, _, found, _ = cv2.connectedComponentsWithStats(ink)
    left, top, width, height = found[1:, :4].astype(np.float64).T
    return np.stack([left, top, left + width, top + height], axis=1)


def _run(chunks: Numbers, lines: Sequence[list[int]], start: int, height: float) -> int:
    """The end of the lines from `start` on that leave white columns in common."""
    if len(lines[start]) < 2:
        return start
    spans: list[tuple[float, float]] = []
    bottom, end = chunks[lines[start], 3].max(), start
    for place in range(start, len(lines)):
        line = lines[place]
        if chunks[line, 1].min() - bottom > FARTHEST * height:
            break
        wider = _merged([*spans, *((chunks[one, 0], chunks[one, 2]) for one in line)])
        if not any(after[0] - before[1] >= RIVER * height for before, after in pairwise(wider)):
            break
        spans, bottom = wider, max(bottom, chunks[line, 3].max())
        if len(line) > 1:
            end = place + 1
    return end


def _without_caption(chunks: Numbers, lines: Sequence[list[int]], start: int, end: int) -> int:
    """The first line that is no farther from the next one than rows usually are."""
    centres = [float(chunks[line][:, [1, 3]].mean()) for line in lines[start:end]]
    steps = np.diff(centres)
    while len(steps) > LEAST_ROWS - 1 and steps[0] > 1.6 * np.median(steps):
        start, steps = start + 1, steps[1:]
    return start


def _heading(chunks: Numbers, lines: Sequence[list[int]], start: int, height: float) -> int:
    """The line above, if it is a heading over several columns: it leaves the first one free."""
    if not start:
        return start
    above, below = chunks[lines[start - 1]], chunks[lines[start]]
    near = below[:, 1].min() - above[:, 3].max() <= FARTHEST * height
    beside = above[:, 0].min() > below[0, 2] and above[:, 2].max() <= below[:, 2].max() + height
    return start - 1 if near and beside else start


def _merged(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    merged: list[tuple[float, float]] = []
    for left, right in sorted(spans):
        if merged and left <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], right)
        else:
            merged.append((left, right))
    return merged


def _is_table(chunks: Numbers, lines: Sequence[list[int]], height: float) -> bool:
    full = [line for line in lines if len(line) > 1]
    if len(full) < LEAST_ROWS:
        return False
    first = float(np.median([chunks[line[0], 2] - chunks[line[0], 0] for line in full]))
    last = float(np.median([chunks[line[-1], 2] - chunks[line[-1], 0] for line in full]))
    return min(first, last) < PROSE * height


def _box(chunks: Numbers, lines: Sequence[list[int]], height: float) -> Box:
    places = [one for line in lines for one in line]
    left, top = chunks[places, :2].min(axis=0) - height / 2
    right, bottom = chunks[places, 2:].max(axis=0) + height / 2
    return float(left), float(top), float(right), float(bottom)
