"""The samples of a TIFF page: strips and tiles decoded within bounds and assembled.

tifffile decodes embedded picture formats (JPEG, CCITT, WebP, …). Strips and tiles of plain bytes are decoded here with
imagecodecs, because they must be bounded before they are unpacked, may be padded, and may use a predictor that other
readers ignore. Unsupported kinds are refused by name.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tifffile import COMPRESSION, TiffPage
from tifffile.tifffile import jpeg_shape

from serve_app.images.header import read_layout

Numbers = NDArray[Any]

MAX_SAMPLES = 16
ROWS_COMPARED = 512
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, YCBCR = 0, 1, 2, 6
PIECE_MAX_BYTES = 256 * 1024 * 1024
"""Largest strip or tile of a page that is read in steps, unpacked."""
SURPLUS = 65_536
"""Bytes that a strip may unpack to beyond twice its size; more is treated as a bomb."""
COUNTS = (279, 325)
"""The tags with the sizes of strips and tiles."""

UNCOMPRESSED, PACKBITS = 1, 32773
CCITT = (2, 3, 4)
JPEG = (7, 33007, 34892)
JPEG_END = b"\xff\xd9"
JPEG_2000 = (33004, 33005, 34712)
WEBP = 50001
DEFLATE = (8, 32946, 50013)
BYTES: dict[int, Callable[..., Any]] = {
    5: imagecodecs.lzw_decode,
    PACKBITS: imagecodecs.packbits_decode,
    **dict.fromkeys(DEFLATE, imagecodecs.deflate_decode),
    34925: imagecodecs.lzma_decode,
    34926: imagecodecs.zstd_decode,
    50000: imagecodecs.zstd_decode,
}
"""Compressions of plain bytes; all take the maximum output as `out`."""
PICTURES = (*CCITT, *JPEG, *JPEG_2000, WEBP)


def read_samples(page: TiffPage, data: bytes, plane: int, max_pixels: int, step: int = 1) -> tuple[Numbers, str]:
    """The samples of a page as (height, width, samples), and which were kept. `plane` counts the pictures of one
    directory, from 0.

    With a `step` the samples are a fraction of the page: means of step x step pixels if they are 8-bit grey or RGB,
    else every step-th pixel. No more than one strip or tile is in memory besides them.

    Raises `ValueError` with a readable reason if data are missing or of an unsupported kind, and nearly any exception
    if they are damaged."""
    check_size(page, max_pixels)
    pieces = _Pieces(page, data, plane, step)
    return pieces.samples(), pieces.kept


def check_size(page: TiffPage, max_pixels: int) -> None:
    """Raises `ValueError` if the page or a tile of it exceeds the limits."""
    if page.samplesperpixel > MAX_SAMPLES:
        raise ValueError(f"it has {page.samplesperpixel} samples per pixel")
    if page.imagewidth * page.imagelength * page.imagedepth > max_pixels:
        raise ValueError(f"it has more than {max_pixels} pixels")
    if page.is_tiled and page.tilewidth * page.tilelength * page.tiledepth > max(max_pixels, 1 << 20):
        raise ValueError(f"it has tiles of more than {max_pixels} pixels")


class _Pieces:
    """The strips or tiles of one page, each decoded within its bound and copied to its position."""

    def __init__(self, page: TiffPage, data: bytes, plane: int, step: int) -> None:
        self._page, self._data, self._step = page, data, step
        self._bits = bits_of(page)
        self._order = page.parent.byteorder
        samples = page.samplesperpixel
        self._separate = samples if page.planarconfig == 2 and samples > 1 else 1
        self._together = samples // self._separate
        if page.is_tiled:
            self._rows, self._columns = page.tilelength, page.tilewidth
        else:
            self._rows, self._columns = page.rowsperstrip or page.imagelength, page.imagewidth
        if min(self._rows, self._columns) < 1 or page.tiledepth > 1:
            raise ValueError(f"its tiles are of {page.tiledepth} x {self._rows} x {self._columns} pixels")
        self._row_bytes = (self._columns * self._together * self._bits + 7) // 8
        if step == 1 and self._is_one_piece():
            self._rows = page.imagelength
        self._means = step > 1 and self._is_plain_picture()
        if step > 1:
            self._check_pieces()
        self._across = math.ceil(page.imagewidth / self._columns)
        self._count = self._across * math.ceil(page.imagelength / self._rows)
        self._counted = any(tag in page.tags for tag in COUNTS)
        self._shift = plane * page.imagelength * self._row_bytes * self._separate
        if plane and page.compression != UNCOMPRESSED:
            raise ValueError(
                f"only its first page can be read, because its {compression_name(page)} data have no directory"
            )

    def _is_one_piece(self) -> bool:
        """Whether the strips are contiguous, like a single one: instruments write a strip for each row."""
        page, offsets = self._page, self._page.dataoffsets
        if page.is_tiled or page.compression != UNCOMPRESSED or page.predictor != 1 or self._separate > 1:
            return False
        strips = math.ceil(page.imagelength / self._rows)
        size = self._rows * self._row_bytes
        return len(offsets) >= strips and all(
            offsets[index] == offsets[0] + index * size and page.databytecounts[index] > 0 for index in range(strips)
        )

    def _is_plain_picture(self) -> bool:
        page = self._page
        fits = not page.is_tiled or (self._rows % self._step == 0 and self._columns % self._step == 0)
        plain = page.photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, YCBCR) and page.samplesperpixel in (1, 3)
        return fits and plain and self._bits == 8 and _dtype(page, 8) == np.uint8

    def _check_pieces(self) -> None:
        """Refuse strips and tiles that would take the memory themselves."""
        size = min(self._rows, self._page.imagelength) * self._columns * self._together
        size *= _dtype(self._page, self._bits).itemsize
        if size > PIECE_MAX_BYTES:
            kind = "tiles" if self._page.is_tiled else "strips"
            raise ValueError(
                f"its {kind} are too large to be read one by one ({size >> 20:,} MiB each, and at most "
                f"{PIECE_MAX_BYTES >> 20} are read): save it with smaller ones"
            )

    @property
    def kept(self) -> str:
        """Which pixels are in `samples`, in words; empty if all."""
        if self._step == 1:
            return ""
        square = f"{self._step}x{self._step}"
        return f"means of {square} pixels" if self._means else f"one pixel in {square}"

    def samples(self) -> Numbers:
        """The page as (height, width, samples)."""
        page = self._page
        if page.predictor != 1 and page.compression in (UNCOMPRESSED, PACKBITS):
            # The standard has predictors for LZW only, and some programs leave the tag behind: take the smoother
            # result.
            plain, undone = self._assembled(1), self._assembled(page.predictor)
            return plain if _roughness(plain) < _roughness(undone) else undone
        return self._assembled(page.predictor)

    def _assembled(self, predictor: int) -> Numbers:
        page = self._page
        height, width = page.imagelength, page.imagewidth
        if min(len(page.dataoffsets), len(page.databytecounts)) < self._count * self._separate * page.imagedepth:
            raise ValueError("some of its strips or tiles are missing")
        step = self._step
        shape = (math.ceil(height / step), math.ceil(width / step), page.samplesperpixel)
        whole = np.empty(shape, _dtype(page, self._bits))
        for plane in range(self._separate):
            part = whole[:, :, plane : plane + self._together]
            held = np.empty((0, width, self._together), np.uint8)
            for number in range(self._count):
                top, left = number // self._across * self._rows, number % self._across * self._columns
                rows = self._rows if page.is_tiled else min(self._rows, height - top)
                index = plane * page.imagedepth * self._count + number
                piece = self._piece(index, rows, predictor)
                down, along = min(rows, height - top), min(self._columns, width - left)
                if piece.shape[0] < down or piece.shape[1] < along:
                    raise ValueError("a strip or tile holds fewer pixels than it should: the file is damaged")
                piece = piece[:down, :along]
                if self._means:
                    if not page.is_tiled:  # a strip may end within the rows of a mean
                        top, piece = top - len(held), np.concatenate((held, piece)) if len(held) else piece
                        whole_rows = len(piece) - (len(piece) % step if top + len(piece) < height else 0)
                        piece, held = piece[:whole_rows], piece[whole_rows:]
                    _place(part, _means(piece, step), top // step, left // step)
                else:
                    kept = piece[-top % step :: step, -left % step :: step]
                    _place(part, kept, math.ceil(top / step), math.ceil(left / step))
        return whole

    def _piece(self, index: int, rows: int, predictor: int) -> Numbers:
        """A strip or tile as (rows, columns, samples)."""
        page, need = self._page, rows * self._row_bytes
        offset, count = page.dataoffsets[index] + self._shift, page.databytecounts[index]
        if not self._counted:
            count = len(self._data) - offset
        if page.dataoffsets[index] <= 0 or count <= 0:
            raise ValueError("some of its strips or tiles are missing")
        if page.compression == UNCOMPRESSED:
            count = need  # some programs write a wrong count
        if offset + count > len(self._data):
            raise ValueError("the file is truncated: a strip or tile lies beyond its end")
        stored = self._data[offset : offset + count]
        if page.compression in PICTURES:
            return self._picture(stored, index, rows)
        if page.fillorder == 2:
            stored = bytes(imagecodecs.bitorder_decode(stored))
        if page.compression != UNCOMPRESSED:
            stored = self._decompressed(stored)
        if len(stored) < need:
            raise ValueError("a strip or tile holds fewer bytes than it should: the file is damaged")
        return self._unpacked(stored[:need], rows, predictor)

    def _decompressed(self, stored: bytes) -> bytes:
        decompress = _decompressor(self._page)
        try:
            return bytes(decompress(stored, out=2 * self._rows * self._row_bytes + SURPLUS))
        except RuntimeError as error:  # the base class of all decoder errors
            raise ValueError(
                f"a strip or tile is damaged or holds more than its place ({compression_name(self._page)})"
            ) from error

    def _picture(self, stored: bytes, index: int, rows: int) -> Numbers:
        page = self._page
        claimed = _claimed_pixels(page, stored)
        if claimed > 4 * rows * self._columns + SURPLUS:
            raise ValueError(f"a strip or tile claims {claimed:,} pixels and its place has {rows * self._columns:,}")
        if page.compression in JPEG and JPEG_END not in stored:  # its decoder would fill the rest with grey
            raise ValueError("a strip or tile is cut off: its JPEG data have no end marker")
        piece, _, _ = page.decode(stored, index, jpegtables=page.jpegtables, jpegheader=page.jpegheader)
        if piece is None:
            raise ValueError("some of its strips or tiles are missing")
        return np.asarray(piece[0])

    def _unpacked(self, raw: bytes, rows: int, predictor: int) -> Numbers:
        shape = (rows, self._columns, self._together)
        kind = _dtype(self._page, self._bits)
        if self._bits == 24:
            return np.asarray(imagecodecs.float24_decode(raw, byteorder=self._order)).reshape(shape)
        if self._bits not in (8, 16, 32, 64):
            run = self._columns * self._together
            return np.asarray(imagecodecs.packints_decode(raw, kind, self._bits, runlen=run)).reshape(shape)
        if predictor == 3:  # its bytes are reordered, whatever the file's byte order
            return np.asarray(imagecodecs.floatpred_decode(np.frombuffer(raw, kind).reshape(shape), axis=-2))
        values = np.frombuffer(raw, kind.newbyteorder(self._order)).reshape(shape).astype(kind, copy=False)
        if predictor == 2:  # differences of the stored words, also for floats
            words = values.view(f"u{kind.itemsize}")
            return np.asarray(imagecodecs.delta_decode(words, axis=-2)).view(kind)
        return values


def _place(whole: Numbers, part: Numbers, top: int, left: int) -> None:
    whole[top : top + part.shape[0], left : left + part.shape[1]] = part


def _means(piece: Numbers, step: int) -> Numbers:
    """Means of step x step pixels, of fewer at the right and lower edge."""
    if not len(piece):
        return piece[:, ::step]
    flat = np.ascontiguousarray(piece[:, :, 0] if piece.shape[2] == 1 else piece)
    return np.asarray(Image.fromarray(flat).reduce(step)).reshape(-1, math.ceil(piece.shape[1] / step), piece.shape[2])


def bits_of(page: TiffPage) -> int:
    """Bits per sample. Raises `ValueError` for unsupported kinds."""
    bits, form = page.bitspersample, int(page.sampleformat)
    if not isinstance(bits, int):
        raise ValueError(f"its samples differ in depth ({', '.join(map(str, bits))} bits), which is not read")
    signed_or_float = {2: (8, 16, 32, 64), 3: (16, 24, 32, 64)}
    if form in (5, 6):
        raise ValueError("its pixels are complex numbers, which are not read")
    if bits not in signed_or_float.get(form, (*range(1, 17), 32, 64)):
        kind = {2: "signed integers", 3: "floats"}.get(form, "integers")
        raise ValueError(f"{bits}-bit {kind} are not read")
    predictors = {1: True, 2: bits in (8, 16, 32, 64), 3: form == 3 and bits != 24}
    if page.compression not in PICTURES and not predictors.get(page.predictor, False):
        raise ValueError(f"predictor {int(page.predictor)} is not read with {bits}-bit samples of format {form}")
    return bits


def _dtype(page: TiffPage, bits: int) -> np.dtype[Any]:
    letter = {2: "i", 3: "f"}.get(int(page.sampleformat), "u")
    return np.dtype(f"{letter}{4 if bits == 24 else 1 << max(0, math.ceil(math.log2(bits / 8)))}")


def compression_name(page: TiffPage) -> str:
    """The name of the page's compression, or its number if it has none."""
    try:
        return COMPRESSION(page.compression).name
    except ValueError:
        return f"compression {int(page.compression)}"


def _decompressor(page: TiffPage) -> Callable[..., Any]:
    try:
        return BYTES[page.compression]
    except KeyError:
        raise ValueError(f"its compression is not read ({compression_name(page)}, {int(page.compression)})") from None


def _claimed_pixels(page: TiffPage, stored: bytes) -> int:
    """Pixels that an embedded picture claims to have."""
    if page.compression in JPEG:
        _, height, width, _ = jpeg_shape(stored)
        return height * width
    if page.compression in JPEG_2000:
        width, height = struct.unpack_from(">II", stored, stored.index(b"\xff\x51", 0, 4096) + 6)
        return int(width * height)
    if page.compression == WEBP:
        layout = read_layout(stored, 1)
        return layout.width * layout.height
    return 0


def _roughness(samples: Numbers) -> float:
    """How much neighbouring rows differ, relative to rows far apart: near 1 for noise, much less for pictures.

    Computed on ranks, because misread floats have a few extreme values.
    """
    _, ranks = np.unique(samples[:ROWS_COMPARED, :, 0], return_inverse=True)
    ranks = ranks.reshape(-1, samples.shape[1]).astype(np.int64)
    far = np.abs(ranks - np.roll(ranks, max(1, len(ranks) // 2), axis=0)).mean()
    return float(np.abs(np.diff(ranks, axis=0)).mean() / far) if len(ranks) > 1 and far > 0 else 0.0
