"""TIFF pages, read by tifffile and imagecodecs: what the samples of a page mean, by its tags.

Colours, white as zero, opacity, undeclared floats, values for no data, the data bar. Unsupported kinds are refused by
name.
"""

from __future__ import annotations

import io
import logging
import math
import re
import struct
from dataclasses import dataclass, replace
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tifffile import PHOTOMETRIC, TIFF, TiffFile, TiffPage

from serve_app.images.header import ImageHeader
from serve_app.images.tiff_samples import CCITT, JPEG, bits_of, check_size, compression_name, read_samples
from serve_app.images.window import Bar

# Its warnings describe the sender's file; relevant ones become the job's error.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)

Numbers = NDArray[Any]

SAMPLE_FORMAT, ORIENTATION, PHOTOMETRIC_TAG, EXTRA_SAMPLES, INK_SET, NO_DATA = 339, 274, 262, 338, 332, 42113
FEI, TESCAN = (34680, 34682), 50431
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, CIELAB, ICCLAB = 0, 1, 2, 3, 5, 6, 8, 9
ASSOCIATED, UNASSOCIATED = 1, 2
BASE_SAMPLES = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3, CIELAB: 3, ICCLAB: 3}

OLD_JPEG, WORD_RLE, THUNDERSCAN = 6, 32771, 32809

DECISIVE = frozenset(
    {*range(256, 260), 262, 266, 273, 274, *range(277, 280), 284, 317, 320, *range(322, 326), 332, 338, 339, 347, 42113}
)
"""Tags that change the picture if they are missing; `TiffPage` skips those that it cannot read."""

MODES = {(1, "uint8"): "L", (3, "uint8"): "RGB", (1, "uint16"): "I;16", (1, "int32"): "I", (1, "float32"): "F"}
"""Pillow's mode names, for the kinds that have one."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page as stored: `values` is (height, width) or (height, width, 3), uint8 or still to be windowed."""

    values: Numbers
    mode: str
    read_as: str
    inverted: bool
    """True where small numbers mean white."""
    orientation: int
    """The TIFF and EXIF number, 1 to 8; 1 is upright."""
    alpha: NDArray[np.float32] | None
    """Opacity from 0 to 1, (height, width)."""
    no_data: tuple[float, ...]
    """Values that the file declares as no data."""
    bar: Bar | None
    """The data bar, if the instrument's metadata name it."""
    steps: str = ""
    """Which pixels were kept, if not all."""


def read_page(data: bytes, header: ImageHeader, max_pixels: int, step: int = 1) -> Page:
    """The page of a TIFF file that `header` names; with a `step` at that fraction of its width and height.

    Raises `ValueError` with a readable reason if the file is truncated or of an unsupported kind, and nearly any
    exception if it is damaged."""
    with TiffFile(io.BytesIO(data), _multifile=False, is_lsm=False, is_scanimage=False, is_ndpi=False) as file:
        page = file.pages.first
        if not isinstance(page, TiffPage) or page.offset != header.directory:
            file.filehandle.seek(header.directory)
            page = TiffPage(file, index=header.frame - 1)
        _check_tags(page, data)
        check_size(page, max_pixels)
        old = page.compression in (OLD_JPEG, WORD_RLE, THUNDERSCAN)
        if old or (page.photometric == YCBCR and page.compression not in JPEG):
            if step > 1:
                raise ValueError(f"it is too large to be read whole, as {compression_name(page)} of its kind must be")
            return _by_libtiff(page, data, header)
        samples, steps = read_samples(page, data, header.plane, max_pixels, step)
        found = _page(page, samples)
        bar = replace(found.bar, lines=math.ceil(found.bar.lines / step)) if found.bar else None
        return replace(found, bar=bar, steps=steps)


def _check_tags(page: TiffPage, data: bytes) -> None:
    kind = page.parent.tiff
    (count,) = struct.unpack_from(kind.tagnoformat, data, page.offset)
    start = page.offset + kind.tagnosize
    for at in range(start, start + count * kind.tagsize, kind.tagsize):
        (tag,) = struct.unpack_from(kind.byteorder + "H", data, at)
        if tag in DECISIVE and tag not in page.tags:
            raise ValueError(f"its tag {tag} ({TIFF.TAGS.get(tag, 'unnamed')}) is damaged or lies beyond its end")


def _page(page: TiffPage, samples: Numbers) -> Page:
    kind = _photometric(page)
    if kind not in BASE_SAMPLES:
        raise ValueError(f"its colours are not read ({_colours(kind)})")
    base, count = BASE_SAMPLES[kind], samples.shape[2]
    if kind == YCBCR:  # its decoder has converted it to RGB, except in these cases
        if page.planarconfig == 2 or count != base:
            raise ValueError("JPEG of YCbCr in planes or with more samples is not read")
        kind = RGB
    if count < base:
        raise ValueError(f"it has {count} samples per pixel, too few for {_colours(kind)}")
    if samples.dtype.kind == "u" and samples.dtype.itemsize >= 4 and page.tags.valueof(SAMPLE_FORMAT) in (None, 4):
        samples = _by_the_bits(samples)
    values, alpha = _opacity(page, samples, base, kind)
    values, read_as = _shown(page, values, kind)
    if count > base == 1 and alpha is None:
        read_as += f", first of {count} channels"
    return Page(
        values,
        MODES.get((count, str(samples.dtype)), f"{count} x {samples.dtype}"),
        read_as,
        kind == WHITE_IS_ZERO,
        _orientation(page),
        alpha,
        _no_data(page),
        _named_bar(page),
    )


def _shown(page: TiffPage, values: Numbers, kind: int) -> tuple[Numbers, str]:
    """The samples without opacity as grey or RGB, and what to call them."""
    if kind in (WHITE_IS_ZERO, BLACK_IS_ZERO):
        return _plain(values[:, :, 0], bits_of(page), "greyscale")
    if kind == RGB:
        return _plain(values, bits_of(page), "colour")
    if kind == PALETTE:
        return _through_palette(values[:, :, 0], page)
    return _converted(values, kind, page)


def _orientation(page: TiffPage) -> int:
    orientation = page.tags.valueof(ORIENTATION, 1)
    return orientation if isinstance(orientation, int) else 1


def _photometric(page: TiffPage) -> int:
    if PHOTOMETRIC_TAG in page.tags:
        return int(page.photometric)
    if page.samplesperpixel >= 3:
        return RGB
    return WHITE_IS_ZERO if page.compression in CCITT else BLACK_IS_ZERO


def _colours(kind: int) -> str:
    try:
        return f"photometric {PHOTOMETRIC(kind).name}"
    except ValueError:
        return f"photometric {kind}"


def _by_the_bits(words: Numbers) -> Numbers:
    """32- or 64-bit words without SampleFormat: floats if only floats look like this, else integers.

    Pictures of floats span a few decades around 1, so the exponents of their words are close together and near the
    middle. Counts and full-scale integers read as floats have tiny exponents, or exponents over the whole range.
    Integers are unsigned (TIFF 6.0), unless they lie at both ends of the unsigned range and close together as signed.
    """
    width = words.dtype.itemsize * 8
    mantissa, middle, exponents = (23, 127, 0xFF) if width == 32 else (52, 1023, 0x7FF)
    signed = words.view(f"i{words.dtype.itemsize}")
    below = signed[signed < 0]  # a single negative value is a mask or white
    integers = signed if below.size and _span(below) and _span(signed) < _span(words) / 4 else words
    used = words[words != 0]
    exponent = (used >> np.array(mantissa, words.dtype)) & np.array(exponents, words.dtype)
    finite = exponent[exponent != exponents].astype(np.int64)
    if finite.size <= used.size / 2:
        return integers
    low, high = np.percentile(finite, (1, 99))
    near = (np.abs(finite - middle) <= 40).mean()
    if near >= 0.98 and high - low <= 24:
        return words.view(f"f{words.dtype.itemsize}")
    if near <= 0.5 and (high - low > 24 or high <= 24):
        return integers
    raise ValueError(
        f"its {width}-bit samples have no SampleFormat tag and may be integers or floats: save it with that tag"
    )


def _span(values: Numbers) -> int:
    return int(values.max()) - int(values.min())


def _opacity(page: TiffPage, samples: Numbers, base: int, kind: int) -> tuple[Numbers, NDArray[np.float32] | None]:
    """The colour samples, and the opacity from 0 to 1 if one of the extra samples is declared as opacity."""
    values, extra = samples[:, :, :base], samples.shape[2] - base
    meanings = page.extrasamples[:extra]
    if EXTRA_SAMPLES not in page.tags and kind == RGB and extra == 1:
        meanings = (UNASSOCIATED,)  # as all readers treat an undeclared fourth sample
    for index, meaning in enumerate(meanings):
        if meaning in (ASSOCIATED, UNASSOCIATED):
            bits = bits_of(page)
            alpha = _share(samples[:, :, base + index], bits)
            multiplied = meaning == ASSOCIATED and kind in (RGB, WHITE_IS_ZERO, BLACK_IS_ZERO)
            return _unmultiplied(values, alpha, bits) if multiplied else values, alpha
    return values, None


def _share(alpha: Numbers, bits: int) -> NDArray[np.float32]:
    """Alpha scaled to 0 to 1. If 1 or 12 bits are stored in 16, the greatest value is the full scale."""
    most = alpha.max()
    if alpha.dtype.kind == "f":
        full = max(1.0, float(most)) if np.isfinite(most) else 1.0
    else:
        full = float(2**bits - 1 if alpha.dtype.kind == "u" else np.iinfo(alpha.dtype).max)
        if most == 1 or (bits > 8 and most in (255, 1023, 4095, 16383)):
            full = float(most)
    return np.asarray(np.clip(np.nan_to_num(alpha.astype(np.float32) / np.float32(full)), 0, 1))


def _unmultiplied(values: Numbers, alpha: NDArray[np.float32], bits: int) -> Numbers:
    if not alpha.any():
        return values
    with np.errstate(all="ignore"):
        plain = np.where(alpha[:, :, None] > 0, values / alpha[:, :, None], 0)
    if values.dtype.kind == "f":
        return plain.astype(values.dtype)
    most = 2**bits - 1 if values.dtype.kind == "u" else np.iinfo(values.dtype).max
    least = -most - 1 if values.dtype.kind == "i" else 0
    return np.asarray(np.rint(np.clip(plain, least, most)).astype(values.dtype))


def _plain(values: Numbers, bits: int, kind: str) -> tuple[Numbers, str]:
    """Grey or RGB: fewer than 8 bits are scaled to 8, signed bytes are shifted, the rest is windowed later."""
    if values.dtype == np.int8:
        return values.view(np.uint8) ^ np.uint8(0x80), f"signed 8-bit {kind}, shifted by 128"
    if bits < 8:
        scale = np.rint(np.arange(256) * (255 / (2**bits - 1))).clip(0, 255).astype(np.uint8)
        return scale[values], "1-bit black and white" if bits == 1 and values.ndim == 2 else f"{bits}-bit {kind}"
    number = {"f": " float", "i": " signed integer"}.get(values.dtype.kind, " integer" if bits > 16 else "")
    return values, f"{bits}-bit{number} {kind}"


def _through_palette(indices: Numbers, page: TiffPage) -> tuple[Numbers, str]:
    if page.colormap is None or indices.dtype.kind != "u":
        raise ValueError("it has a palette picture without a palette")
    stored = np.asarray(page.colormap).reshape(3, -1).T
    # Some instruments store 0–255 where the standard has 0–65535.
    colours = (stored // 256 if stored.max() > 255 else stored).astype(np.uint8)
    used = np.flatnonzero(np.bincount(indices.ravel(), minlength=1))
    if used[-1] >= len(colours):
        raise ValueError(f"its palette has {len(colours)} colours and its pixels name colour {used[-1]}")
    if (colours[used] == colours[used][:, :1]).all():
        return colours[:, 0][indices], "grey palette, read as 8-bit greyscale"
    return colours[indices], "colour palette, read as RGB"


def _converted(values: Numbers, kind: int, page: TiffPage) -> tuple[Numbers, str]:
    """CMYK and Lab to RGB as Pillow does it; colour profiles are not applied."""
    name = "CMYK" if kind == CMYK else "LAB"
    if kind == CMYK and page.tags.valueof(INK_SET, 1) != 1:
        raise ValueError("its inks are others than cyan, magenta, yellow and black, which is not read")
    if values.dtype == np.uint16 and kind == CMYK:
        values = (values >> 8).astype(np.uint8)
    if values.dtype.itemsize != 1 or bits_of(page) != 8:
        raise ValueError(f"{page.bitspersample}-bit {name} of type {values.dtype} is not read")
    values = np.ascontiguousarray(values).view(np.uint8)
    if kind == ICCLAB:  # Pillow expects a and b signed, as in CIELAB
        values = values ^ np.array([0, 0x80, 0x80], np.uint8)
    height, width = values.shape[:2]
    image = Image.frombytes(name, (width, height), values.tobytes())
    return np.asarray(image.convert("RGB")), f"{name}, converted to RGB"


def _by_libtiff(page: TiffPage, data: bytes, header: ImageHeader) -> Page:
    """YCbCr that is not JPEG, and old compressions: only libtiff handles their subsampling and tables."""
    kind, form, bits = _photometric(page), page.tags.valueof(SAMPLE_FORMAT, 1), page.bitspersample
    name = compression_name(page)
    if kind not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, YCBCR) or page.is_tiled or form not in (1, (1, 1, 1)):
        raise ValueError(f"{name} with {_colours(kind)} is not read in tiles or with sample format {form}")
    if bits not in (1, 4, 8):
        raise ValueError(f"{name} with samples of {bits} bits is not read")
    _check_whole(page, data)
    upright = bytearray(data)
    if tag := page.tags.get(ORIENTATION):  # libtiff would apply only part of the rotation
        upright[tag.valueoffset : tag.valueoffset + 2] = struct.pack(page.parent.byteorder + "H", 1)
    values = np.asarray(imagecodecs.tiff_decode(bytes(upright), index=header.frame - 1, asrgb=True))[:, :, :3]
    if values.shape[:2] != (page.imagelength, page.imagewidth):
        raise ValueError("its page cannot be found by libtiff")
    if kind in (WHITE_IS_ZERO, BLACK_IS_ZERO):
        return Page(values[:, :, 0], "L", f"{bits}-bit greyscale", False, _orientation(page), None, (), None)
    return Page(values, "YCbCr", "YCbCr, converted to RGB", False, _orientation(page), None, (), None)


def _check_whole(page: TiffPage, data: bytes) -> None:
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
        if offset <= 0 or count <= 0:
            raise ValueError("some of its strips or tiles are missing")
        if offset + count > len(data):
            raise ValueError("the file is truncated: a strip or tile lies beyond its end")


def _no_data(page: TiffPage) -> tuple[float, ...]:
    text = page.tags.valueof(NO_DATA)
    try:
        return (float(str(text).strip().replace(",", ".")),)
    except ValueError:
        return ()


def _named_bar(page: TiffPage) -> Bar | None:
    """The data bar at the bottom, if FEI or Thermo (by the rows of the scan) or TESCAN (by the rows of the strip) name
    it."""
    rows = 0
    for tag in FEI:
        fields = page.tags.valueof(tag)
        image = fields.get("Image") if isinstance(fields, dict) else None
        scan = image.get("ResolutionY") if isinstance(image, dict) else None
        if isinstance(scan, int) and 0 < scan < page.imagelength:
            rows = page.imagelength - scan
    text = page.tags.valueof(TESCAN)
    text = text.decode("latin-1") if isinstance(text, bytes) else str(text)
    if found := re.search(r"ImageStripSize=(\d{1,5})", text):
        rows = int(found[1])
    return Bar("bottom", rows, named=True) if 0 < rows <= page.imagelength // 2 else None
