"""Large images read in steps: never decoded whole, but at a fraction of their size that is enough for a thumbnail.

JPEG is scaled by its decoder (libjpeg decodes to an eighth, a quarter or a half). TIFF is decoded strip by strip or
tile by tile; of each, means of n x n pixels are kept (8-bit grey and RGB), or every n-th pixel (all others: means would
mix values with masks, or numbers of colours). All other formats, and TIFF of up to IMAGE_MAX_PIXELS, are read whole.
"""

from __future__ import annotations

import math
import struct
from typing import Final

from serve_app.errors import ImageTooCostly
from serve_app.images.decode import Pixels, Reading, decoding, finish, inspected, of_page, read, read_jpeg
from serve_app.images.header import JPEG_FRAMES, JPEG_SOS, ImageHeader, jpeg_segments
from serve_app.images.jpeg import PROGRESSIVE_KINDS, STEPS
from serve_app.images.tiff import read_page
from serve_app.settings import MIB, Settings

READ_PIXELS: Final = 32_000_000
"""About the most pixels of a large image that are kept."""
OVER: Final = 2
"""A JPEG is decoded to at least this many times the size of its thumbnail, so that the filter still has work to do."""
SCALES: Final = (8, 4, 2)
BUFFER_SHARE: Final = 0.7
"""Part of DECODE_MEMORY_MIB that a JPEG decoder may take for coefficients."""
TURNED: Final = (5, 6, 7, 8)
"""Orientations that swap width and height."""


def read_reduced(data: bytes, settings: Settings, size: tuple[int, int], page: int | None = None) -> Pixels:
    """As `read_pixels`, but perhaps smaller; for a thumbnail of `size`. `how` has the full size, and `steps` if the
    picture was read at a smaller one.

    Raises as `read_pixels`, and `ImageTooCostly` for a large JPEG that its decoder must hold whole.
    """
    header = inspected(data, settings, page, in_steps=True)
    large = header.pixels > settings.image_max_pixels
    with decoding(header):
        if header.format == "JPEG" and (scale := _scale(header, size, large=large)) > 1:
            if large:
                _check_buffer(data, settings)
            reading = read_jpeg(data, header.pixels, scale, whole=not large)
            return _described(reading, header, "scaled by the JPEG decoder")
        if header.format == "TIFF" and large:
            step = 2 ** max(1, math.ceil(math.log2(header.pixels / READ_PIXELS) / 2))  # tiles are multiples of 16
            found = read_page(data, header, header.pixels, step)
            return _described(of_page(found), header, found.steps)
        return finish(read(data, header, settings.image_max_pixels), header)


def _scale(header: ImageHeader, size: tuple[int, int], *, large: bool) -> int:
    enough = (scale for scale in SCALES if min(header.width, header.height) // scale >= OVER * max(size))
    chosen = next(enough, 1)
    if large:
        fitting = [scale for scale in SCALES if header.pixels <= READ_PIXELS * scale**2]
        chosen = max(chosen, min(fitting, default=SCALES[0]))
    return chosen


def _check_buffer(data: bytes, settings: Settings) -> None:
    """Refuse a JPEG whose pixels come in several scans if all its coefficients do not fit: its decoder keeps them."""
    kind, height, width, samplings = 0, 0, 0, [(1, 1)]
    for segment in jpeg_segments(data, STEPS):
        if segment.marker in JPEG_FRAMES:
            kind, (height, width, parts) = segment.marker, struct.unpack_from(">HHB", data, segment.start + 5)
            factors = data[segment.start + 11 : segment.start + 10 + 3 * parts : 3]
            samplings = [(max(1, factor >> 4), max(1, factor & 15)) for factor in factors] or samplings
        if segment.marker == JPEG_SOS:
            in_scan = data[segment.start + 4]
            if kind not in PROGRESSIVE_KINDS and in_scan == len(samplings):
                return
    most_across, most_down = max(across for across, _ in samplings), max(down for _, down in samplings)
    blocks = sum(
        math.ceil(width * across / most_across / 8) * math.ceil(height * down / most_down / 8)
        for across, down in samplings
    )
    needed, most = blocks * 128, int(settings.decode_memory_mib * MIB * BUFFER_SHARE)
    if needed > most:
        raise ImageTooCostly(
            f"A progressive JPEG is decoded as a whole, which takes {needed // MIB:,} MiB for this one, and at most "
            f"{most // MIB:,} are allowed. Save it as a baseline JPEG."
        )


def _described(reading: Reading, header: ImageHeader, way: str) -> Pixels:
    height, width = reading.values.shape[:2]
    pixels = finish(reading, header)
    full = (header.height, header.width) if reading.orientation in TURNED else (header.width, header.height)
    steps = f"read at {width}x{height}, {way}"
    return Pixels(pixels.array, {**pixels.how, "width": full[0], "height": full[1], "steps": steps})
