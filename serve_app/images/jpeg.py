"""JPEG (ITU-T T.81): the parts of a file that a picture needs, and whether all of its pixels are present.

Of the metadata (APPn, comments) a decoder gets only the segments that affect pixels: the others may be broken or huge.
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
PROGRESSIVE_KINDS: Final = (0xC2, 0xC6, 0xCA, 0xCE)
APP0, APP1, APP14, APP15, COM = 0xE0, 0xE1, 0xEE, 0xEF, 0xFE
COLOUR_SPACE: Final = {APP0: b"JFIF\0", APP14: b"Adobe"}
COLOUR_SPACE_BYTES: Final = 16
"""Least length of a colour space segment; decoders skip shorter ones."""
ORIENTATION: Final = {"exif": b"Exif\0\0", "xmp": b"http://ns.adobe.com/xap/1.0/\0"}
"""Prefixes of the segments that may hold the orientation, by Pillow's names for them."""
END: Final = b"\xff\xd9"
FILLER: Final = b"".join(
    bytes(17 * step % 251 for step in range(1, 60)) + bytes((0xFF, 0xD0 + n % 8)) for n in range(16)
)
"""Meaningless entropy-coded data, with the restart markers at which decoders resume."""
_MARKER: Final = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
"""Any marker except those that occur within the pixel data."""
MCU: Final = 16
"""Largest side, in pixels, of a block that is coded as a unit."""
STEPS: Final = 1 << 20


def clean(data: bytes) -> tuple[bytes, dict[str, bytes]]:
    """The file without parts that do not affect pixels (stray bytes, comments, thumbnails, profiles), and the segments
    that may hold the orientation, by Pillow's names."""
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


def completed(data: bytes, *, whole: bool = True) -> bytes:
    """A cleaned file up to its end marker, which is added if missing. Raises `ValueError` if pixels are missing.

    Without `whole`, a progressive file is judged by its end marker alone: comparing it takes memory for all its pixels.

    libjpeg fills missing pixels with grey and reports it only by a warning that no binding passes on. But complete
    pixel data decode alike whatever follows them, and incomplete data do not: so two different tails are tried."""
    kind, scan = 0, len(data)
    for segment in jpeg_segments(data, STEPS):
        kind = segment.marker if segment.marker in JPEG_FRAMES else kind
        scan = segment.end
    if kind not in HUFFMAN:  # an arithmetic coder may omit zeros at the end
        return data
    body = data[: _end_of_scans(data, scan)]
    if kind == PROGRESSIVE and len(body) == len(data):  # whole scans may be missing without any decoder noticing
        raise ValueError(
            "the file is truncated: it has no end marker, and of a progressive picture scans may be missing"
        )
    if kind == PROGRESSIVE and not whole:
        return body + END
    scale = 2 if kind == PROGRESSIVE else 8  # at an eighth only the first scan of a progressive file counts
    one, other = (_drawn(body + tail + END, scale) for tail in (b"", FILLER))
    differ = (one != other).reshape(*one.shape[:2], -1).any(axis=2)
    differ[-MCU // scale :, -MCU // scale :] = False  # tolerate encoders that do not flush their last bits
    if differ.any():
        raise ValueError("the file is truncated: some of its pixels are missing")
    return body + END


def _end_of_scans(data: bytes, position: int) -> int:
    """Where the pixel data end: at the end marker or the end of the file."""
    if data.find(bytes((0xFF, JPEG_SOS)), position) < 0:  # the only scan: no tables after it
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
