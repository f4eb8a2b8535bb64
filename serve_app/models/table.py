"""Tables of a page: their rows, columns, spans and the text of each cell."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from serve_app.contracts import Json, Output
from serve_app.errors import ModelRejected
from serve_app.models import pages, reading, regions
from serve_app.models.contract import Answer, Model, Prepared, ResultWithOutputs, Schema
from serve_app.models.engines import processors
from serve_app.models.pages import Box, Page, PageParams, bgr
from serve_app.models.reading import Reader, Word
from serve_app.models.regions import LayoutOptions
from serve_app.models.table_grid import Cell, Grid
from serve_app.models.table_structure import centre, holds, structure
from serve_app.settings import Settings

PACKAGES: Final = ("img2table", *reading.PACKAGES)
SIDES: Final = {"l": "x1", "t": "y1", "r": "x2", "b": "y2"}
"""Both names of each side of a given word."""
WHOLE: Final = "tables.json"
AROUND: Final = 12
"""Pixels around a table that are read with it."""
MOST_COVERED: Final = 2
"""Area of all table_bboxes together, in images: each box is read on its own, and tables do not lie upon each other."""
LEAST_SCORE: Final = 0.4
"""Of a region that the layout calls a table."""


def parsed(value: Any) -> Any:
    """A field of a form carries JSON as text."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON: {error}") from error


def words_of(value: Any) -> Any:
    """The list of words: itself, or `tokens` or `words` of an object, or of the first page of docling's `pages`."""
    value = parsed(value)
    if isinstance(value, dict) and isinstance(listed := value.get("pages"), list) and listed:
        value = listed[0]
    if isinstance(value, dict):
        return value.get("tokens", value.get("words", value))
    return value


def word_of(value: Any) -> Any:
    """An object as [text, x1, y1, x2, y2]. Other keys of it are ignored: docling's tokens have some."""
    if not isinstance(value, dict):
        return value
    sides = value.get("bbox", value)
    if isinstance(sides, dict):
        sides = [sides.get(letter, sides.get(name)) for letter, name in SIDES.items()]
    return [value.get("text"), *sides] if isinstance(sides, list | tuple) else value


def with_area(word: ShortWord) -> ShortWord:
    """The word, if its box has an area."""
    if not (word[1] < word[3] and word[2] < word[4]):
        raise ValueError("a word needs x1 < x2 and y1 < y2")
    return word


class Sides(Schema):
    """Left, top, right and bottom side in pixels of the upright image."""

    l: float  # noqa: E741  as the source names them
    t: float
    r: float
    b: float


ShortWord = tuple[Annotated[str, Field(max_length=1000)], float, float, float, float]
"""Text, x1, y1, x2, y2: as a job keeps it."""
GivenWord = Annotated[
    ShortWord,
    BeforeValidator(word_of, json_schema_input_type=ShortWord | dict[str, Any]),
    AfterValidator(with_area),
]


class TableParams(PageParams):
    """What a submit may choose."""

    table_bboxes: Annotated[tuple[tuple[float, float, float, float], ...] | None, BeforeValidator(parsed)] = Field(
        default=None,
        min_length=1,
        max_length=100,
        description="[x1, y1, x2, y2] of each table in pixels of the upright image; without it the layout says",
    )
    iocr_json: Annotated[tuple[GivenWord, ...] | None, BeforeValidator(words_of)] = Field(
        default=None,
        max_length=2000,
        description="The words of the page, where the caller has them: [[text, x1, y1, x2, y2]], or "
        "[{text, bbox: {l, t, r, b}}] as docling has them. None is read then; those outside table_bboxes are dropped",
    )

    @model_validator(mode="after")
    def _boxes_have_an_area(self) -> TableParams:
        for left, top, right, bottom in self.table_bboxes or ():
            if not (left < right and top < bottom):
                raise ValueError("table_bboxes: a box needs x1 < x2 and y1 < y2")
        return self

    @field_validator("iocr_json")
    @classmethod
    def _in_the_tables(cls, words: tuple[ShortWord, ...] | None, known: ValidationInfo) -> tuple[ShortWord, ...] | None:
        boxes = known.data.get("table_bboxes")
        if not boxes or not words:
            return words
        return tuple(word for word in words if any(holds(box, centre(word[1:])) for box in boxes))


class TableCell(Schema):
    """A cell. Rows and columns count from 0; ends are exclusive."""

    bbox: Sides
    start_row_offset_idx: int
    end_row_offset_idx: int
    start_col_offset_idx: int
    end_col_offset_idx: int
    row_span: int
    col_span: int
    column_header: bool
    row_header: bool
    row_section: bool
    text: str


class FoundTable(Schema):
    """A table."""

    table_index: int = Field(description="From 0, in the order of table_bboxes or in reading order")
    num_rows: int
    num_cols: int
    cells: tuple[TableCell, ...]


class TableResult(ResultWithOutputs):
    """The result of one page."""

    tables: tuple[FoundTable, ...]
    truncated: bool = Field(description="Whether there are more tables than a result can hold; tables.json has all")
    model: Json = Field(description="What answered")
    image: Json = Field(description="How the image was read and what was done to it")


@dataclass(frozen=True, slots=True)
class Read:
    """A page after the forward pass."""

    tables: list[Json]
    outputs: dict[str, Output]


class Table(Model):
    """Finds tables by the layout, unless the submit names them, and their structure by lines or by words."""

    Params = TableParams
    Result = TableResult
    Options = LayoutOptions

    @classmethod
    def missing(cls, settings: Settings, options: Any) -> str | None:
        return pages.lacking(*PACKAGES) or regions.missing(settings, options)

    def load(self, settings: Settings) -> None:
        self._reader = Reader(settings.inference_threads or processors())
        self._finder = regions.load_finder(settings, self.options)
        self.labels = self._finder.labels
        self.recipe = settings

    @staticmethod
    def preprocess(data: bytes | None, params: TableParams, recipe: Settings) -> Prepared:
        prepared = pages.prepare(data, params, recipe, reading.MOST_PIXELS)
        height, width = prepared.notes["height"], prepared.notes["width"]
        covered = 0.0
        for left, top, right, bottom in params.table_bboxes or ():
            if not (left < width and top < height and right > 0 and bottom > 0):
                raise ModelRejected(f"table_bboxes: a box lies outside the image of {width} x {height} pixels.")
            covered += (min(right, width) - max(left, 0)) * (min(bottom, height) - max(top, 0))
        if covered > MOST_COVERED * width * height:
            raise ModelRejected(f"table_bboxes: together the boxes are larger than {MOST_COVERED} times the image.")
        return prepared

    def forward(self, items: Sequence[Page]) -> list[Read]:
        boxes = self._boxes(items)
        words = self._words(items, boxes)
        return [
            _result([structure(bgr(item.pixels), box, some) for box, some in zip(found, read, strict=True)], item.scale)
            for item, found, read in zip(items, boxes, words, strict=True)
        ]

    def _boxes(self, items: Sequence[Page]) -> list[list[Box]]:
        """The tables of each page, in its own pixels."""
        unknown = [item for item in items if item.params.table_bboxes is None]
        found = iter(regions.found_in(self._finder, [item.pixels for item in unknown]) if unknown else ())
        boxes = []
        for item in items:
            if item.params.table_bboxes is not None:
                height, width = item.pixels.shape[:2]
                given = [pages.scaled(box, 1 / item.scale) for box in item.params.table_bboxes]
                boxes.append([(max(0.0, b[0]), max(0.0, b[1]), min(width, b[2]), min(height, b[3])) for b in given])
            else:
                boxes.append(tables_in(next(found)))
        return boxes

    def _words(self, items: Sequence[Page], boxes: Sequence[list[Box]]) -> list[list[list[Word]]]:
        """The words of each table of each page; those that are not given are read, all tables together."""
        cuts = [
            (item, box)
            for item, found in zip(items, boxes, strict=True)
            if item.params.iocr_json is None
            for box in found
        ]
        origins = [(max(0, int(box[0]) - AROUND), max(0, int(box[1]) - AROUND)) for _, box in cuts]
        pictures = [
            item.pixels[top : int(box[3]) + AROUND, left : int(box[2]) + AROUND]
            for (item, box), (left, top) in zip(cuts, origins, strict=True)
        ]
        read = iter(zip(self._reader.read(pictures), origins, strict=True))
        words: list[list[list[Word]]] = []
        for item, found in zip(items, boxes, strict=True):
            if item.params.iocr_json is None:
                words.append([_shifted(*next(read)) for _ in found])
            else:
                given = [Word(text, pages.scaled(box, 1 / item.scale)) for text, *box in item.params.iocr_json]
                words.append([given] * len(found))
        return words

    def postprocess(self, output: Read, params: TableParams, notes: Json) -> TableResult | Answer:
        result = TableResult(
            tables=tuple(FoundTable.model_validate(table) for table in output.tables),
            truncated=bool(output.outputs),
            model=self._description(),
            image=notes,
        )
        return Answer(result, output.outputs) if output.outputs else result

    def warm_up_input(self) -> tuple[bytes, TableParams]:
        return pages.blank_page(), TableParams(table_bboxes=((0, 0, 320, 160),))

    def _description(self) -> Json:
        return {"text": reading.describe(), "layout": self._finder.describe(), "lines": "img2table"}

    def describe(self) -> Json:
        return {
            **super().describe(),
            **{name: reading.describe()[name] for name in ("id", "revision", "engine")},
            **self._description(),
        }


def tables_in(found: Sequence[regions.Region]) -> list[Box]:
    """The boxes of a page's tables in reading order, without those that are found twice."""
    kept: list[regions.Region] = []
    for region in found:  # the best first
        if region.label.lower() != "table" or region.score < LEAST_SCORE:
            continue
        if all(regions.overlap(region.box, other.box) < 0.5 for other in kept):
            kept.append(region)
    return [region.box for region in regions.in_order(kept)]


def _shifted(pieces: Sequence[reading.Piece], origin: tuple[int, int]) -> list[Word]:
    """The words of a cut-out in pixels of its page."""
    left, top = origin
    return [
        Word(word.text, (word.box[0] + left, word.box[1] + top, word.box[2] + left, word.box[3] + top))
        for piece in pieces
        for word in piece.words
    ]


def _result(grids: Sequence[Grid], scale: float) -> Read:
    tables = [as_table(place, grid, scale) for place, grid in enumerate(grids)]
    kept = pages.that_fit(tables, pages.RESULT_ROOM)
    if len(kept) == len(tables):
        return Read(tables, {})
    return Read(kept, {WHOLE: Output("application/json", pages.as_json({"tables": tables}))})


def as_table(index: int, grid: Grid, scale: float) -> Json:
    """A grid as the entry of a result."""
    cells = [_as_cell(cell, scale) for cell in grid.cells]
    return {"table_index": index, "num_rows": grid.rows, "num_cols": grid.columns, "cells": cells}


def _as_cell(cell: Cell, scale: float) -> Json:
    return {
        "bbox": dict(zip("ltrb", pages.scaled(cell.box, scale), strict=True)),
        "start_row_offset_idx": cell.row,
        "end_row_offset_idx": cell.row_end,
        "start_col_offset_idx": cell.column,
        "end_col_offset_idx": cell.column_end,
        "row_span": cell.row_end - cell.row,
        "col_span": cell.column_end - cell.column,
        "column_header": cell.column_header,
        "row_header": cell.row_header,
        "row_section": cell.row_section,
        "text": cell.text,
    }
