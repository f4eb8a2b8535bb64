"""Thumbnails: an image resized and written as PNG, JPEG, GIF or WebP."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

from PIL import Image
from pydantic import Field, model_validator

from serve_app.contracts import Json, Output
from serve_app.errors import ModelRejected
from serve_app.images.animation import is_animated, read_frames
from serve_app.images.names import safe_name
from serve_app.images.reduced import read_reduced
from serve_app.models.contract import Answer, Model, Prepared, ResultWithOutputs, Schema
from serve_app.settings import Settings

SIDE_MAX: Final = 4096
PIXELS_MAX: Final = 4_000_000
"""Of a thumbnail, all frames of an animation together: as PNG it fits into OUTPUT_MAX_BYTES even if it is noise."""
REDUCING_GAP: Final = 3.0
"""Before the filter, Pillow reduces by whole numbers to at least this many times the size: hardly visible, and fast."""
DEFAULT_MS: Final = 100
"""Duration of a frame that names none, as browsers show it."""

Mode = Literal["exact", "fit", "cover"]
Format = Literal["png", "jpeg", "gif", "webp"]
Filter = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]

EXTENSIONS: Final[dict[Format, str]] = {"png": "png", "jpeg": "jpg", "gif": "gif", "webp": "webp"}
WRITING: Final[dict[Format, Json]] = {
    "png": {},
    "jpeg": {"quality": 88, "optimize": True},
    "gif": {},
    "webp": {"quality": 85, "method": 4},
}


class ThumbnailParams(Schema):
    """What a submit may choose."""

    width: int = Field(default=100, ge=1, le=SIDE_MAX, description="In pixels")
    height: int = Field(default=100, ge=1, le=SIDE_MAX, description="In pixels")
    mode: Mode = Field(
        default="exact",
        description="`exact`: width x height, whatever the shape; `fit`: the whole image within them, in its own shape "
        "and never enlarged; `cover`: width x height, filled by the middle of the image",
    )
    format: Format = Field(default="png", description="Of the file")
    filter: Filter = Field(default="lanczos", description="How pixels are combined: from the fastest to the best")
    animated: bool = Field(
        default=False, description="Keep all frames of an animated GIF or WebP, with their durations, in gif or webp"
    )
    page: int | None = Field(
        default=None,
        ge=1,
        description="Which page or frame of the file, from 1. By default TIFF's largest picture, else the first",
    )
    file_name: str = Field(
        default="",
        max_length=255,
        description="Of the image, for the name of the output. By default that of the upload or of the URL",
    )

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.width * self.height > PIXELS_MAX:
            raise ValueError(f"width x height may be at most {PIXELS_MAX:,} pixels")
        if self.animated and self.format not in ("gif", "webp"):
            raise ValueError("animated needs the format gif or webp")
        if self.animated and self.page is not None:
            raise ValueError("animated keeps all frames: leave page out")
        return self


class Thumbnail(ResultWithOutputs):
    """The result of one image; the file is an output of the job."""

    file: str = Field(description="Name of the output")
    width: int
    height: int
    mode: Mode
    format: Format
    filter: Filter
    frames: int = Field(description="1, or the frames of an animation")
    model: Json = Field(description="What answered")
    image: Json = Field(description="How the image was read")


@dataclass(frozen=True, slots=True)
class Made:
    """A written thumbnail."""

    data: bytes
    width: int
    height: int
    frames: int


class ThumbnailModel(Model):
    """Reads, resizes and writes in the decode worker, where memory and time are limited. Nothing is computed after
    that."""

    reads_in_steps = True
    Params = ThumbnailParams
    Result = Thumbnail

    def load(self, settings: Settings) -> None:
        self.recipe = settings

    @staticmethod
    def preprocess(data: bytes | None, params: ThumbnailParams, recipe: Settings) -> Prepared:
        if data is None:
            raise ModelRejected("This model needs an image.")
        if params.animated and is_animated(data, recipe):
            return _animation(data, params, recipe)
        pixels = read_reduced(data, recipe, (params.width, params.height), params.page)
        small = _resized(Image.fromarray(pixels.array), params)
        return Prepared(_written([small], params), pixels.how)

    def forward(self, items: Sequence[Made]) -> list[Made]:
        return list(items)

    def postprocess(self, output: Made, params: ThumbnailParams, notes: Json) -> Answer:
        extension = EXTENSIONS[params.format]
        name = safe_name(params.file_name, prefix="thumb_", extension=extension)
        result = Thumbnail(
            file=name,
            width=output.width,
            height=output.height,
            mode=params.mode,
            format=params.format,
            filter=params.filter,
            frames=output.frames,
            model=self.describe(),
            image=notes,
        )
        return Answer(result, {name: Output(f"image/{params.format}", output.data)})

    def warm_up_input(self) -> tuple[bytes, ThumbnailParams]:
        file = io.BytesIO()
        Image.linear_gradient("L").save(file, "PNG")
        return file.getvalue(), ThumbnailParams()

    def describe(self) -> Json:
        return {**super().describe(), "id": "thumbnail", "revision": "1", "engine": "Pillow"}


def _animation(data: bytes, params: ThumbnailParams, settings: Settings) -> Prepared:
    frames, durations = [], []
    how: Json = {}
    most = PIXELS_MAX // (params.width * params.height)
    for frame in read_frames(data, settings, most):
        frames.append(_resized(Image.fromarray(frame.pixels.array), params))
        durations.append(frame.duration_ms or DEFAULT_MS)
        how = how or frame.pixels.how
    return Prepared(_written(frames, params, durations), {**how, "frame": f"all {len(frames)}"})


def _resized(image: Image.Image, params: ThumbnailParams) -> Image.Image:
    size, box = _geometry(image.size, params)
    return image.resize(size, Image.Resampling[params.filter.upper()], box, REDUCING_GAP)


def _geometry(
    size: tuple[int, int], params: ThumbnailParams
) -> tuple[tuple[int, int], tuple[float, float, float, float]]:
    """Width and height of the thumbnail, and the part of the image that it shows."""
    width, height = size
    wanted = (params.width, params.height)
    if params.mode == "fit":
        scale = min(1.0, params.width / width, params.height / height)
        return (max(1, round(width * scale)), max(1, round(height * scale))), (0, 0, width, height)
    if params.mode == "exact":
        return wanted, (0, 0, width, height)
    scale = max(params.width / width, params.height / height)
    across, down = min(width, params.width / scale), min(height, params.height / scale)
    left, top = (width - across) / 2, (height - down) / 2
    return wanted, (left, top, left + across, top + down)


def _written(images: list[Image.Image], params: ThumbnailParams, durations: Sequence[int] = ()) -> Made:
    options: dict[str, Any] = dict(WRITING[params.format])
    if len(images) > 1:
        options |= {"save_all": True, "append_images": images[1:], "duration": list(durations), "loop": 0}
    file = io.BytesIO()
    images[0].save(file, params.format.upper(), **options)
    frames = getattr(Image.open(file), "n_frames", 1)  # equal ones are joined
    return Made(file.getvalue(), images[0].width, images[0].height, frames)
