"""A TIFF writer of the tests' own: every packing, byte order and tag that odd programs write, from the standard's text.

It shares no code with the readers but the compressors, so that a mistake cannot be made twice.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

COMPRESSORS: dict[int, Callable[[bytes], bytes]] = {
    1: bytes,
    5: lambda raw: bytes(imagecodecs.lzw_encode(raw)),
    8: lambda raw: zlib.compress(raw, 1),
    32946: lambda raw: zlib.compress(raw, 1),
    32773: lambda raw: bytes(imagecodecs.packbits_encode(raw)),
    34925: lambda raw: bytes(imagecodecs.lzma_encode(raw, level=0)),
    50000: lambda raw: bytes(imagecodecs.zstd_encode(raw)),
}
MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
SIZES = {1: "B", 2: "B", 3: "H", 4: "I", 5: "I", 12: "d", 16: "Q"}


@dataclass(frozen=True, slots=True)
class Kind:
    """How samples are stored. `form` is SampleFormat: 1 unsigned, 2 signed, 3 float."""

    bits: int = 8
    form: int = 1
    order: str = "<"
    compression: int = 1
    predictor: int = 1
    photometric: int = 1
    rows: int = 0
    """Rows of a strip; 0: one strip."""
    tile: tuple[int, int] | None = None
    planar: bool = False
    extra: tuple[int, ...] = ()
    big: bool = False
    fill_order: int = 1
    tags: Mapping[int, tuple[int, Any]] = field(default_factory=dict)
    """More tags: number → (type, values)."""
    without: tuple[int, ...] = ()
    """Tags that are left away."""
    pieces: tuple[bytes, ...] | None = None
    """The strips or tiles, where the test makes them itself."""


def write(samples: NDArray[Any], kind: Kind) -> bytes:
    """A file of one page; `samples` is (height, width) or (height, width, samples)."""
    return write_pages([(samples, kind)])


def write_pages(pages: Iterable[tuple[NDArray[Any], Kind]], below: Mapping[int, list[int]] | None = None) -> bytes:
    """A file of several pages; `below` names for a page's index those that become its SubIFDs."""
    all_pages = list(pages)
    first = all_pages[0][1]
    order, big = first.order, first.big
    head = struct.pack(order + "HHHQ", 43, 8, 0, 0) if big else struct.pack(order + "HI", 42, 0)
    out = bytearray((b"II" if order == "<" else b"MM") + head)
    link = 8 if big else 4
    place = "Q" if big else "I"
    inside = {index for indices in (below or {}).values() for index in indices}
    where: dict[int, int] = {}
    for index in [*sorted(inside), *(i for i in range(len(all_pages)) if i not in inside)]:
        samples, kind = all_pages[index]
        tags, pieces = _tags(samples, kind)
        starts = []
        for piece in pieces:
            starts.append(len(out))
            out += piece + bytes(len(piece) % 2)
        tags[324 if kind.tile else 273] = (16 if big else 4, starts)
        if below and index in below:
            tags[330] = (16 if big else 4, [where[one] for one in below[index]])
        tags = {number: value for number, value in tags.items() if number not in kind.without}
        where[index] = len(out)
        out += _directory(tags, order, big, len(out))
        if index not in inside:
            out[link : link + struct.calcsize(place)] = struct.pack(order + place, where[index])
            link = where[index] + (8 + 20 * len(tags) if big else 2 + 12 * len(tags))
    return bytes(out)


def _directory(tags: dict[int, tuple[int, Any]], order: str, big: bool, at: int) -> bytes:
    place, room = ("Q", 8) if big else ("I", 4)
    entries, values = b"", b""
    behind = at + (8 + 20 * len(tags) + 8 if big else 2 + 12 * len(tags) + 4)
    for number in sorted(tags):
        kind, value = tags[number]
        packed = value if kind in (2, 7) else struct.pack(f"{order}{len(value)}{SIZES[kind]}", *value)
        count = len(packed) if kind in (2, 7) else len(value) // (2 if kind == 5 else 1)
        entries += struct.pack(f"{order}HH{place}", number, kind, count)
        if len(packed) <= room:
            entries += packed.ljust(room, b"\0")
        else:
            entries += struct.pack(order + place, behind + len(values))
            values += packed + bytes(len(packed) % 2)
    head = struct.pack(order + ("Q" if big else "H"), len(tags))
    return head + entries + bytes(room) + values


def _tags(samples: NDArray[Any], kind: Kind) -> tuple[dict[int, tuple[int, Any]], list[bytes]]:
    stack = samples[:, :, None] if samples.ndim == 2 else samples
    height, width, count = stack.shape
    pieces = list(kind.pieces) if kind.pieces is not None else list(_pieces(stack, kind))
    tags: dict[int, tuple[int, Any]] = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [kind.bits] * count),
        259: (3, [kind.compression]),
        262: (3, [kind.photometric]),
        277: (3, [count]),
        (325 if kind.tile else 279): (4, [len(piece) for piece in pieces]),
        284: (3, [2 if kind.planar else 1]),
        339: (3, [kind.form] * count),
    }
    if kind.tile:
        tags |= {322: (3, [kind.tile[1]]), 323: (3, [kind.tile[0]])}
    else:
        tags[278] = (4, [kind.rows or height])
    if kind.predictor != 1:
        tags[317] = (3, [kind.predictor])
    if kind.extra:
        tags[338] = (3, list(kind.extra))
    if kind.fill_order != 1:
        tags[266] = (3, [kind.fill_order])
    return tags | dict(kind.tags), pieces


def _pieces(stack: NDArray[Any], kind: Kind) -> Iterable[bytes]:
    height, width, count = stack.shape
    down, along = kind.tile or (kind.rows or height, width)
    planes = [stack[:, :, one : one + 1] for one in range(count)] if kind.planar else [stack]
    for plane in planes:
        for top in range(0, height, down):
            for left in range(0, width, along):
                piece = plane[top : top + down, left : left + along]
                if kind.tile:
                    missing = ((0, down - piece.shape[0]), (0, along - piece.shape[1]), (0, 0))
                    piece = np.pad(piece, missing, mode="edge")
                raw = _raw(piece, kind)
                if kind.compression == 32773:  # each row by itself
                    size = len(raw) // piece.shape[0]
                    rows = (raw[start : start + size] for start in range(0, len(raw), size))
                    packed = b"".join(map(COMPRESSORS[32773], rows))
                else:
                    packed = COMPRESSORS[kind.compression](raw)
                yield packed.translate(MIRRORED) if kind.fill_order == 2 else packed


def _raw(piece: NDArray[Any], kind: Kind) -> bytes:
    """The bytes of a strip or tile before compression."""
    if kind.bits == 24 and kind.form == 3:
        return _float24(piece, kind.order)
    if kind.bits not in (8, 16, 32, 64):
        return b"".join(_packed_row(row.ravel(), kind.bits) for row in piece)
    stored = np.ascontiguousarray(piece.astype(f"{'uuif'[kind.form]}{kind.bits // 8}"))
    if kind.predictor == 2:  # differences of neighbouring pixels, as words that wrap
        words = stored.view(f"u{kind.bits // 8}")
        stored = words.copy()
        stored[:, 1:] -= words[:, :-1]
    if kind.predictor == 3:  # the bytes of a row sorted by their weight, then differences of bytes
        rows, columns, count = stored.shape
        weights = stored.astype(stored.dtype.newbyteorder(">")).view(np.uint8).reshape(rows, columns * count, -1)
        sorted_bytes = weights.transpose(0, 2, 1).reshape(rows, -1)
        differences = sorted_bytes.copy()
        differences[:, count:] -= sorted_bytes[:, :-count]
        return differences.tobytes()
    return stored.astype(stored.dtype.newbyteorder(kind.order)).tobytes()


def _packed_row(values: NDArray[Any], bits: int) -> bytes:
    """Most significant bit first in either byte order, each row to a whole byte (TIFF 6.0, FillOrder)."""
    shifts = np.arange(bits - 1, -1, -1)
    return np.packbits((values.astype(np.int64)[:, None] >> shifts) & 1).tobytes()


def _float24(values: NDArray[Any], order: str) -> bytes:
    """1 sign, 7 exponent (bias 63), 16 mantissa bits (DNG 1.4); for normal numbers and 0."""
    words = np.ascontiguousarray(values, np.float32).view(np.uint32).ravel()
    exponents = (words >> 23 & 0xFF).astype(np.int64) - 127 + 63
    short = (words >> 31 << 23) | (np.clip(exponents, 0, 127).astype(np.uint32) << 16) | (words >> 7 & 0xFFFF)
    short[words << 1 == 0] = 0
    return (
        short.astype(order + "u4")
        .view(np.uint8)
        .reshape(-1, 4)[:, slice(0, 3) if order == "<" else slice(1, 4)]
        .tobytes()
    )
