"""PNG (W3C PNG 3rd ed.): its chunks, and which of them a picture needs.

Text, colour profiles, gamma and times do not affect pixels here, and files are odd there: megabytes of an instrument's
XML, wrong checksums after edits, decompression bombs. So a decoder gets a file without them. Chunks that affect pixels
must be intact: a wrong checksum there is an error.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from typing import Any, Final

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from serve_app.images.header import PNG_SIGNATURE, PngChunk, png_chunks

GREY, COLOUR, PALETTE, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 3, 4, 6
SAMPLES: Final = {GREY: 1, COLOUR: 3, PALETTE: 1, GREY_ALPHA: 2, COLOUR_ALPHA: 4}
ADAM7: Final = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Left, top, horizontal and vertical step of each pass of an interlaced picture."""
UNPACKED_AT_ONCE: Final = 1 << 20
ANIMATION: Final = (b"acTL", b"fcTL", b"fdAT")
TRANSPARENT_BYTES: Final = {GREY: 2, COLOUR: 6, PALETTE: 1}
"""Least length of a tRNS chunk, by colour type."""
MAX_ORIENTATION_BYTES: Final = 1_000_000
"""Longest unpacked text that may hold the EXIF orientation; longer ones are other metadata."""
ORIENTATION_KEYS: Final = (b"Raw profile type exif", b"Raw profile type APP1", b"XML:com.adobe.xmp")


@dataclass(slots=True)
class Png:
    """The parts of a file that affect its picture."""

    width: int
    height: int
    bits: int
    colour_type: int
    clean: bytes = b""
    """A PNG file of only these parts."""
    transparent: tuple[int, ...] = ()
    """16-bit grey or colour: the sample values that mean transparent."""
    damaged: list[str] = field(default_factory=list)
    """Damaged parts that would affect pixels but can be left out."""


def read_png(data: bytes, *, animated: bool = False) -> Png:
    """The parts needed for the first picture, or for all pictures of an animation; nothing is decoded.

    Raises `ValueError` with the reason if pixels or palette are damaged or truncated.
    """
    width, height, bits, colour_type, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    png = Png(width, height, bits, colour_type)
    kept: list[bytes | memoryview] = [PNG_SIGNATURE]
    whole, pixels = memoryview(data), 0
    for chunk in png_chunks(data):
        if chunk.end > len(data):
            if chunk.kind in (b"IDAT", b"fdAT") or not pixels:
                raise ValueError("the file is truncated: send the whole file")
        elif _is_kept(png, chunk, data, animated):
            kept.append(whole[chunk.start : chunk.end])
            pixels += chunk.kind == b"IDAT"
    if not pixels:
        raise ValueError("it has no pixels")
    if not _has_all_rows(data, _packed_bytes(width, height, bits * SAMPLES.get(colour_type, 0), interlaced)):
        raise ValueError("the file is truncated: some of its pixels are missing")
    kept.append(_written(b"IEND", b""))
    png.clean = b"".join(kept)
    return png


def _packed_bytes(width: int, height: int, pixel_bits: int, interlaced: int) -> int:
    """Bytes of all rows, each with its leading filter byte."""
    total = 0
    for left, top, across, down in ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * pixel_bits + 7) // 8)
    return total


def _has_all_rows(data: bytes, expected: int) -> bool:
    """Whether the IDAT stream holds that many bytes; Pillow would draw missing rows black."""
    unpacking = zlib.decompressobj()
    try:
        for chunk in png_chunks(data):
            packed: bytes = chunk.body(data) if chunk.kind == b"IDAT" else b""
            while packed and expected > 0:
                expected -= len(unpacking.decompress(packed, UNPACKED_AT_ONCE))
                packed = unpacking.unconsumed_tail
    except zlib.error as error:
        raise ValueError("its pixels are damaged: broken data stream") from error
    return expected <= 0


def _is_kept(png: Png, chunk: PngChunk, data: bytes, animated: bool) -> bool:
    if chunk.kind in (b"IHDR", b"IDAT") or (chunk.kind == b"PLTE" and png.colour_type == PALETTE):
        if not chunk.is_whole(data):
            raise ValueError(f"its {'pixels are' if chunk.kind == b'IDAT' else 'palette is'} damaged (checksum)")
        return chunk.kind != b"IHDR" or chunk.start == len(PNG_SIGNATURE)
    if chunk.kind == b"tRNS" and png.colour_type in TRANSPARENT_BYTES:
        return _keeps_transparency(png, chunk, data)
    if chunk.kind in ANIMATION:
        return animated and chunk.is_whole(data)
    return chunk.is_whole(data) and _may_tell_orientation(chunk, data)


def _keeps_transparency(png: Png, chunk: PngChunk, data: bytes) -> bool:
    body = chunk.body(data)
    if len(body) < TRANSPARENT_BYTES[png.colour_type] or not chunk.is_whole(data):
        png.damaged.append("transparency")
        return False
    if png.bits == 16 and png.colour_type != PALETTE:  # applied in `deep_samples`, with all 16 bits
        png.transparent = struct.unpack_from(f">{SAMPLES[png.colour_type]}H", body)
        return False
    return True


def _may_tell_orientation(chunk: PngChunk, data: bytes) -> bool:
    if chunk.kind == b"eXIf":
        return True
    if chunk.kind not in (b"tEXt", b"zTXt", b"iTXt") or chunk.end - chunk.start > MAX_ORIENTATION_BYTES:
        return False
    body = chunk.body(data)
    keyword, _, rest = body.partition(b"\0")
    if keyword not in ORIENTATION_KEYS:
        return False
    if chunk.kind == b"tEXt" or (chunk.kind == b"iTXt" and rest[:1] == b"\0"):
        return True
    packed = rest[1:] if chunk.kind == b"zTXt" else rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    unpacking = zlib.decompressobj()
    try:
        unpacking.decompress(packed, MAX_ORIENTATION_BYTES)
    except zlib.error:
        return False
    return rest[:1] in (b"\0", b"\1") and not unpacking.unconsumed_tail


def _written(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def deep_samples(png: Png) -> tuple[NDArray[np.uint16], NDArray[np.float32] | None]:
    """The samples of a 16-bit picture, (height, width) or (height, width, 3), and its opacity from 0 to 1, if any.

    Pillow keeps only the upper 8 bits of colour and of grey with alpha, which is nearly black if an instrument counts
    to 4095."""
    found: NDArray[Any] = np.asarray(imagecodecs.png_decode(png.clean)).reshape(png.height, png.width, -1)
    if found.dtype != np.uint16 or found.shape[2] != SAMPLES[png.colour_type]:
        raise ValueError("its pixels are not what its header says")
    values = found[:, :, : 1 if png.colour_type in (GREY, GREY_ALPHA) else 3]
    alpha: NDArray[np.float32] | None = None
    if png.colour_type in (GREY_ALPHA, COLOUR_ALPHA):
        alpha = found[:, :, -1].astype(np.float32) / np.float32(65535)
    elif png.transparent:
        alpha = (found != np.asarray(png.transparent, np.uint16)).any(axis=2).astype(np.float32)
    if alpha is not None and alpha.min() == 1:
        alpha = None
    return (values[:, :, 0] if values.shape[2] == 1 else values), alpha
