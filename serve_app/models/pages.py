"""Pages: images whose text, layout or tables are wanted, in pixels of a bounded size.

A decode worker reads an image and scales it down to what the model uses. Boxes are measured in these pixels and
multiplied by `Page.scale`, so that a result is always in pixels of the upright image.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BeforeValidator, Field

from serve_app.contracts import Json
from serve_app.errors import ModelRejected
from serve_app.images.decode import read_pixels
from serve_app.models.contract import Prepared, Schema
from serve_app.settings import Settings

RESULT_ROOM: Final = 56_000
"""Bytes of a result's 64 kB that text, boxes and tables may take together; the rest is for `model` and `image`."""
LONGEST_SIDE: Final = 10_000
"""Of a page, in pixels: OpenCV takes at most 32,767, and padding makes strips as high as an eighth of their width."""
LOGGERS: Final = (
    "RapidLayout",
    "RapidOCR",
    "rapid_layout.inference_engine.base",
    "rapid_layout.inference_engine.onnxruntime.main",
    "rapid_layout.inference_engine.onnxruntime.provider_config",
    "rapid_layout.model_handler.main",
    "rapid_layout.model_handler.utils",
    "rapid_layout.utils.typings",
)
"""Loggers that set their own level and write to the replica's standard error."""

Box = tuple[float, float, float, float]
"""x_min, y_min, x_max, y_max."""
Pixels = NDArray[np.uint8]


class PageParams(Schema):
    """What a submit to a model of pages may choose."""

    page: int | None = Field(
        default=None,
        ge=1,
        description="Which page or frame of the file, from 1. By default TIFF's largest picture, else the first",
    )


class TextBox(Schema):
    """A rectangle with its text or label, in pixels of the upright image."""

    x1: float
    y1: float
    x2: float
    y2: float
    text: str
    conf: Annotated[float, Field(ge=0, le=1), BeforeValidator(lambda conf: round(float(conf), 4))]
    polygon: tuple[tuple[float, float], ...] | None = Field(
        default=None,
        exclude_if=lambda polygon: polygon is None,
        description="The four corners of a tilted line, from its upper left one clockwise, where `polygons` asked",
    )


@dataclass(frozen=True, slots=True)
class Page:
    """One item of a forward pass. `pixels` is (height, width) grey or (height, width, 3) RGB."""

    pixels: Pixels
    scale: float
    """What a length in these pixels is multiplied by, for pixels of the upright image."""
    params: Any


def prepare(data: bytes | None, params: PageParams, settings: Settings, most_pixels: int) -> Prepared:
    """The image as a `Page` of at most `most_pixels`, and no side above LONGEST_SIDE."""
    if data is None:
        raise ModelRejected("This model needs an image.")
    pixels = read_pixels(data, settings, params.page)
    array, scale = shrunk(pixels.array, most_pixels)
    how = pixels.how if scale == 1 else {**pixels.how, "resized_to": f"{array.shape[1]}x{array.shape[0]}, box"}
    return Prepared(Page(array, scale, params), how)


def shrunk(pixels: Pixels, most_pixels: int) -> tuple[Pixels, float]:
    """The picture with at most `most_pixels`, and what a length in it is multiplied by for one in `pixels`."""
    height, width = pixels.shape[:2]
    shrink = min((most_pixels / (height * width)) ** 0.5, LONGEST_SIDE / max(height, width))
    if shrink >= 1:
        return pixels, 1.0
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX, reducing_gap=2.0)), 1 / shrink


def bgr(pixels: Pixels) -> Pixels:
    """As OpenCV and the libraries on it take colour."""
    colour = np.repeat(pixels[:, :, None], 3, axis=2) if pixels.ndim == 2 else pixels[:, :, ::-1]
    return np.ascontiguousarray(colour)


def scaled(box: Sequence[float], factor: float) -> Box:
    """The box multiplied, rounded as results are."""
    left, top, right, bottom = (round(float(side) * factor, 1) for side in box)
    return left, top, right, bottom


def lacking(*packages: str) -> str | None:
    """The sentence for packages that are not installed, with the command that gets them; None if all are."""
    absent = [name for name in packages if find_spec(name) is None]
    if not absent:
        return None
    return f"It needs {' and '.join(absent)}: pip install 'sem-image-classifier[documents]'."


def weights_in(package: str, name: str) -> Path:
    """A file of weights that an installed package carries."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"{package} is not installed.")
    return Path(spec.origin).parent / "models" / name


def version(package: str) -> str:
    """Of an installed package; the revision of the weights in it."""
    return metadata.version(package)


def silence() -> None:
    """Keep the libraries' log lines, which describe their own files and the sender's images, out of the log."""
    for name in LOGGERS:
        logging.getLogger(name).disabled = True


def size_of(content: Any) -> int:
    """Bytes of a result's part as JSON, with its separator. Jobs measure results in the same way."""
    return len(json.dumps(content)) + 2


def that_fit(entries: Sequence[Json], room: int) -> list[Json]:
    """The first entries, as many as have room."""
    kept: list[Json] = []
    for entry in entries:
        room -= size_of(entry)
        if room < 0:
            break
        kept.append(entry)
    return kept


def text_that_fits(text: str, room: int) -> str:
    """The start of a text whose JSON has room, cut after a whole line where it has several."""
    if size_of(text) <= room:
        return text
    cut = text[: room - 4]
    while size_of(cut) > room:
        cut = cut[: int(len(cut) * room / size_of(cut))]
    return cut[: cut.rfind("\n")] if "\n" in cut else cut


def as_json(content: Any) -> bytes:
    """A file of a result."""
    return json.dumps(content, ensure_ascii=False).encode()


def blank_page() -> bytes:
    """A small PNG for the warm-up, with the shape of a line of text."""
    page = np.full((160, 320), 255, np.uint8)
    for left in range(40, 280, 16):
        page[70:90, left : left + 5] = 0
    file = io.BytesIO()
    Image.fromarray(page).save(file, "PNG")
    return file.getvalue()
