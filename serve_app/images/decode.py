"""Bytes to clean pixels: 8-bit grey or RGB, upright, with a description of how they were read (docs/images.md).

Runs in a decode worker process with a memory and a time limit, because the decoders are C libraries that read untrusted
files.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from serve_app.contracts import Json
from serve_app.errors import ImageTooCostly, ImageUndecodable, RequestError, ServiceError
from serve_app.images.header import ImageHeader, inspect
from serve_app.images.jpeg import clean, completed
from serve_app.images.png import deep_samples, read_png
from serve_app.images.tiff import Page, read_page
from serve_app.images.window import Bar, to_eight_bits
from serve_app.settings import Settings

# Its log lines describe the sender's file; relevant ones become the job's error.
logging.getLogger("PIL").setLevel(logging.CRITICAL)

Numbers = NDArray[Any]

ORIENTATION = 274
"""The EXIF tag."""

UPRIGHT: dict[int, Callable[[Numbers], Numbers]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: np.rot90(a, 1),
}
"""The transformation that makes an image upright, by EXIF orientation."""


@dataclass(frozen=True, slots=True)
class Pixels:
    """`array` is uint8, (height, width) grey or (height, width, 3) RGB. `how` goes into the result unchanged."""

    array: NDArray[np.uint8]
    how: Json


@dataclass(frozen=True, slots=True)
class Reading:
    """Samples as the decoder returned them, before windowing."""

    values: Numbers
    mode: str
    read_as: str
    inverted: bool = False
    orientation: int = 1
    alpha: NDArray[np.float32] | None = None
    """Opacity from 0 to 1, (height, width); None if the decoder has applied it or there is none."""
    no_data: tuple[float, ...] = ()
    """Values that the file declares as no data."""
    bar: Bar | None = None
    """The data bar, if the file's metadata name it."""


def read_pixels(data: bytes, settings: Settings, page: int | None = None) -> Pixels:
    """Page or frame `page` (from 1) of an image within the limits of `settings`; see `inspect` for which without it.

    Raises `ImageUndecodable` with a reason, also for a truncated file: half an image is never returned. Raises
    `ImageTooCostly` if memory runs out.
    """
    header = inspected(data, settings, page)
    with decoding(header):
        return finish(read(data, header, settings.image_max_pixels), header)


def inspected(data: bytes, settings: Settings, page: int | None = None, *, in_steps: bool = False) -> ImageHeader:
    """As `inspect`, for a job that has been accepted. Raises `ImageUndecodable`."""
    try:
        return inspect(data, settings, page, in_steps=in_steps)
    except RequestError as error:
        raise ImageUndecodable(error.detail) from error


@contextmanager
def decoding(header: ImageHeader) -> Iterator[None]:
    """Turns the errors of decoders inside the block into `ImageUndecodable` and `ImageTooCostly`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they describe the sender's file; the limits are checked here
            yield
    except ServiceError:
        raise
    except MemoryError as error:
        raise ImageTooCostly("Decoding the image took more memory than is allowed.") from error
    except Exception as error:  # decoders raise nearly every builtin exception for damaged files
        raise ImageUndecodable(f"The {header.format} file could not be decoded: {_reason(error)}.") from error


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "its header is damaged or of an unknown kind"
    words = "".join(letter for letter in str(error) if letter.isprintable())[:200].rstrip(". ")
    return words if isinstance(error, (OSError, ValueError)) and words else "the file is damaged"


def read(data: bytes, header: ImageHeader, max_pixels: int) -> Reading:
    """The samples of the picture that `header` names."""
    if header.format == "TIFF":
        return _from_tiff(data, header, max_pixels)
    if header.format == "PNG":
        return _from_png(data, header, max_pixels)
    if header.format == "JPEG":
        return read_jpeg(data, max_pixels)
    image = open_bounded(data, header.format, max_pixels)
    if header.frame > 1:
        image.seek(header.frame - 1)
    return from_pillow(image)


def _from_png(data: bytes, header: ImageHeader, max_pixels: int) -> Reading:
    png = read_png(data, animated=header.frame > 1)
    image = open_bounded(png.clean, "PNG", max_pixels)
    if png.bits == 16:
        if header.frame > 1:
            raise ValueError("of a 16-bit animation only the first picture is read")
        values, alpha = deep_samples(png)
        mode, kind = ("I;16", "greyscale") if values.ndim == 2 else ("RGB;16", "colour")
        reading = Reading(values, mode, f"16-bit {kind}", orientation=_exif_orientation(image), alpha=alpha)
    else:
        if header.frame > 1:
            image.seek(header.frame - 1)
        reading = from_pillow(image)
    if png.damaged:
        return replace(reading, read_as=f"{reading.read_as}, damaged {' and '.join(png.damaged)} left out")
    return reading


def read_jpeg(data: bytes, max_pixels: int, scale: int = 1, *, whole: bool = True) -> Reading:
    """The samples of a JPEG file, perhaps scaled to a half, a quarter or an eighth while it is decoded.

    Without `whole`, the check for missing pixels takes little memory (`completed`).
    """
    plain, metadata = clean(data)
    open_bounded(plain, "JPEG", max_pixels)
    image = open_bounded(completed(plain, whole=whole), "JPEG", max_pixels)
    image.info.update(metadata)
    if scale > 1:
        image.draft(None, (max(1, image.width // scale), max(1, image.height // scale)))
    return from_pillow(image)


def open_bounded(data: bytes, kind: str, max_pixels: int) -> Image.Image:
    """Open without decoding. Pillow's own size limit is off: `inspect` checked the size, and it is checked again
    here."""
    Image.MAX_IMAGE_PIXELS = None
    image = Image.open(io.BytesIO(data), formats=(kind,))
    if image.width * image.height > max_pixels:
        raise ImageUndecodable(f"The image has {image.width} x {image.height} pixels, more than its header said.")
    return image


def _from_tiff(data: bytes, header: ImageHeader, max_pixels: int) -> Reading:
    return of_page(read_page(data, header, max_pixels))


def of_page(page: Page) -> Reading:
    """The samples of a TIFF page."""
    return Reading(
        page.values,
        page.mode,
        page.read_as,
        inverted=page.inverted,
        orientation=page.orientation,
        alpha=page.alpha,
        no_data=page.no_data,
        bar=page.bar,
    )


def from_pillow(image: Image.Image) -> Reading:
    """The samples of an opened image."""
    image.load()
    values, read_as = _samples(image)
    return Reading(values, image.mode, read_as, orientation=_exif_orientation(image))


def _exif_orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged metadata, intact pixels
        return 1
    return orientation if isinstance(orientation, int) else 1


def _samples(image: Image.Image) -> tuple[Numbers, str]:
    """The samples of a loaded image, with transparency laid on white, and what to call them."""
    mode = image.mode
    if mode == "1":
        return np.asarray(image.convert("L")), "1-bit black and white"
    if mode.startswith("I;16"):
        return np.asarray(image), "16-bit greyscale"
    if mode in ("I", "F"):
        values = np.asarray(image)
        return values, "32-bit float greyscale" if mode == "F" else "32-bit integer greyscale"
    if mode == "P" and not image.has_transparency_data:
        return _through_palette(image)
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or image.has_transparency_data:
        return _on_white(image)
    if mode == "L":
        return np.asarray(image), "8-bit greyscale"
    if mode == "RGB":
        return np.asarray(image), "8-bit colour"
    if mode in ("RGBX", "CMYK", "YCbCr", "LAB", "HSV"):
        return np.asarray(image.convert("RGB")), f"{mode}, converted to RGB"
    raise ImageUndecodable(f"Images of the kind {mode} are not read.")


def _through_palette(image: Image.Image) -> tuple[Numbers, str]:
    colours = np.zeros((256, 3), np.uint8)
    listed = np.frombuffer(bytes(image.getpalette("RGB") or b""), np.uint8).reshape(-1, 3)[:256]
    colours[: len(listed)] = listed
    indices = np.asarray(image)
    used = colours[np.flatnonzero(image.histogram())]
    if (used == used[:, :1]).all():
        return colours[:, 0][indices], "grey palette, read as 8-bit greyscale"
    return colours[indices], "colour palette, read as RGB"


def _on_white(image: Image.Image) -> tuple[Numbers, str]:
    grey = image.mode in ("L", "LA", "La")
    opaque, clear = ("L", "LA") if grey else ("RGB", "RGBA")
    if image.mode != clear:
        image = image.convert(clear)
    alpha, plain = image.getchannel("A"), image.convert(opaque)
    least, most = alpha.getextrema()
    kind = "8-bit greyscale" if grey else "8-bit colour"
    if most == 0:  # a program that leaves all opacity at 0 means a picture, not a blank page
        return np.asarray(plain), f"{kind}, transparent everywhere and so read as opaque"
    if least == 255:
        return np.asarray(plain), kind
    flat = Image.new(opaque, image.size, "white")
    flat.paste(plain, mask=alpha)
    return np.asarray(flat), "transparency laid on white"


def finish(reading: Reading, header: ImageHeader) -> Pixels:
    """Samples as 8-bit grey or RGB, opaque and upright."""
    values, read_as, alpha = reading.values, reading.read_as, reading.alpha
    how: Json = {}
    unseen = alpha is not None and not alpha.any()
    if unseen:
        alpha = None
    if values.dtype != np.uint8:
        values, window = to_eight_bits(
            values, no_data=reading.no_data, bar=reading.bar, alpha=alpha, inverted=reading.inverted
        )
        read_as += f", {window}"
        how["window"] = [window.low, window.high]
    elif reading.inverted:
        values, read_as = 255 - values, read_as + ", white is zero"
    if unseen:
        read_as += ", transparent everywhere and so read as opaque"
    elif alpha is not None and (alpha < 1).any():
        values, read_as = _laid_on_white(values, alpha), read_as + ", transparency laid on white"
    upright = UPRIGHT.get(reading.orientation)
    array = np.ascontiguousarray(upright(values) if upright else values)
    return Pixels(
        array,
        {
            "format": header.format,
            "width": array.shape[1],
            "height": array.shape[0],
            "mode": reading.mode,
            "read_as": read_as,
            "frame": f"{header.frame} of {header.frames}{', others are cut off or damaged' if header.lost else ''}",
            "rotated": upright is not None,
            **how,
        },
    )


def _laid_on_white(values: Numbers, alpha: NDArray[np.float32]) -> NDArray[np.uint8]:
    opacity = alpha if values.ndim == 2 else alpha[:, :, None]
    laid: NDArray[np.uint8] = np.rint(255 - (255 - values.astype(np.float32)) * opacity).astype(np.uint8)
    return laid
