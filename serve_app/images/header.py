"""The first look at an image: its type by content, its size and frames, and whether it is within the limits. Nothing is
decoded.

Pillow's openers inflate text chunks, build one object per TIFF strip and allocate the WebP canvas before a caller can
look at the size. The gateway needs the size first, on an event loop, so it is read here in a bounded number of steps:
PNG (W3C PNG 3rd ed.), JPEG (ITU-T T.81), GIF89a, BMP, WebP (RFC 9649), TIFF 6.0 and BigTIFF."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO

from serve_app.errors import ImageTooLarge, ImageTypeUnsupported, ImageUnreadable
from serve_app.images.tiff_pages import OUTSIDE as _OUTSIDE
from serve_app.images.tiff_pages import TiffPages, read_pages
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
"""Frames are counted up to this number."""


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """The header of an accepted file. `width` and `height` belong to `frame`, the one of `frames` to read."""

    format: str
    media_type: str
    width: int
    height: int
    frames: int
    frame: int = 1
    """Counted from 1."""
    directory: int = 0
    """TIFF: offset of the frame's directory."""
    plane: int = 0
    """TIFF: index of the picture among those that share the directory, from 0."""
    lost: bool = False
    """TIFF: more pages lie beyond the end of the file or are damaged."""

    @property
    def pixels(self) -> int:
        return self.width * self.height


IN_STEPS = ("JPEG", "TIFF")
"""The formats that `images.reduced` reads in steps."""


def inspect(
    data: bytes | BinaryIO, settings: Settings, page: int | None = None, *, in_steps: bool = False
) -> ImageHeader:
    """The header of an image within the limits of `settings`; a file object is read whole, from its start.

    `in_steps`: the image is for a model that reads large JPEG and TIFF files in steps, for which a higher limit holds.

    `page` chooses a page or frame, from 1; the default is the largest picture of a TIFF, and the first of other files.
    Raises `ImageTypeUnsupported`, `ImageTooLarge` (bytes, pixels of the chosen page, frames to decode before it) or
    `ImageUnreadable` (also for a missing page). File names and declared media types are ignored. The work is bounded
    whatever the file contains.
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
    elif frame > settings.image_max_frames:  # decoders of animations decode all frames before the chosen one
        raise ImageTooLarge(f"Of an animation only the first {settings.image_max_frames} frames can be chosen.")
    if width == 0 or height == 0:
        raise ImageUnreadable(f"The image's header says {width} x {height}: there is nothing to read.")
    pixels, most = width * height, settings.image_max_pixels
    if in_steps and layout.format in IN_STEPS:
        most = max(most, settings.image_max_pixels_in_steps)
    if pixels > most:
        raise ImageTooLarge(f"The image has {width} x {height} = {pixels:,} pixels; at most {most:,} are accepted.")
    return ImageHeader(
        layout.format, MEDIA_TYPES[layout.format], width, height, layout.frames, frame, directory, plane, lost
    )


MAX_CHUNKS = 4096
"""Most chunks, segments or tags read in one file; real files have tens."""
MAX_BYTES_IN_FRONT = 64
"""How far into a file an image may begin and still be named in the refusal."""
MAX_GIF_BLOCKS = 250_000
"""Most GIF data blocks (up to 255 bytes each) skipped in one file: 60 MB, at worst 20 ms."""


PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

JPEG_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
JPEG_BARE = frozenset({0x01, *range(0xD0, 0xD9)})
"""Markers without a body."""
JPEG_EOI, JPEG_SOS = 0xD9, 0xDA


@dataclass(frozen=True, slots=True)
class Layout:
    """Size and frames by the header. `width` and `height` belong to frame `meant` of `frames` (counted up to a
    limit)."""

    format: str
    width: int
    height: int
    frames: int = 1
    meant: int = 1
    pages: TiffPages | None = None


def read_layout(data: bytes, max_frames: int) -> Layout:
    """The layout of a file, whose type is known by its first bytes.

    Raises `ImageTypeUnsupported` for any other type, `ImageUnreadable` for a damaged or truncated header.
    """
    for name, matches, read in _TYPES:
        if matches(data):
            try:
                return read(data, max_frames)
            except _OUTSIDE as error:
                raise ImageUnreadable(f"The {name} header is cut off. Send the whole file.") from error
    raise ImageTypeUnsupported(f"The file is {_guess(data)}. Send PNG, JPEG, TIFF, GIF, WebP or BMP.")


_OTHERS = (
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive or an office document"),
    (b"\x1f\x8b", "gzip-compressed"),
    (b"\x89HDF", "an HDF5 file"),
    (b"SIMPLE  =", "a FITS file"),
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 image"),
    (b"\xffO\xffQ", "a JPEG 2000 image"),
    (b"8BPS", "a Photoshop document"),
)


def _guess(data: bytes) -> str:
    for start, words in _OTHERS:
        if data.startswith(start):
            return words
    if data[4:8] == b"ftyp":
        return "a HEIC or AVIF image or a film"
    if data[:256].lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"<", b"{")):
        return "text (HTML, XML, SVG or JSON)"
    for name, matches, _ in _TYPES:
        at = next((at for at in range(1, MAX_BYTES_IN_FRONT) if matches(data[at : at + 32])), 0)
        if at and (name != "JPEG" or data[at + 2 : at + 3] == b"\xff"):  # two bytes may match by chance
            return f"a {name} image behind {at} stray bytes: the image has to begin at the first byte"
    return "of no type known here"


@dataclass(frozen=True, slots=True)
class PngChunk:
    """One chunk; `start` and `end` include its length, type and checksum."""

    kind: bytes
    start: int
    end: int

    def body(self, data: bytes) -> bytes:
        return data[self.start + 8 : self.end - 4]

    def is_whole(self, data: bytes) -> bool:
        """Whether its checksum is right."""
        stored = struct.unpack_from(">I", data, self.end - 4)[0]
        return bool(zlib.crc32(memoryview(data)[self.start + 4 : self.end - 4]) == stored)


def png_chunks(data: bytes) -> Iterator[PngChunk]:
    """The chunks up to IEND or the end of the file; the last one may extend beyond it."""
    position = len(PNG_SIGNATURE)
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"IEND":
            return
        yield PngChunk(kind, position, position + 12 + length)
        position += 12 + length


def _png(data: bytes, max_frames: int) -> Layout:
    if data[8:16] != b"\x00\x00\x00\x0dIHDR":
        raise ImageUnreadable("The PNG file does not begin with its IHDR chunk.")
    width, height = struct.unpack_from(">II", data, 16)
    if zlib.crc32(data[12:29]) != struct.unpack_from(">I", data, 29)[0]:
        raise ImageUnreadable("The checksum of the PNG header is wrong: the file is damaged.")
    animated, first = 0, 0
    for chunk in islice(png_chunks(data), MAX_CHUNKS):
        if chunk.kind == b"acTL":
            animated = struct.unpack_from(">I", data, chunk.start + 8)[0]
        elif chunk.kind == b"fcTL":
            first = 1
        elif chunk.kind == b"IDAT":  # a picture before the first fcTL is not part of the animation
            return Layout("PNG", width, height, max(1, min(animated + (animated > 0 and not first), max_frames + 1)))
    raise ImageUnreadable(f"The PNG file is cut off, or has more than {MAX_CHUNKS} chunks before its pixels.")


@dataclass(frozen=True, slots=True)
class JpegSegment:
    """A marker and its body; `start` is the 0xFF of the marker."""

    marker: int
    start: int
    end: int


def jpeg_segments(data: bytes, limit: int) -> Iterator[JpegSegment]:
    """The segments after SOI up to and including the first SOS.

    Raises `ValueError` with the reason at a fault that no decoder recovers from, or after `limit` steps; `IndexError`
    and `struct.error` if the file ends before."""
    position = 2
    for _ in range(limit):
        if data[position] != 0xFF:
            position = data.find(b"\xff", position)
            if position < 0:
                raise IndexError
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
        elif marker == 0 or marker in JPEG_BARE:
            position += 2
        elif marker == JPEG_EOI:
            raise ValueError("has no frame header before its end")
        elif marker < 0xC0:
            raise ValueError(f"has an unknown marker (0x{marker:02X}): it is damaged")
        else:
            end = position + 2 + max(2, struct.unpack_from(">H", data, position + 2)[0])
            yield JpegSegment(marker, position, end)
            if marker == JPEG_SOS:
                return
            position = end
    raise ValueError(f"has more than {limit} segments before its pixels")


def _jpeg(data: bytes, max_frames: int) -> Layout:
    try:
        for segment in jpeg_segments(data, MAX_CHUNKS):
            if segment.marker in JPEG_FRAMES:
                bits, height, width = struct.unpack_from(">BHH", data, segment.start + 4)
                if bits != 8:
                    raise ImageTypeUnsupported(
                        f"The file is a {bits}-bit JPEG. Send 8-bit JPEG, or 16-bit PNG or TIFF."
                    )
                return Layout("JPEG", width, height)
    except ValueError as error:
        raise ImageUnreadable(f"The JPEG file {error}.") from error
    raise ImageUnreadable("The JPEG file has no frame header before its pixels.")


def _gif(data: bytes, max_frames: int) -> Layout:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position = 13 + _gif_palette(flags)
    frames = 0
    budget = [MAX_GIF_BLOCKS]
    try:
        while frames <= max_frames:
            kind = data[position]
            if kind == 0x21:
                position = _gif_skip(data, position + 2, budget)
            elif kind == 0x2C:
                left, top, across, down, flags = struct.unpack_from("<HHHHB", data, position + 1)
                if frames == 0:  # a first frame larger than the screen enlarges it
                    width, height = max(width, left + across), max(height, top + down)
                frames += 1
                position = _gif_skip(data, position + 11 + _gif_palette(flags), budget)
            else:  # the trailer, or bytes that decoders ignore
                break
    except _OUTSIDE:
        if frames == 0:
            raise
    if frames == 0:
        raise ImageUnreadable("The GIF file has no picture in it.")
    return Layout("GIF", width, height, frames)


def _gif_palette(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _gif_skip(data: bytes, position: int, budget: list[int]) -> int:
    left = budget[0]
    while size := data[position]:
        position += size + 1
        left -= 1
        if left < 0:
            raise ImageUnreadable(f"The GIF file has more than {MAX_GIF_BLOCKS} data blocks.")
    budget[0] = left - 1
    return position + 1


def _bmp(data: bytes, max_frames: int) -> Layout:
    (size,) = struct.unpack_from("<I", data, 14)
    if size == 12:
        width, height = struct.unpack_from("<HH", data, 18)
    elif size in (40, 52, 56, 64, 108, 124):
        width, height = struct.unpack_from("<ii", data, 18)
    else:
        raise ImageUnreadable("The BMP file has an unknown header.")
    return Layout("BMP", max(0, width), abs(height))


def _webp(data: bytes, max_frames: int) -> Layout:
    kind = data[12:16]
    if kind == b"VP8 ":
        if data[23:26] != b"\x9d\x01\x2a":
            raise ImageUnreadable("The WebP file has no key frame: it is damaged.")
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
        return Layout("WEBP", width, height)
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return Layout("WEBP", (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1)
    if kind != b"VP8X":
        raise ImageUnreadable("The WebP file begins with an unknown chunk.")
    if len(data) < 30:
        raise IndexError
    width = int.from_bytes(data[24:27], "little") + 1
    height = int.from_bytes(data[27:30], "little") + 1
    return Layout("WEBP", width, height, _webp_frames(data, max_frames) if data[20] & 0x02 else 1)


def _webp_frames(data: bytes, max_frames: int) -> int:
    position, frames = 30, 0
    for _ in range(MAX_CHUNKS):
        if position + 8 > len(data) or frames > max_frames:
            return max(1, frames)
        kind, size = struct.unpack_from("<4sI", data, position)
        frames += kind == b"ANMF"
        position += 8 + size + (size & 1)
    raise ImageUnreadable(f"The WebP file has more than {MAX_CHUNKS} chunks.")


def _tiff(data: bytes, max_frames: int) -> Layout:
    pages = read_pages(data)
    meant = pages.meant()
    directory, _ = pages.page(meant)
    return Layout("TIFF", directory.width, directory.height, pages.count, meant, pages)


_TYPES: tuple[tuple[str, Callable[[bytes], bool], Callable[[bytes, int], Layout]], ...] = (
    ("JPEG", lambda data: data.startswith(b"\xff\xd8"), _jpeg),
    ("PNG", lambda data: data.startswith(PNG_SIGNATURE), _png),
    ("TIFF", lambda data: data.startswith((b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")), _tiff),
    ("BMP", lambda data: data.startswith(b"BM") and len(data) >= 18 and data[15:18] == b"\x00\x00\x00", _bmp),
    ("GIF", lambda data: data.startswith((b"GIF87a", b"GIF89a")), _gif),
    ("WebP", lambda data: data.startswith(b"RIFF") and data[8:12] == b"WEBP", _webp),
)
