"""JPEG (ITU-T T.81): what of a file a picture needs, and whether its pixels are all there.

Of a file's own words about itself (APPn, comments) a decoder is given those that decide pixels: the others may be
broken or huge.
"""

from __future__ import annotations

import io
import re
import struct
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from serve_app.images.header import JPEG_BARE, JPEG_EOI, JPEG_FRAMES, JPEG_SOS, jpeg_segments

HUFFMAN: Final = (0xC0, 0xC1, 0xC2)
PROGRESSIVE: Final = 0xC2
APP0, APP1, APP14, APP15, COM = 0xE0, 0xE1, 0xEE, 0xEF, 0xFE
COLOUR_SPACE: Final = {APP0: b"JFIF\0", APP14: b"Adobe"}
COLOUR_SPACE_BYTES: Final = 16
"""The least length of a segment that tells the colour space; decoders pass over shorter ones."""
ORIENTATION: Final = {"exif": b"Exif\0\0", "xmp": b"http://ns.adobe.com/xap/1.0/\0"}
"""How the bodies begin that may tell the orientation, by Pillow's names for them."""
END: Final = b"\xff\xd9"
FILLER: Final = b"".join(
    bytes(17 * step % 251 for step in range(1, 60)) + bytes((0xFF, 0xD0 + n % 8)) for n in range(16)
)
"""Entropy-coded data of no picture, with the marks at which files with restarts go on."""
_MARKER: Final = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
"""Any but those that stand in the middle of pixels."""
MCU: Final = 16
"""The largest side of a block of pixels that is coded as one, in pixels."""
STEPS: Final = 1 << 20


def clean(data: bytes) -> tuple[bytes, dict[str, bytes]]:
    """The file without what decides no pixel (stray bytes, comments, thumbnails, profiles), and what may tell the
    orientation, by Pillow's names."""
    kept: list[bytes | memoryview] = [b"\xff\xd8"]
    orientation: dict[str, bytes] = {}
    whole = memoryview(data)
    for segment in jpeg_segments(data, STEPS):
        body = segment.start + 4
        if segment.marker == JPEG_SOS:
            kept.append(whole[segment.start :])
        elif segment.marker == APP1:
            for name, begin in ORIENTATION.items():
                if data.startswith(begin, body):
                    words = data[body : segment.end]
                    orientation.setdefault(name, words if name == "exif" else words[len(begin) :])
        elif begin := COLOUR_SPACE.get(segment.marker, b""):
            if data.startswith(begin, body) and segment.end - segment.start >= COLOUR_SPACE_BYTES:
                kept.append(whole[segment.start : segment.end])
        elif not APP0 <= segment.marker <= APP15 and segment.marker != COM:
            kept.append(whole[segment.start : segment.end])
    return b"".join(kept), orientation


def completed(data: bytes) -> bytes:
    """A cleaned file up to its end marker, with one where it has none. Raises `ValueError` when pixels are missing.

    libjpeg draws what is missing in grey and says so only in a warning that no binding passes on. But pixels that are
    all there do not depend on what stands behind them, and others do: so two tails are tried.
    """
    kind, scan = 0, len(data)
    for segment in jpeg_segments(data, STEPS):
        kind = segment.marker if segment.marker in JPEG_FRAMES else kind
        scan = segment.end
    if kind not in HUFFMAN:  # an arithmetic coder may leave out zeros at the end
        return data
    body = data[: _end_of_scans(data, scan)]
    if kind == PROGRESSIVE and len(body) == len(data):  # whole scans may be missing, which no decoder notices
        raise ValueError(
            "the file is truncated: it has no end marker, and of a progressive picture scans may be missing"
        )
    scale = 2 if kind == PROGRESSIVE else 8  # an eighth is the first scan of a progressive file alone
    one, other = (_drawn(body + tail + END, scale) for tail in (b"", FILLER))
    differ = (one != other).reshape(*one.shape[:2], -1).any(axis=2)
    differ[-MCU // scale :, -MCU // scale :] = False  # encoders that do not flush their last bits are forgiven
    if differ.any():
        raise ValueError("the file is truncated: some of its pixels are missing")
    return body + END


def _end_of_scans(data: bytes, position: int) -> int:
    """Where the pixels end: at the end marker, or at the end of the file."""
    if data.find(bytes((0xFF, JPEG_SOS)), position) < 0:  # the only scan: no tables behind it
        end = data.find(END, position)
        return end if end >= 0 else len(data)
    while found := _MARKER.search(data, position):
        marker, after = data[found.end() - 1], found.end()
        if marker == JPEG_EOI:
            return found.start()
        if marker in JPEG_BARE or marker < 0xC0 or after + 2 > len(data):
            position = after
        else:
            position = after + int(struct.unpack_from(">H", data, after)[0])
    return len(data)


def _drawn(data: bytes, scale: int) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        image.draft(image.mode, (max(1, image.width // scale), max(1, image.height // scale)))
        return np.asarray(image)
