"""The first look at an image: its type by content, its size, whether it is within the limits. No pixel is decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

from serve_app.errors import ImageTooLarge, ImageUnreadable
from serve_app.images.layouts import read_layout
from serve_app.settings import MIB, Settings

MEDIA_TYPES = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "TIFF": "image/tiff",
    "GIF": "image/gif",
    "WEBP": "image/webp",
    "BMP": "image/bmp",
}


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What an accepted file says of itself. `pixels` is width x height x frames."""

    format: str
    media_type: str
    width: int
    height: int
    frames: int

    @property
    def pixels(self) -> int:
        return self.width * self.height * self.frames


def inspect(data: bytes | BinaryIO, settings: Settings) -> ImageHeader:
    """The header of an image that is within the limits of `settings`; a file is read whole, from its start.

    Raises `ImageTypeUnsupported`, `ImageTooLarge` (bytes, pixels of one frame, frames) or `ImageUnreadable`. Names and
    media types that came with the file are not looked at. The work is bounded whatever the file holds.
    """
    if not isinstance(data, bytes):
        data.seek(0)
        data = data.read(settings.image_max_bytes + 1)
    if not data:
        raise ImageUnreadable("The image is empty.")
    if len(data) > settings.image_max_bytes:
        raise ImageTooLarge(f"The image has more than {settings.image_max_bytes / MIB:g} MiB.")
    layout = read_layout(data, settings.image_max_frames)
    if layout.width == 0 or layout.height == 0:
        raise ImageUnreadable(f"The image's header says {layout.width} x {layout.height}: there is nothing to read.")
    pixels = layout.width * layout.height
    if pixels > settings.image_max_pixels:
        raise ImageTooLarge(
            f"The image has {layout.width} x {layout.height} = {pixels:,} pixels; "
            f"at most {settings.image_max_pixels:,} are accepted."
        )
    if layout.frames > settings.image_max_frames:
        raise ImageTooLarge(f"The file has more than {settings.image_max_frames} frames.")
    return ImageHeader(layout.format, MEDIA_TYPES[layout.format], layout.width, layout.height, layout.frames)
