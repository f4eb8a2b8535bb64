"""The structure of a table: its rows, columns and spans, and the text of each cell.

Where a table has lines, img2table follows them. Where it has none, or horizontal ones only, rows and columns follow
from the boxes of the words: words close to each other make a chunk, chunks beside each other a row, and the rows with
the most chunks show the columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np

from serve_app.models.pages import Box, Pixels
from serve_app.models.reading import Word, rows
from serve_app.models.table_grid import Cell, Grid, mark_headers

MARGIN: Final = 8
"""Pixels around a table's box that are looked at for its outer lines."""
COVERED: Final = 0.6
"""Least part of the box that a table of lines covers; a smaller one is a part of it."""
WORD_GAP: Final = 0.75
"""Widest gap between words of a cell, in heights of a line."""
CLOSE: Final = 0.75
"""Distance to the line above, in usual distances, up to which a line belongs to the same row."""


def structure(page: Pixels, box: Box, words: Sequence[Word]) -> Grid:
    """The table in a box of a page (BGR), with the words of the page."""
    inside = [word for word in words if holds(box, centre(word.box))]
    by_words = _from_words(inside, box)
    by_lines = _from_lines(page, box)
    grid = by_lines if by_lines and _is_whole(by_lines, by_words) else by_words
    if grid is by_lines:
        _fill(grid, inside)
    mark_headers(grid)
    return grid


def _is_whole(by_lines: Grid, by_words: Grid) -> bool:
    """Whether lines part the cells, and not only groups of them."""
    return len(by_lines.cells) > 1 and 2 * len(by_lines.cells) >= by_words.rows * by_words.columns - _spanned(by_words)


def _spanned(grid: Grid) -> int:
    return grid.rows * grid.columns - len(grid.cells)


def centre(box: Box) -> tuple[float, float]:
    """The middle of a box."""
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def holds(box: Box, point: tuple[float, float]) -> bool:
    """Whether the point lies in the box."""
    return box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3]


# By lines.


def _from_lines(page: Pixels, box: Box) -> Grid | None:
    """What img2table finds in the box, if it is most of it."""
    import cv2
    from img2table.document.image import Image

    height, width = page.shape[:2]
    left, top = max(0, int(box[0]) - MARGIN), max(0, int(box[1]) - MARGIN)
    right, bottom = min(width, int(box[2]) + MARGIN), min(height, int(box[3]) + MARGIN)
    done, encoded = cv2.imencode(".bmp", page[top:bottom, left:right])
    if not done:
        return None
    found = Image(src=encoded.tobytes()).extract_tables()
    largest = max(found, key=lambda table: _area(table.bbox), default=None)
    if largest is None or _area(largest.bbox) < COVERED * (right - left - 2 * MARGIN) * (bottom - top - 2 * MARGIN):
        return None
    return _grid(list(largest.content.values()), left, top)


def _area(box: Any) -> int:
    return int((box.x2 - box.x1) * (box.y2 - box.y1))


def _grid(content: list[Any], left: int, top: int) -> Grid:
    """A spanning cell is listed at each of its places, with the same box."""
    cells: dict[tuple[int, int, int, int], Cell] = {}
    for row, listed in enumerate(content):
        for column, one in enumerate(listed):
            key = one.bbox.x1, one.bbox.y1, one.bbox.x2, one.bbox.y2
            box = (float(key[0] + left), float(key[1] + top), float(key[2] + left), float(key[3] + top))
            cell = cells.setdefault(key, Cell(row, row + 1, column, column + 1, box))
            cell.row_end, cell.column_end = max(cell.row_end, row + 1), max(cell.column_end, column + 1)
    return Grid(len(content), max(map(len, content), default=0), list(cells.values()))


def _fill(grid: Grid, words: Sequence[Word]) -> None:
    for cell in grid.cells:
        cell.text = text_of([word for word in words if holds(cell.box, centre(word.box))])


def text_of(words: Sequence[Word]) -> str:
    """Words in reading order, separated by spaces."""
    if not words:
        return ""
    boxes = np.array([word.box for word in words])
    return " ".join(words[place].text for row in rows(boxes, range(len(words))) for place in row)


# By words.


@dataclass(slots=True)
class _Chunk:
    """Neighbouring words of a line; a cell has one or more of them."""

    words: list[Word]

    @property
    def left(self) -> float:
        return self.words[0].box[0]

    @property
    def right(self) -> float:
        return max(word.box[2] for word in self.words)

    @property
    def centre(self) -> float:
        return (self.left + self.right) / 2


@dataclass(slots=True)
class _Line:
    chunks: list[_Chunk]
    top: float
    bottom: float

    @property
    def centre(self) -> float:
        return (self.top + self.bottom) / 2


Span = tuple[int, int]
"""First column and the one after the last."""


def _from_words(words: Sequence[Word], box: Box) -> Grid:
    lines = _lines(words)
    if not lines:
        return Grid(0, 0)
    height = float(np.median([word.box[3] - word.box[1] for word in words]))
    columns = _columns(lines)
    placed = [_spans(line, columns, _is_above(lines, place), height) for place, line in enumerate(lines)]
    body, labels = _rows(lines, placed)
    return _laid_out(body, labels, columns, box)


def _lines(words: Sequence[Word]) -> list[_Line]:
    if not words:
        return []
    boxes = np.array([word.box for word in words])
    made = []
    for row in rows(boxes, range(len(words))):
        some = [words[place] for place in row]
        height = float(np.median(boxes[row, 3] - boxes[row, 1]))
        chunks = [_Chunk([some[0]])]
        for before, word in pairwise(some):
            if word.box[0] - before.box[2] <= WORD_GAP * height:
                chunks[-1].words.append(word)
            else:
                chunks.append(_Chunk([word]))
        made.append(_Line(chunks, float(boxes[row, 1].min()), float(boxes[row, 3].max())))
    return made


def _most(lines: Sequence[_Line]) -> int:
    """Chunks of a full line: the most that two lines agree on, or that the only one has."""
    counts = sorted((len(line.chunks) for line in lines), reverse=True)
    return next((one for one, other in pairwise(counts) if one == other), counts[0])


def _is_above(lines: Sequence[_Line], place: int) -> bool:
    """Whether a line stands above the first full one, as a heading over several columns does."""
    most = _most(lines)
    return all(len(line.chunks) < most for line in lines[: place + 1])


def _columns(lines: Sequence[_Line]) -> list[tuple[float, float]]:
    """Left and right ends of each column's text: of the full lines, then of what stands beside those."""
    most = _most(lines)
    columns = _merged(
        [(chunk.left, chunk.right) for line in lines if len(line.chunks) == most for chunk in line.chunks]
    )
    first = next(place for place, line in enumerate(lines) if len(line.chunks) == most)
    for place, line in enumerate(lines):
        for chunk in line.chunks:
            touched = [one for one in columns if chunk.left < one[1] and chunk.right > one[0]]
            outside = chunk.right < columns[0][0] or chunk.left > columns[-1][1]
            if (len(touched) == 1 and place >= first) or (not touched and (outside or place > first)):
                columns = _merged([*columns, (chunk.left, chunk.right)])
    return columns


def _merged(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    merged: list[tuple[float, float]] = []
    for left, right in sorted(spans):
        if merged and left < merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], right)
        else:
            merged.append((left, right))
    return merged


def _spans(line: _Line, columns: Sequence[tuple[float, float]], above: bool, height: float) -> list[Span]:
    """The columns of each chunk of a line."""
    return [_span(chunk, columns, above, height) for chunk in line.chunks]


def _span(chunk: _Chunk, columns: Sequence[tuple[float, float]], above: bool, height: float) -> Span:
    touched = [at for at, (left, right) in enumerate(columns) if chunk.left < right and chunk.right > left]
    nearest = min(range(len(columns)), key=lambda at: abs(sum(columns[at]) / 2 - chunk.centre))
    if not above:
        return (touched[0], touched[-1] + 1) if touched else (nearest, nearest + 1)
    if len(touched) == 1 and _aligned(chunk, columns[touched[0]], height):
        return touched[0], touched[0] + 1
    needed = touched or [nearest]
    groups = [
        (first, last + 1)
        for first in range(needed[0] + 1)
        for last in range(max(needed[-1], first), len(columns))
        if last > first
    ]
    if not groups:
        return needed[0], needed[-1] + 1

    def off(group: Span) -> float:
        return abs((columns[group[0]][0] + columns[group[1] - 1][1]) / 2 - chunk.centre)

    best = min(groups, key=lambda group: (off(group) > 1.5 * height, group[1] - group[0], off(group)))
    return best if off(best) <= 1.5 * height or len(touched) != 1 else (touched[0], touched[0] + 1)


def _aligned(chunk: _Chunk, column: tuple[float, float], height: float) -> bool:
    offsets = chunk.left - column[0], chunk.right - column[1], chunk.centre - sum(column) / 2
    return min(abs(offset) for offset in offsets) < 0.5 * height


Placed = dict[Span, list[Word]]
"""Words of a row by their columns."""


@dataclass(slots=True)
class _Row:
    cells: Placed
    top: float
    bottom: float


@dataclass(slots=True)
class _Label:
    """Text between two rows: a cell that spans them."""

    after: int
    span: Span
    words: list[Word]


def _rows(lines: Sequence[_Line], placed: Sequence[list[Span]]) -> tuple[list[_Row], list[_Label]]:
    """Lines as rows: what is close to the line above continues its cells, or labels both rows it stands between."""
    least = CLOSE * _usual_step(lines)
    made: list[_Row] = []
    labels: list[_Label] = []
    last = -np.inf
    for line, spans in zip(lines, placed, strict=True):
        cells: Placed = {}
        for span, chunk in zip(spans, line.chunks, strict=True):
            cells.setdefault(span, []).extend(chunk.words)
        if line.centre - last > least:
            made.append(_Row(cells, line.top, line.bottom))
        elif any(span in made[-1].cells for span in cells):
            for span, words in cells.items():
                made[-1].cells.setdefault(span, []).extend(words)
            made[-1].bottom = line.bottom
        else:
            labels += [_Label(len(made) - 1, span, words) for span, words in cells.items()]
            continue
        last = line.centre
    return made, labels


def _usual_step(lines: Sequence[_Line]) -> float:
    """Distance between rows: of lines with several chunks, since one alone may label the rows around it."""
    several = [line for line in lines if len(line.chunks) > 1]
    steps = [below.centre - above.centre for above, below in pairwise(several if len(several) > 2 else lines)]
    return float(np.median(steps)) if steps else 0.0


def _laid_out(body: list[_Row], labels: list[_Label], columns: list[tuple[float, float]], box: Box) -> Grid:
    """The grid with a cell at every place. Borders are half way between neighbours."""
    across = _borders([box[0], box[2]], columns)
    down = _borders([box[1], box[3]], [(row.top, row.bottom) for row in body])
    grid = Grid(len(body), len(columns))
    taken: set[tuple[int, int]] = set()

    def add(row: Span, column: Span, words: Sequence[Word]) -> None:
        places = {(one, other) for one in range(*row) for other in range(*column)}
        if not places & taken:
            taken.update(places)
            sides = (across[column[0]], down[row[0]], across[column[1]], down[row[1]])
            grid.cells.append(Cell(*row, *column, sides, text_of(words)))

    for (first, last), column, words in _row_spans(body, labels):
        add((first, last), column, words)
    for place, row in enumerate(body):
        for column, words in sorted(row.cells.items()):
            add((place, place + 1), column, words)
    for place in range(len(body)):
        for at in range(len(columns)):
            add((place, place + 1), (at, at + 1), ())
    grid.cells.sort(key=lambda cell: (cell.row, cell.column))
    return grid


def _borders(ends: Sequence[float], spans: Sequence[tuple[float, float]]) -> list[float]:
    inner = [(before[1] + after[0]) / 2 for before, after in pairwise(spans)]
    return [min(ends[0], spans[0][0]), *inner, max(ends[1], spans[-1][1])]


def _row_spans(body: list[_Row], labels: list[_Label]) -> list[tuple[Span, Span, list[Word]]]:
    """Cells over several rows. In the first column, labels in the middle of their rows must cover all rows below the
    headings; elsewhere a label between two rows spans both."""
    spans: list[tuple[Span, Span, list[Word]]] = []
    columns = {label.span for label in labels}
    for column in columns | {(0, 1)}:
        own = [label for label in labels if label.span == column]
        middles = [(label.after + 0.5, label.words) for label in own]
        middles += [(float(place), row.cells[column]) for place, row in enumerate(body) if column in row.cells]
        groups = _tiling(sorted(middles, key=lambda one: one[0]), len(body))
        if groups is None:
            groups = [((label.after, label.after + 2), label.words) for label in own]
        spans += [
            (rows_, column, words) for rows_, words in groups if rows_[1] - rows_[0] > 1 and rows_[1] <= len(body)
        ]
    return spans


def _tiling(middles: list[tuple[float, list[Word]]], count: int) -> list[tuple[Span, list[Word]]] | None:
    """Groups of rows around each middle that follow each other without a gap up to the last row. The first ones may
    be headings."""
    groups: list[tuple[Span, list[Word]]] = []
    start = 0
    for place, (middle, words) in enumerate(middles):
        end = round(2 * middle) - start + 1
        if end <= start or end > count:
            return None
        if place == 0 and end - start > 2:
            start, end = int(middle), int(middle) + 1
        groups.append(((start, end), words))
        start = end
    return groups if start == count and groups else None
