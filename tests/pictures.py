"""Every kind of image file the service may meet, made here: good ones, odd ones and hostile ones."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image


def gradient(height: int = 48, width: int = 64, dtype: str = "uint8", top: float = 255) -> NDArray[Any]:
    """Rising from left to right, from 0 to `top`; a small dark corner tells which way is up."""
    picture = np.tile(np.linspace(0, top, width), (height, 1))
    picture[: height // 4, width * 3 // 4 :] = 0
    return picture.astype(dtype)


def texture(height: int = 768, width: int = 1024, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth noise, 8-bit grey: something for a resize to get wrong."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))


def encode(picture: NDArray[Any] | Image.Image, kind: str, **options: Any) -> bytes:
    """A file written by Pillow."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def encode_tiff(picture: NDArray[Any], **options: Any) -> bytes:
    """A file written by tifffile, for layouts Pillow does not write."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, picture, metadata=None, **options)
    return buffer.getvalue()


def frames(kind: str, count: int, size: tuple[int, int] = (8, 8)) -> bytes:
    """`count` different frames in one file."""
    pictures = [Image.new("L", size, index * 37 % 256) for index in range(count)]
    options = {"lossless": True} if kind == "WEBP" else {}
    return encode(pictures[0], kind, save_all=True, append_images=pictures[1:], **options)


def rotated(kind: str, orientation: int) -> bytes:
    """A gradient with an EXIF orientation."""
    exif = Image.Exif()
    exif[274] = orientation
    options = {"quality": 100} if kind == "JPEG" else {}
    return encode(gradient(), kind, exif=exif, **options)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_claiming(width: int, height: int, *, before: bytes = b"") -> bytes:
    """A PNG of a few bytes whose header claims any size."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    body = png_chunk(b"IDAT", zlib.compress(bytes(64)))
    return b"\x89PNG\r\n\x1a\n" + header + before + body + png_chunk(b"IEND", b"")


def png_deep(samples: NDArray[np.uint16], *, before: bytes = b"", interlaced: bool = False) -> bytes:
    """A 16-bit PNG of (height, width) grey or (height, width, samples) grey + alpha, RGB or RGBA."""
    height, width = samples.shape[:2]
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[samples.reshape(height, width, -1).shape[2]]
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    rows = b"".join(
        b"\0" + row.astype(">u2").tobytes()
        for top, left, down, across in (passes if interlaced else ((0, 0, 1, 1),))
        for row in samples[top::down, left::across]
    )
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, interlaced)
    chunks = png_chunk(b"IHDR", header) + before + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def bmp_with_alpha(grey: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> bytes:
    """A 32-bit BMP with a V5 header and masks for all four channels."""
    rows = np.dstack([grey, grey, grey, alpha])[::-1].tobytes()
    header = struct.pack("<IiiHHI", 124, grey.shape[1], grey.shape[0], 1, 32, 3) + struct.pack(
        "<IIIII", len(rows), 0, 0, 0, 0
    )
    header += struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    return b"BM" + struct.pack("<IHHI", 138 + len(rows), 0, 0, 138) + header.ljust(124, b"\0") + rows


def tiff_of(tags: list[tuple[int, int, int, int]], body: bytes = b"", *, following: int = 0) -> bytes:
    """A little-endian TIFF with one directory of (tag, type, count, value) at 8 and `body` behind it."""
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\x00" + struct.pack("<I", 8) + directory + struct.pack("<I", following) + body


def tiff_deflated(width: int, height: int, strip: bytes) -> bytes:
    """An 8-bit grey TIFF with one zlib-compressed strip, which may hold far more than the image needs."""
    packed = zlib.compress(strip, 9)
    tags = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, 8),
        (259, 3, 1, 8),
        (262, 3, 1, 1),
        (273, 4, 1, 8 + 2 + 12 * 9 + 4),
        (277, 3, 1, 1),
        (278, 4, 1, height),
        (279, 4, 1, len(packed)),
    ]
    return tiff_of(tags, packed)


def jpeg_claiming(width: int, height: int) -> bytes:
    """A JPEG that ends after its frame header."""
    return b"\xff\xd8\xff\xc0" + struct.pack(">HBHHB", 11, 8, height, width, 1) + b"\x01\x11\x00\xff\xd9"


def one_of_each() -> dict[str, bytes]:
    """A good file of every accepted type, small."""
    colour = np.dstack([gradient(), gradient()[::-1], gradient()[:, ::-1]])
    return {
        "png": encode(gradient(), "PNG"),
        "png-colour": encode(colour, "PNG"),
        "jpeg": encode(colour, "JPEG"),
        "tiff": encode(gradient(dtype="uint16", top=60000), "TIFF"),
        "tiff-lzw": encode(gradient(), "TIFF", compression="tiff_lzw"),
        "tiff-float64": encode_tiff(gradient(dtype="float64")),
        "tiff-colour16": encode_tiff(np.dstack([gradient(dtype="uint16", top=60000)] * 3), photometric="rgb"),
        "gif": frames("GIF", 3),
        "webp": encode(colour, "WEBP", lossless=True),
        "webp-moving": frames("WEBP", 3),
        "bmp": encode(gradient(), "BMP"),
    }


def large_tiff(side: int, dtype: str, *, tile: int = 0, rows: int = 0, samples: int = 1) -> bytes:
    """A square page of constant tiles or strips, of four levels in turn that are each stored once: a small file that is
    quickly made, however many pixels it has."""
    kind, across = np.dtype(dtype), -(-side // tile) if tile else 1
    count = across * across if tile else -(-side // rows)
    shape = (tile, tile, samples) if tile else (rows, side, samples)
    top = np.iinfo(kind).max
    stored = [
        zlib.compress(np.full(shape, top * level // 5, kind.newbyteorder("<")).tobytes(), 1) for level in range(1, 5)
    ]
    starts = [8 + sum(map(len, stored[:level])) for level in range(4)]
    order = [(index // across + index % across) % 4 for index in range(count)]
    body = b"II*\0" + struct.pack("<I", 8 + sum(map(len, stored))) + b"".join(stored)
    entries = {
        **{256: [side], 257: [side], 258: [8 * kind.itemsize] * samples, 259: [8], 262: [2 if samples == 3 else 1]},
        **({322: [tile], 323: [tile]} if tile else {278: [rows]}),
        277: [samples],
        324 if tile else 273: [starts[level] for level in order],
        325 if tile else 279: [len(stored[level]) for level in order],
    }
    place, values, table = len(body) + 2 + 12 * len(entries) + 4, b"", b""
    for tag, numbers in sorted(entries.items()):
        packed = struct.pack(f"<{len(numbers)}I", *numbers)
        head = struct.pack("<HHI", tag, 4, len(numbers))
        table += head + (packed if len(numbers) == 1 else struct.pack("<I", place + len(values)))
        values += packed if len(numbers) > 1 else b""
    return body + struct.pack("<H", len(entries)) + table + bytes(4) + values


def large_jpeg(side: int) -> bytes:
    """A square baseline JPEG of one colour: rows of blocks between restart markers are coded alike, so they are written
    once and repeated."""
    at_once = 8 * 16
    part = encode(Image.new("RGB", (side, at_once), (200, 90, 30)), "JPEG", restart_marker_rows=1)
    head = part.index(b"\xff\xda")
    begin = head + 2 + int(struct.unpack_from(">H", part, head + 2)[0])
    first = part[begin : part.index(b"\xff\xd0", begin)]
    size = part.index(b"\xff\xc0") + 5
    scan = b"".join(first + bytes((0xFF, 0xD0 + row % 8)) for row in range(-(-side // 16)))
    return part[:size] + struct.pack(">H", side) + part[size + 2 : begin] + scan[:-2] + b"\xff\xd9"
