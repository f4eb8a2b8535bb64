"""Structure of drawn tables, and the models that answer it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from loadtest.drawn import PARAGRAPH, DrawnTable, lines, png, table
from PIL import Image
from pydantic import ValidationError

from serve_app.errors import ModelRejected
from serve_app.models.contract import Answer
from serve_app.models.document import Document
from serve_app.models.reading import Word
from serve_app.models.table import Table, TableParams
from serve_app.models.table_structure import structure
from serve_app.settings import Settings

SETTINGS = Settings(inference_threads=1)


@pytest.fixture(scope="module")
def model() -> Table:
    model = Table()
    model.load(SETTINGS)
    return model


def answer(model: Any, image: Image.Image, **params: Any) -> Any:
    chosen = model.Params(**params)
    prepared = model.preprocess(png(image), chosen, model.recipe)
    [output] = model.forward([prepared.item])
    return model.postprocess(output, chosen, prepared.notes)


def words(*given: tuple[float, float, str]) -> list[Word]:
    """Words by their left upper corners, ten pixels a letter and twenty high."""
    return [Word(text, (left, top, left + 10 * len(text), top + 20)) for left, top, text in given]


def test_columns_and_spans_follow_from_words() -> None:
    read = words(
        (230, 0, "Measured"),
        (0, 40, "Sample"), (200, 40, "Low"), (300, 40, "High"),
        (200, 80, "1.0"), (300, 80, "2.0"),
        (0, 100, "Gold"),
        (200, 120, "3.0"), (300, 120, "4.0"),
        (0, 160, "Tin"), (50, 160, "balls"), (200, 160, "5.0"),
    )  # fmt: skip
    blank = np.full((200, 400, 3), 255, np.uint8)
    grid = structure(blank, (0, 0, 400, 200), read)
    cells = {(cell.row, cell.row_end, cell.column, cell.column_end): cell for cell in grid.cells}
    assert (grid.rows, grid.columns) == (5, 3)
    assert {place: cell.text for place, cell in cells.items()} == {
        (0, 1, 0, 1): "", (0, 1, 1, 3): "Measured",
        (1, 2, 0, 1): "Sample", (1, 2, 1, 2): "Low", (1, 2, 2, 3): "High",
        (2, 4, 0, 1): "Gold", (2, 3, 1, 2): "1.0", (2, 3, 2, 3): "2.0",
        (3, 4, 1, 2): "3.0", (3, 4, 2, 3): "4.0",
        (4, 5, 0, 1): "Tin balls", (4, 5, 1, 2): "5.0", (4, 5, 2, 3): "",
    }  # fmt: skip
    assert [place for place, cell in cells.items() if cell.column_header] == sorted(
        place for place in cells if place[0] < 2
    )
    assert {place for place, cell in cells.items() if cell.row_header} == {(2, 4, 0, 1), (4, 5, 0, 1)}


def test_no_words_are_no_table() -> None:
    grid = structure(np.full((90, 90, 3), 255, np.uint8), (0, 0, 90, 90), [])
    assert (grid.rows, grid.columns, grid.cells) == (0, 0, [])


def places(found: Any) -> set[tuple[int, int, int, int]]:
    return {
        (cell.start_row_offset_idx, cell.end_row_offset_idx, cell.start_col_offset_idx, cell.end_col_offset_idx)
        for cell in found.cells
    }


def test_a_table_with_lines(model: Table) -> None:
    drawn = table(1, lined=True)
    result = answer(model, drawn.image, table_bboxes=json.dumps([drawn.box]))
    [found] = result.tables
    assert (found.table_index, found.num_rows, found.num_cols) == (0, drawn.rows, drawn.columns)
    assert places(found) == set(drawn.cells)
    for cell in found.cells:
        assert cell.row_span == cell.end_row_offset_idx - cell.start_row_offset_idx
        assert drawn.box[0] - 4 <= cell.bbox.l < cell.bbox.r <= drawn.box[2] + 4


def test_given_words_are_used(model: Table) -> None:
    corners = ((10, 10, "A"), (200, 10, "B"), (10, 60, "C"), (200, 60, "D"), (10, 900, "E"))
    listed = [{"text": text, "x1": x, "y1": y, "x2": x + 40, "y2": y + 20, "conf": 0.9} for x, y, text in corners]
    tokens = [
        {"text": text, "id": 7, "bbox": {"l": x, "t": y, "r": x + 40, "b": y + 20, "coord_origin": "TOPLEFT"}}
        for x, y, text in corners
    ]
    given: tuple[Any, ...] = (
        listed,
        {"words": listed},
        {"tokens": tokens},
        {"pages": [{"tokens": tokens, "cells": []}]},
    )
    for words in given:
        chosen = {"table_bboxes": [[0, 0, 300, 100]], "iocr_json": json.dumps(words)}
        result = answer(model, Image.new("L", (300, 100), 255), **chosen)
        assert [cell.text for cell in result.tables[0].cells] == ["A", "B", "C", "D"]
        kept = TableParams.model_validate(chosen).model_dump(mode="json", exclude_unset=True)
        assert kept["iocr_json"] == [[text, x, y, x + 40, y + 20] for x, y, text in corners[:4]]
        assert TableParams.model_validate(kept) == TableParams.model_validate(chosen)


def test_a_page_without_tables_has_none(model: Table) -> None:
    assert answer(model, Image.new("L", (400, 300), 255)).tables == ()


@pytest.mark.parametrize(
    "wrong",
    [
        {"table_bboxes": "[]"},
        {"table_bboxes": "no JSON"},
        {"table_bboxes": [[5, 5, 1, 9]]},
        {"table_bboxes": [[1, 2, 3]]},
        {"table_bboxes": "[[NaN, 0, 1, 1]]"},
        {"table_bboxes": [[0, 0, 1, 1]] * 101},
        {"table_bboxes": "[" * 8000},
        {"iocr_json": '[{"text": "a"}]'},
        {"iocr_json": [["a", 1, 1, 2]]},
        {"iocr_json": [{"text": "a", "bbox": 3}]},
        {"iocr_json": '[["\\ud800", 1, 1, 2, 2]]'},
        {"iocr_json": '{"words": 3}'},
        {"iocr_json": [{"text": "a", "bbox": [3, 3, 1, 1]}]},
        {"page": 0},
        {"other": 1},
    ],
)
def test_parameters_that_are_refused(wrong: Any) -> None:
    with pytest.raises(ValidationError):
        TableParams.model_validate(wrong)


@pytest.mark.parametrize(
    ("boxes", "reason"),
    [([[60, 0, 70, 10]], "outside the image of 50 x 40"), ([[-9, 0, 1e9, 40]] * 3, "larger than 2 times the image")],
)
def test_boxes_that_do_not_fit_the_image_are_refused(boxes: Any, reason: str) -> None:
    with pytest.raises(ModelRejected, match=reason):
        Table.preprocess(png(Image.new("L", (50, 40))), TableParams(table_bboxes=boxes), SETTINGS)


def test_tables_that_a_result_cannot_hold_are_in_a_file(model: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.models.pages.RESULT_ROOM", 100)
    drawn = table(1, lined=True)
    found = answer(model, drawn.image, table_bboxes=[drawn.box], iocr_json=[])
    assert isinstance(found, Answer)
    assert (found.result.tables, found.result.truncated) == ((), True)
    assert json.loads(found.outputs["tables.json"].data)["tables"][0]["num_rows"] == drawn.rows


@pytest.mark.slow(reason="layout and text are read with their shipped weights")
def test_a_document() -> None:
    document = Document()
    document.load(SETTINGS)
    drawn: DrawnTable = table(1, lined=True)
    page = Image.new("L", (1000, 1300), 255)
    page.paste(lines(["Grain sizes"], size=48), (50, 0))
    page.paste(lines(PARAGRAPH), (50, 110))
    page.paste(drawn.image.resize((drawn.image.width * 3 // 4, drawn.image.height * 3 // 4)), (50, 400))
    page.paste(lines(PARAGRAPH[:2]), (50, 1000))
    found = answer(document, page)
    whole = json.loads(found.outputs["document.json"].data)
    labels = [region["label"] for region in whole["regions"]]
    assert labels == [box.text for box in found.result.boxes]
    assert found.result.tables == labels.count("table") == 1
    markdown = found.outputs["document.md"].data.decode()
    assert markdown.startswith(f"# Grain sizes\n\n{' '.join(PARAGRAPH)}\n\n")
    assert markdown.count("\n| --- |") == 1
    [region] = [region for region in whole["regions"] if region["label"] == "table"]
    assert region["table"]["num_cols"] == drawn.columns
