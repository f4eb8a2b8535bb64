"""A whole page: its layout, the text of each region and its tables, in reading order, as JSON and Markdown."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import Field

from serve_app.contracts import Json, Output
from serve_app.models import pages, reading, regions
from serve_app.models.contract import Answer, Model, Prepared, ResultWithOutputs
from serve_app.models.engines import processors
from serve_app.models.layout import box_of
from serve_app.models.pages import Box, Page, PageParams, TextBox, bgr
from serve_app.models.reading import Piece, Reader
from serve_app.models.regions import LayoutOptions, Region
from serve_app.models.table import LEAST_SCORE, PACKAGES, as_table, tables_in
from serve_app.models.table_grid import Grid
from serve_app.models.table_structure import centre, holds, structure
from serve_app.settings import Settings

AS_JSON, AS_MARKDOWN = "document.json", "document.md"
LEAST_CONFIDENCE: Final = 0.5
"""Of a piece of text."""
LARGE: Final = 1.2
"""Height of a title's letters, in usual ones: CDLA takes titles of one line at the top of a page for headers."""
UNLABELLED: Final = "text"
"""Label of text outside every region."""
ROOM: Final = pages.RESULT_ROOM // 2
"""Bytes of a result that its Markdown may take."""
ESCAPED: Final = str.maketrans({one: f"\\{one}" for one in "\\`*_[]<>#|"})


class DocumentResult(ResultWithOutputs):
    """The result of one page; document.json and document.md hold it whole."""

    text: str = Field(description="The page as Markdown; its start where it is long, see `truncated`")
    confidence: float = Field(ge=0, le=1, description="Mean over the text that was read; 0 without any")
    boxes: tuple[TextBox, ...] = Field(description="The regions in reading order; `text` is the label")
    regions: dict[str, int] = Field(description="How many of each label there are")
    tables: int
    truncated: bool = Field(description="Whether text and boxes are cut; document.md and document.json have all")
    model: Json = Field(description="What answered")
    image: Json = Field(description="How the image was read and what was done to it")


@dataclass(frozen=True, slots=True)
class Part:
    """A region with its content, in pixels of the page."""

    region: Region
    text: str
    table: Grid | None = None


@dataclass(frozen=True, slots=True)
class Read:
    """A page after the forward pass."""

    fields: Json
    outputs: dict[str, Output]


class Document(Model):
    """Layout, text and tables of a page in one job."""

    Params = PageParams
    Result = DocumentResult
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
    def preprocess(data: bytes | None, params: PageParams, recipe: Settings) -> Prepared:
        return pages.prepare(data, params, recipe, reading.MOST_PIXELS)

    def forward(self, items: Sequence[Page]) -> list[Read]:
        pictures = [item.pixels for item in items]
        found, read = regions.found_in(self._finder, pictures), self._reader.read(pictures)
        return [
            _result(parts_of(item.pixels, some, pieces), pieces, item)
            for item, some, pieces in zip(items, found, read, strict=True)
        ]

    def postprocess(self, output: Read, params: PageParams, notes: Json) -> Answer:
        model = {"text": reading.describe(), "layout": self._finder.describe(), "lines": "img2table"}
        return Answer(DocumentResult(**output.fields, model=model, image=notes), output.outputs)

    def warm_up_input(self) -> tuple[bytes, PageParams]:
        return pages.blank_page(), PageParams()

    def describe(self) -> Json:
        return {**super().describe(), **reading.describe(), "layout": self._finder.describe()}


def parts_of(page: pages.Pixels, found: Sequence[Region], read: Sequence[Piece]) -> list[Part]:
    """The regions in reading order with what stands in them. A piece belongs to the smallest region around its centre;
    pieces outside all regions make regions of their own. What is called a header in large letters is a title."""
    pieces = [piece for piece in read if piece.conf >= LEAST_CONFIDENCE]
    tables = tables_in(found)
    kept = [one for one in found if one.score >= LEAST_SCORE and (one.label.lower() != "table" or one.box in tables)]
    inside: dict[int, list[Piece]] = {place: [] for place in range(len(kept))}
    outside: list[Piece] = []
    for piece in pieces:
        around = [place for place, region in enumerate(kept) if holds(region.box, centre(piece.box))]
        smallest = min(around, key=lambda place: _area(kept[place].box), default=None)
        (outside if smallest is None else inside[smallest]).append(piece)
    for piece in outside:
        inside[len(kept)] = [piece]
        kept.append(Region(UNLABELLED, piece.conf, piece.box))
    usual = statistics.median(_height(piece) for piece in pieces) if pieces else 0.0
    for place, region in enumerate(kept):
        if region.label == "header" and any(_height(piece) >= LARGE * usual for piece in inside.get(place, ())):
            kept[place] = Region("title", region.score, region.box)
    places = {id(region): place for place, region in enumerate(kept)}
    picture = bgr(page)
    return [_part(picture, region, inside[places[id(region)]]) for region in regions.in_order(kept)]


def _height(piece: Piece) -> float:
    return reading.sides(piece.corners)[1]


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _part(picture: pages.Pixels, region: Region, pieces: Sequence[Piece]) -> Part:
    text = reading.text_of(reading.in_order(pieces))
    if region.label.lower() != "table":
        return Part(region, text)
    return Part(region, text, structure(picture, region.box, [word for piece in pieces for word in piece.words]))


def _result(parts: Sequence[Part], pieces: Sequence[Piece], page: Page) -> Read:
    height, width = (round(side * page.scale) for side in page.pixels.shape[:2])
    used = [piece for piece in pieces if piece.conf >= LEAST_CONFIDENCE]
    confidence = reading.confidence_of(used)
    boxes = [box_of(part.region.scaled(page.scale)).model_dump(mode="json") for part in parts]
    listed = [_as_entry(part, box, page.scale) for part, box in zip(parts, boxes, strict=True)]
    whole = {"width": width, "height": height, "confidence": confidence, "regions": listed}
    markdown = "\n\n".join(text for part in parts if (text := as_markdown(part)))
    short = pages.text_that_fits(markdown, ROOM)
    kept = pages.that_fit(boxes, pages.RESULT_ROOM - pages.size_of(short))
    fields: Json = {
        "text": short,
        "confidence": confidence,
        "boxes": kept,
        "regions": dict(Counter(part.region.label for part in parts)),
        "tables": sum(part.table is not None for part in parts),
        "truncated": short != markdown or len(kept) < len(boxes),
    }
    outputs = {
        AS_JSON: Output("application/json", pages.as_json(whole)),
        AS_MARKDOWN: Output("text/markdown", f"{markdown}\n".encode()),
    }
    return Read(fields, outputs)


def _as_entry(part: Part, box: Json, scale: float) -> Json:
    sides = {name: box[name] for name in ("x1", "y1", "x2", "y2", "conf")}
    entry = {"label": part.region.label, **sides, "text": part.text}
    return entry if part.table is None else {**entry, "table": as_table(0, part.table, scale)}


def as_markdown(part: Part) -> str:
    """A region as Markdown. Page headers and footers are left out, a figure is named."""
    label = part.region.label.lower().replace("-", "_").replace(" ", "_")
    if part.table is not None and part.table.cells:
        return _table(part.table)
    text = " ".join(part.text.split("\n")).translate(ESCAPED).strip()
    if label in ("header", "footer", "page_header", "page_footer"):
        return ""
    if label in ("figure", "picture"):
        return "*(figure)*" + (f" {text}" if text else "")
    if label == "title":
        return f"# {text}" if text else ""
    if label == "section_header":
        return f"## {text}" if text else ""
    return f"*{text}*" if text and label.endswith("caption") else text


def _table(grid: Grid) -> str:
    """Pipes and dashes. Markdown has no spans: the text is in the first cell of one."""
    cells = [[""] * grid.columns for _ in range(grid.rows)]
    for cell in grid.cells:
        cells[cell.row][cell.column] = cell.text.translate(ESCAPED)
    head, *rest = (f"| {' | '.join(row)} |" for row in cells)
    return "\n".join([head, "|" + " --- |" * grid.columns, *rest])
