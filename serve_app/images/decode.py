"""Bytes to clean pixels: 8-bit grey or RGB, upright, and a plain account of how they were read (docs/images.md).

Pure; meant to run in a decode worker process with a memory and a time limit, because the decoders behind it are C
libraries that read what strangers send.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from serve_app.contracts import Json
from serve_app.errors import ImageTooCostly, ImageUndecodable, RequestError, ServiceError
from serve_app.images.header import ImageHeader, inspect
from serve_app.images.tiff import read_page
from serve_app.images.window import HIGH_PERCENTILE, LOW_PERCENTILE, to_eight_bits
from serve_app.settings import Settings

# What it logs describes the sender's file; what matters of it comes out as the job's error.
logging.getLogger("PIL").setLevel(logging.CRITICAL)

Numbers = NDArray[Any]

# TIFF tags; the first is EXIF's too.
ORIENTATION, PHOTOMETRIC, SAMPLE_FORMAT, BITS, COLORMAP, PLANES, WIDTH, HEIGHT = 274, 262, 339, 258, 320, 284, 256, 257

UPRIGHT: dict[int, Callable[[Numbers], Numbers]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: np.rot90(a, 1),
}
"""What makes an image upright, by its EXIF orientation."""


@dataclass(frozen=True, slots=True)
class Pixels:
    """`array` is uint8, (height, width) grey or (height, width, 3) RGB. `how` goes into the result as it is."""

    array: NDArray[np.uint8]
    how: Json


@dataclass(frozen=True, slots=True)
class _Reading:
    """Samples as a decoder gave them, before the window."""

    values: Numbers
    mode: str
    read_as: str
    inverted: bool = False
    orientation: int = 1
    turned: bool = False
    """True where the decoder itself has already made the image upright."""


def read_pixels(data: bytes, settings: Settings) -> Pixels:
    """The first frame of an image within the limits of `settings`.

    Raises `ImageUndecodable` with a reason, also for a file that is cut off: never half an image. Raises
    `ImageTooCostly` when memory runs out.
    """
    try:
        header = inspect(data, settings)
    except RequestError as error:
        raise ImageUndecodable(error.detail) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they describe the sender's file; the limits are ours
            reading = _read(data, header, settings.image_max_pixels)
            return _finish(reading, header)
    except ServiceError:
        raise
    except MemoryError as error:
        raise ImageTooCostly("Decoding the image took more memory than is allowed.") from error
    except Exception as error:  # the decoders answer damaged files with nearly every builtin exception
        raise ImageUndecodable(f"The {header.format} file could not be decoded: {_reason(error)}.") from error


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "its header is damaged or of an unknown kind"
    words = "".join(letter for letter in str(error) if letter.isprintable())[:200].rstrip(". ")
    return words if isinstance(error, (OSError, ValueError)) and words else "the file is damaged"


def _read(data: bytes, header: ImageHeader, max_pixels: int) -> _Reading:
    if header.format != "TIFF":
        return _from_pillow(_open(data, header.format, max_pixels), data)
    try:
        image = _open(data, "TIFF", max_pixels)
    except UnidentifiedImageError:
        return _from_tifffile(data, max_pixels)
    bits = image.tag_v2.get(BITS, (1,))  # type: ignore[attr-defined]
    if len(bits) >= 3 and max(bits) > 8 and image.mode in ("RGB", "RGBA"):
        try:  # Pillow keeps the upper 8 bits of deep colour alone
            return _from_tifffile(data, max_pixels)
        except (ValueError, NotImplementedError):
            pass
    return _from_pillow(image, data)


def _open(data: bytes, kind: str, max_pixels: int) -> Image.Image:
    """Opened, nothing decoded. Pillow's own size limit is off: `inspect` came first, and here is the second look."""
    Image.MAX_IMAGE_PIXELS = None
    image = Image.open(io.BytesIO(data), formats=(kind,))
    if image.width * image.height > max_pixels:
        raise ImageUndecodable(f"The image has {image.width} x {image.height} pixels, more than its header said.")
    return image


def _from_tifffile(data: bytes, max_pixels: int) -> _Reading:
    page = read_page(data, max_pixels)
    bits = page.values.dtype.itemsize * 8
    kind = "colour" if page.values.ndim == 3 else "greyscale"
    number = " float" if page.values.dtype.kind == "f" else ""
    return _Reading(page.values, page.layout, f"{bits}-bit{number} {kind}", page.inverted, page.orientation)


def _from_pillow(image: Image.Image, data: bytes) -> _Reading:
    tiff = isinstance(image, TiffImagePlugin.TiffImageFile)
    orientation = image.tag_v2.get(ORIENTATION, 1) if tiff else 1  # type: ignore[attr-defined]
    if tiff:
        _check_whole(image)
    image.load()
    values, read_as = _samples(image, data)
    return _Reading(
        values,
        image.mode,
        read_as,
        # Pillow inverts white-is-zero images of up to 8 bits and no others.
        inverted=tiff and values.dtype != np.uint8 and image.tag_v2.get(PHOTOMETRIC) == 0,  # type: ignore[attr-defined]
        orientation=orientation if tiff else _exif_orientation(image),
        turned=tiff,
    )


def _check_whole(image: Image.Image) -> None:
    """Pillow leaves black what no strip or tile covers; an image with a hole in it is damaged here."""
    width, height = image.tag_v2[WIDTH], image.tag_v2[HEIGHT]  # type: ignore[attr-defined]
    pieces = image.tile  # type: ignore[attr-defined]
    # libtiff is given the whole image as one piece and looks for holes itself.
    separate = image.tag_v2.get(PLANES) == 2 and pieces[0].codec_name != "libtiff"  # type: ignore[attr-defined]
    covered = 0
    for piece in pieces:
        left, upper, right, lower = piece.extents
        covered += (right - left) * (lower - upper)
    if covered < width * height * (len(image.getbands()) if separate else 1):
        raise ValueError("some of its strips or tiles are missing")


def _exif_orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged metadata beside good pixels
        return 1
    return orientation if isinstance(orientation, int) else 1


def _samples(image: Image.Image, data: bytes) -> tuple[Numbers, str]:
    mode = image.mode
    if mode == "1":
        return np.asarray(image.convert("L")), "1-bit black and white"
    if mode.startswith("I;16"):
        return np.asarray(image), "16-bit greyscale"
    if mode in ("I", "F"):
        return _wide(image)
    if mode == "P" and not image.has_transparency_data:
        return _through_palette(image)
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or image.has_transparency_data:
        return _on_white(image)
    if mode == "L":
        return _eight_bit_grey(image)
    if mode == "RGB":
        deep = (image.format == "PNG" and data[24] == 16) or _tiff_bits(image) > 8
        return np.asarray(image), "16-bit colour, upper 8 bits" if deep else "8-bit colour"
    if mode in ("RGBX", "CMYK", "YCbCr", "LAB", "HSV"):
        return np.asarray(image.convert("RGB")), f"{mode}, converted to RGB"
    raise ImageUndecodable(f"Images of the kind {mode} are not read.")


def _tiff_bits(image: Image.Image) -> int:
    return max(image.tag_v2.get(BITS, (1,))) if isinstance(image, TiffImagePlugin.TiffImageFile) else 8


def _tiff_signed(image: Image.Image) -> bool:
    return isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(SAMPLE_FORMAT, (1,))[0] == 2


def _eight_bit_grey(image: Image.Image) -> tuple[Numbers, str]:
    values = np.asarray(image)
    if _tiff_signed(image):
        return values ^ np.uint8(0x80), "signed 8-bit greyscale, shifted by 128"
    return values, "8-bit greyscale"


def _wide(image: Image.Image) -> tuple[Numbers, str]:
    values = np.asarray(image)
    if image.mode == "F":
        return values, "32-bit float greyscale"
    if isinstance(image, TiffImagePlugin.TiffImageFile) and not _tiff_signed(image):
        values = values.view(np.uint32)
    return values, f"{_tiff_bits(image) if image.format == 'TIFF' else 32}-bit integer greyscale"


def _through_palette(image: Image.Image) -> tuple[Numbers, str]:
    colours = np.zeros((256, 3), np.uint8)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        stored = np.asarray(image.tag_v2[COLORMAP]).reshape(3, -1).T[:256]
        # Some instruments store 0–255 where the standard has 0–65535.
        colours[: len(stored)] = stored // 256 if stored.max() > 255 else stored
    else:
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
    flat = Image.new(opaque, image.size, "white")
    flat.paste(image.convert(opaque), mask=image.getchannel("A"))
    return np.asarray(flat), "transparency laid on white"


def _finish(reading: _Reading, header: ImageHeader) -> Pixels:
    values, read_as = reading.values, reading.read_as
    how: Json = {}
    if values.dtype != np.uint8:
        values, (low, high) = to_eight_bits(values)
        read_as += f", window {LOW_PERCENTILE:g}–{HIGH_PERCENTILE:g} % ({low:g}–{high:g})"
        how["window"] = [low, high]
    if reading.inverted:
        values, read_as = 255 - values, read_as + ", white is zero"
    upright = UPRIGHT.get(reading.orientation)
    if upright and not reading.turned:
        values = upright(values)
    array = np.ascontiguousarray(values)
    return Pixels(
        array,
        {
            "format": header.format,
            "width": array.shape[1],
            "height": array.shape[0],
            "mode": reading.mode,
            "read_as": read_as,
            "frame": f"1 of {header.frames}",
            "rotated": upright is not None,
            **how,
        },
    )
