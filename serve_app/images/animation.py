"""The frames of an animated GIF or WebP, one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from serve_app.errors import ImageTooCostly
from serve_app.images.decode import Pixels, decoding, finish, from_pillow, inspected, open_bounded
from serve_app.settings import Settings

FORMATS: Final = ("GIF", "WEBP")
FRAMES_MAX: Final = 500
FRAME_PIXELS_MAX: Final = 400_000_000
"""Pixels of all frames together: they are all decoded."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame, with everything below it drawn; 0 ms if the file names no duration."""

    pixels: Pixels
    duration_ms: int


def is_animated(data: bytes, settings: Settings) -> bool:
    """Whether `read_frames` finds more than one frame. Raises as `read_pixels`."""
    header = inspected(data, settings)
    return header.format in FORMATS and header.frames > 1


def read_frames(data: bytes, settings: Settings, most: int) -> Iterator[Frame]:
    """The frames in order. Raises as `read_pixels`, and `ImageTooCostly` for more than `most` frames or too many pixels
    together."""
    header = inspected(data, settings)
    most = min(most, FRAMES_MAX, FRAME_PIXELS_MAX // header.pixels)
    if header.frames > most:
        raise ImageTooCostly(
            f"The animation has {header.frames} frames; at this size at most {most} are kept. Ask for smaller frames, "
            "or for one of them."
        )
    with decoding(header):
        image = open_bounded(data, header.format, settings.image_max_pixels)
        for number in range(header.frames):
            image.seek(number)
            reading = from_pillow(image)
            yield Frame(finish(reading, header), int(image.info.get("duration", 0)))
