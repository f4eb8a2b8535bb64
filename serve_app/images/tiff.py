"""The TIFF layouts that Pillow does not open, or opens with a loss, read by tifffile: 64-bit, planar, 16-bit colour."""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tifffile import TiffFile, TiffPage

# Its warnings describe the sender's file; what matters of them comes out as the job's error.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)

MAX_SAMPLES = 16
MINISWHITE, PALETTE = 0, 3
COLOUR = 2


@dataclass(frozen=True, slots=True)
class Page:
    """The first page as stored: (height, width) or (height, width, 3)."""

    values: NDArray[Any]
    inverted: bool
    """True where small numbers mean white."""
    orientation: int
    """The TIFF and EXIF number, 1 to 8; 1 is upright."""
    layout: str


def read_page(data: bytes, max_pixels: int) -> Page:
    """The first page of a TIFF file. Raises nearly any exception for a file that is damaged or beyond tifffile."""
    with TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        if not isinstance(page, TiffPage):
            raise ValueError("its first page has no directory")
        _check_size(page, max_pixels)
        _check_whole(page, len(data))
        values = page.asarray(maxworkers=1).reshape(page.shaped)[:, 0]  # planes, rows, columns, samples
        values = np.moveaxis(values, 0, 2).reshape(*values.shape[1:3], -1)
        kind = int(page.photometric)
        if values.dtype.kind not in "uifb":
            raise ValueError(f"its pixels are of type {values.dtype}")
        if values.dtype.kind == "b":
            values = values.astype(np.uint8) * np.uint8(255)
        if kind == PALETTE:
            values = _through_palette(values[:, :, 0], page)
        elif kind == COLOUR and values.shape[2] >= 3:
            values = values[:, :, :3]
        elif kind <= 1:
            values = values[:, :, 0]
        else:
            raise ValueError(f"its colours (photometric {kind}, {page.bitspersample} bits) cannot be converted")
        orientation = page.tags.valueof(274, 1)
        layout = f"{page.samplesperpixel} x {values.dtype}"
        return Page(values, kind == MINISWHITE, orientation if isinstance(orientation, int) else 1, layout)


def _check_size(page: TiffPage, max_pixels: int) -> None:
    if page.samplesperpixel > MAX_SAMPLES:
        raise ValueError(f"it has {page.samplesperpixel} samples per pixel")
    if page.imagewidth * page.imagelength * page.imagedepth > max_pixels:
        raise ValueError(f"it has more than {max_pixels} pixels")


def _check_whole(page: TiffPage, size: int) -> None:
    """tifffile fills absent strips and tiles with zeros; an image with a hole in it is damaged here."""
    offsets, counts = page.dataoffsets, page.databytecounts
    expected = 1 if page.is_contiguous else int(np.prod(page.chunked))
    if min(len(offsets), len(counts)) < expected:
        raise ValueError("some of its strips or tiles are missing")
    for offset, count in zip(offsets, counts, strict=False):
        if offset <= 0 or count <= 0 or offset + count > size:
            raise ValueError("the file is truncated: a strip or tile lies beyond its end")


def _through_palette(indices: NDArray[Any], page: TiffPage) -> NDArray[Any]:
    colours: NDArray[Any] = np.moveaxis(np.asarray(page.colormap), 0, 1)
    return np.asarray(colours[indices])
