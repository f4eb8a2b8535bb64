"""The layout of a page: where its text, titles, tables and figures are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from serve_app.contracts import Json
from serve_app.models import pages, regions
from serve_app.models.contract import Model, Prepared, Schema
from serve_app.models.pages import Page, PageParams, TextBox
from serve_app.models.regions import LayoutOptions, Region
from serve_app.settings import Settings


class LayoutParams(PageParams):
    """What a submit may choose."""

    min_confidence: float = Field(default=0.4, ge=0.3, le=1, description="Regions below it are left out")


class LayoutResult(Schema):
    """The result of one page."""

    text: str = Field(description="The labels of the boxes, separated by commas")
    confidence: float = Field(ge=0, le=1, description="Mean over the boxes; 0 without any")
    boxes: tuple[TextBox, ...] = Field(description="The regions in reading order; `text` is the label")
    model: Json = Field(description="What answered: id, engine, and of a checkpoint revision and the weights' sha256")
    image: Json = Field(description="How the image was read and what was done to it")


class Layout(Model):
    """Finds regions with CDLA's network, or with a checkpoint that the block's settings name."""

    Params = LayoutParams
    Result = LayoutResult
    Options = LayoutOptions

    @classmethod
    def missing(cls, settings: Settings, options: Any) -> str | None:
        return regions.missing(settings, options)

    def load(self, settings: Settings) -> None:
        self._finder = regions.load_finder(settings, self.options)
        self.labels = self._finder.labels
        self.recipe = settings

    @staticmethod
    def preprocess(data: bytes | None, params: LayoutParams, recipe: Settings) -> Prepared:
        return pages.prepare(data, params, recipe, regions.MOST_PIXELS)

    def forward(self, items: Sequence[Page]) -> list[list[Region]]:
        found = self._finder.find([item.pixels for item in items])
        return [
            [one.scaled(item.scale) for one in regions.in_order(some)] for item, some in zip(items, found, strict=True)
        ]

    def postprocess(self, output: Sequence[Region], params: LayoutParams, notes: Json) -> LayoutResult:
        kept = [region for region in output if region.score >= params.min_confidence]
        return LayoutResult(
            text=",".join(region.label for region in kept),
            confidence=round(sum(region.score for region in kept) / len(kept), 4) if kept else 0.0,
            boxes=tuple(box_of(region) for region in kept),
            model=self._finder.describe(),
            image=notes,
        )

    def warm_up_input(self) -> tuple[bytes, LayoutParams]:
        return pages.blank_page(), LayoutParams()

    def describe(self) -> Json:
        return {**super().describe(), "device": self._finder.device, **self._finder.describe()}


def box_of(region: Region) -> TextBox:
    """A region as an entry of a result."""
    left, top, right, bottom = pages.scaled(region.box, 1)
    return TextBox(x1=left, y1=top, x2=right, y2=bottom, text=region.label, conf=region.score)
