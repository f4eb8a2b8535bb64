"""A table as a grid of cells, and which of them are headings: of columns, of rows, or of a section of rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from serve_app.models.pages import Box

FIGURE: Final = re.compile(r"[-+±~<>≤≥≈]?\s*[\d.,]+\s*(?:[±×x/-]\s*[\d.,]+)?\s*(?:%|[^\W\d]{0,3})")


@dataclass(slots=True)
class Cell:
    """A cell and its place in the grid; ends are exclusive."""

    row: int
    row_end: int
    column: int
    column_end: int
    box: Box
    text: str = ""
    column_header: bool = False
    row_header: bool = False
    row_section: bool = False


@dataclass(slots=True)
class Grid:
    """A table: its cells row by row."""

    rows: int
    columns: int
    cells: list[Cell] = field(default_factory=list)


def mark_headers(grid: Grid) -> None:
    """Set the marks of each cell: the first rows, down to where the spans of the first one end, are headings of
    columns; cells across the whole table are sections; words in the first column beside figures are headings of rows.
    """
    if grid.rows < 2:
        return
    heading = _heading_rows(grid)
    for cell in grid.cells:
        if cell.row < heading:
            cell.column_header = True
        elif cell.column == 0 and cell.column_end == grid.columns > 1 and cell.text:
            cell.row_section = True
    beside = [cell for cell in grid.cells if cell.row >= heading and cell.column > 0 and cell.text]
    first = [cell for cell in grid.cells if cell.row >= heading and cell.column == 0 and not cell.row_section]
    if _part_of_figures(beside) >= 0.5 > _part_of_figures([cell for cell in first if cell.text]):
        for cell in first:
            cell.row_header = True


def _heading_rows(grid: Grid) -> int:
    """Rows of headings: the first, with a title over the whole table the second, and those under a spanning one."""
    first = [cell for cell in grid.cells if cell.row == 0]
    if len(first) == 1 and grid.columns > 1:
        return min(2, grid.rows - 1)
    deepest = max((cell.row_end for cell in first), default=1)
    spanning = any(cell.column_end - cell.column > 1 for cell in first)
    return min(max(deepest, 2 if spanning else 1), grid.rows - 1)


def _part_of_figures(cells: Sequence[Cell]) -> float:
    return sum(bool(FIGURE.fullmatch(cell.text)) for cell in cells) / len(cells) if cells else 0.0
