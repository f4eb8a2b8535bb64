"""The first look at an image: its type by content, its size, whether it is within the limits. No pixel is decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

from serve_app.errors import ImageTooLarge, ImageUnreadable
from serve_app.images.layouts import read_layout
from serve_app.settings import MIB, Settings
from serve_app.texts import number

MEDIA_TYPES = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "TIFF": "image/tiff",
    "GIF": "image/gif",
    "WEBP": "image/webp",
    "BMP": "image/bmp",
}


COUNTED_FRAMES = 100_000
"""Frames are counted up to here."""


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What an accepted file says of itself. `width` and `height` are those of `frame`, the one of `frames` to read."""

    format: str
    media_type: str
    width: int
    height: int
    frames: int
    frame: int = 1
    """Counted from 1."""
    directory: int = 0
    """TIFF: where in the file the frame's directory is."""
    plane: int = 0
    """TIFF: which of several pictures behind that directory, from 0."""
    lost: bool = False
    """TIFF: pages beside those counted lie beyond the end of the file or are broken."""

    @property
    def pixels(self) -> int:
        return self.width * self.height


def inspect(data: bytes | BinaryIO, settings: Settings, page: int | None = None) -> ImageHeader:
    """The header of an image that is within the limits of `settings`; a file is read whole, from its start.

    `page` chooses a page or frame, from 1; without it TIFF's largest picture is meant and of other files the first.
    Raises `ImageTypeUnsupported`, `ImageTooLarge` (bytes, pixels of the page meant, frames to decode before it) or
    `ImageUnreadable` (also for a page that is not there). Names and media types that came with the file are not looked
    at. The work is bounded whatever the file holds.
    """
    if not isinstance(data, bytes):
        data.seek(0)
        data = data.read(settings.image_max_bytes + 1)
    if not data:
        raise ImageUnreadable("The image is empty.")
    if len(data) > settings.image_max_bytes:
        raise ImageTooLarge(f"The image has more than {number(settings.image_max_bytes / MIB)} MiB.")
    layout = read_layout(data, COUNTED_FRAMES)
    if page is not None and not 1 <= page <= layout.frames:
        pages = "one page" if layout.frames == 1 else f"{layout.frames} pages"
        raise ImageUnreadable(f"The file has {pages} and no page {page}: pages are counted from 1.")
    frame = page or layout.meant
    width, height, directory, plane, lost = layout.width, layout.height, 0, 0, False
    if layout.pages:
        lost = layout.pages.lost
        found, plane = layout.pages.page(frame)
        width, height, directory = found.width, found.height, found.place
    elif frame > settings.image_max_frames:  # the decoders of animations reach a frame through all that are before it
        raise ImageTooLarge(f"Of an animation only the first {settings.image_max_frames} frames can be chosen.")
    if width == 0 or height == 0:
        raise ImageUnreadable(f"The image's header says {width} x {height}: there is nothing to read.")
    pixels = width * height
    if pixels > settings.image_max_pixels:
        raise ImageTooLarge(
            f"The image has {width} x {height} = {pixels:,} pixels; at most {settings.image_max_pixels:,} are accepted."
        )
    return ImageHeader(
        layout.format, MEDIA_TYPES[layout.format], width, height, layout.frames, frame, directory, plane, lost
    )
