"""Text of a page or a micrograph, by RapidOCR; on request the fields of an electron microscope's data bar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import Field

from serve_app.contracts import Json, Output
from serve_app.models import pages, reading
from serve_app.models.contract import Answer, Model, Prepared, ResultWithOutputs
from serve_app.models.data_bar import DataBarField, fields_of
from serve_app.models.engines import processors
from serve_app.models.pages import Page, PageParams, TextBox
from serve_app.settings import Settings

WHOLE: Final = "text.json"
TEXT_ROOM: Final = pages.RESULT_ROOM // 2
"""Bytes of a result that its text may take; the boxes have the rest."""


class OcrParams(PageParams):
    """What a submit may choose."""

    min_confidence: float = Field(default=0.5, ge=0, le=1, description="Pieces of text below it are left out")
    polygons: bool = Field(default=False, description="Also the four corners of each box")
    data_bar: bool = Field(
        default=False, description="Read the fields of an electron microscope's data bar into `fields`"
    )


class OcrResult(ResultWithOutputs):
    """The result of one page."""

    text: str = Field(description="In reading order, one line of the page a line")
    confidence: float = Field(ge=0, le=1, description="Mean over the boxes; 0 without text")
    boxes: tuple[TextBox, ...] = Field(description="Lines, and parts of lines between wide gaps, in reading order")
    truncated: bool = Field(description="Whether the page has more text than a result can hold; text.json has all")
    fields: dict[str, DataBarField] | None = Field(
        default=None, exclude_if=lambda fields: fields is None, description="Of the data bar, where `data_bar` asked"
    )
    model: Json = Field(description="What read")
    image: Json = Field(description="How the image was read and what was done to it")


@dataclass(frozen=True, slots=True)
class Read:
    """A page after the forward pass: the fields of its result, and its file if it is too long for one."""

    fields: Json
    outputs: dict[str, Output]


class Ocr(Model):
    """Reads text of any orientation, also upside down and tilted."""

    Params = OcrParams
    Result = OcrResult

    @classmethod
    def missing(cls, settings: Settings, options: Any) -> str | None:
        return pages.lacking(*reading.PACKAGES)

    def load(self, settings: Settings) -> None:
        self.recipe = settings
        self._reader = reading.Reader(settings.inference_threads or processors())

    @staticmethod
    def preprocess(data: bytes | None, params: OcrParams, recipe: Settings) -> Prepared:
        return pages.prepare(data, params, recipe, reading.MOST_PIXELS)

    def forward(self, items: Sequence[Page]) -> list[Read]:
        read = self._reader.read([item.pixels for item in items])
        return [_result(item, pieces) for item, pieces in zip(items, read, strict=True)]

    def postprocess(self, output: Read, params: OcrParams, notes: Json) -> OcrResult | Answer:
        result = OcrResult(**output.fields, model=reading.describe(), image=notes)
        return Answer(result, output.outputs) if output.outputs else result

    def warm_up_input(self) -> tuple[bytes, OcrParams]:
        return pages.blank_page(), OcrParams()

    def describe(self) -> Json:
        return {**super().describe(), **reading.describe()}


def _result(page: Page, found: Sequence[reading.Piece]) -> Read:
    params: OcrParams = page.params
    pieces = [reading.moved(piece, page.scale) for piece in found if piece.conf >= params.min_confidence]
    lines = reading.in_order(pieces)
    text = reading.text_of(lines)
    boxes = [box_of(piece, params.polygons).model_dump(mode="json") for line in lines for piece in line]
    whole: Json = {"text": text, "confidence": reading.confidence_of(pieces), "boxes": boxes}
    if params.data_bar:
        whole["fields"] = {name: field.model_dump() for name, field in fields_of(pieces).items()}
    short = pages.text_that_fits(text, TEXT_ROOM)
    kept = pages.that_fit(boxes, pages.RESULT_ROOM - pages.size_of(short))
    if len(kept) == len(boxes) and short == text:
        return Read({**whole, "truncated": False}, {})
    outputs = {WHOLE: Output("application/json", pages.as_json(whole))}
    return Read({**whole, "text": short, "boxes": kept, "truncated": True}, outputs)


def box_of(piece: reading.Piece, with_corners: bool) -> TextBox:
    """A piece as an entry of a result."""
    left, top, right, bottom = pages.scaled(piece.box, 1)
    corners = tuple((round(float(x), 1), round(float(y), 1)) for x, y in piece.corners) if with_corners else None
    return TextBox(x1=left, y1=top, x2=right, y2=bottom, text=piece.text, conf=piece.conf, polygon=corners)
