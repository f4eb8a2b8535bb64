"""TIFF pages, read by tifffile and imagecodecs: any byte order, packing, compression and predictor they know.

tifffile reads the directories and decodes what is a picture of its own inside (JPEG, CCITT, PNG, …). Strips and tiles of
plain bytes are put together here, because they have to be bounded before they are unpacked, may be padded, and may hold
a predictor that other readers skip. What is not read is refused by its name.
"""

from __future__ import annotations

import io
import logging
import math
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tifffile import COMPRESSION, PHOTOMETRIC, TiffFile, TiffPage
from tifffile.tifffile import jpeg_shape

from serve_app.images.header import ImageHeader
from serve_app.images.layouts import read_layout
from serve_app.images.measured import Bar

# Its warnings describe the sender's file; what matters of them comes out as the job's error.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)

Numbers = NDArray[Any]

MAX_SAMPLES = 16
SURPLUS = 65_536
"""Bytes that a strip may hold beyond twice its size before it is taken for a bomb."""

BITS, SAMPLE_FORMAT, ORIENTATION, PHOTOMETRIC_TAG, EXTRA_SAMPLES, INK_SET, NO_DATA = (
    258, 339, 274, 262, 338, 332, 42113,
)  # fmt: skip
FEI, TESCAN = (34680, 34682), 50431
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, CIELAB, ICCLAB = 0, 1, 2, 3, 5, 6, 8, 9
ASSOCIATED, UNASSOCIATED = 1, 2
BASE_SAMPLES = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3, CIELAB: 3, ICCLAB: 3}

UNCOMPRESSED, PACKBITS = 1, 32773
CCITT = (2, 3, 4)
JPEG = (7, 33007, 34892)
OLD_JPEG = 6
JPEG_2000 = (33003, 33004, 33005, 34712)
PNG, WEBP = 34933, 50001
DEFLATE = (8, 32946, 50013)
BYTES: dict[int, Callable[..., Any]] = {
    5: imagecodecs.lzw_decode,
    PACKBITS: imagecodecs.packbits_decode,
    **dict.fromkeys(DEFLATE, imagecodecs.deflate_decode),
    34925: imagecodecs.lzma_decode,
    34926: imagecodecs.zstd_decode,
    50000: imagecodecs.zstd_decode,
}
"""Compressions of plain bytes; all take the most bytes to give as `out`."""
PICTURES = (*CCITT, *JPEG, *JPEG_2000, PNG, WEBP)

MODES = {(1, "uint8"): "L", (3, "uint8"): "RGB", (1, "uint16"): "I;16", (1, "int32"): "I", (1, "float32"): "F"}
"""Pillow's names where it has one for the kind."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page as stored: `values` is (height, width) or (height, width, 3), uint8 or to be put through the window."""

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
    """Values that the file says are none."""
    bar: Bar | None
    """The data bar that the instrument's metadata name."""


def read_page(data: bytes, header: ImageHeader, max_pixels: int) -> Page:
    """The page of a TIFF file that `header` means.

    Raises `ValueError` with words for a person where the file is cut off or of a kind that is not read, and nearly any
    exception where it is damaged.
    """
    with TiffFile(io.BytesIO(data), _multifile=False, is_lsm=False, is_scanimage=False, is_ndpi=False) as file:
        file.filehandle.seek(header.directory)
        page = TiffPage(file, index=header.frame - 1)
        _check_size(page, max_pixels)
        if page.compression == OLD_JPEG or (page.photometric == YCBCR and page.compression not in JPEG):
            return _by_libtiff(page, data, header)
        samples = _Pieces(page, data, header.plane).samples()
        return _page(page, samples)


def _check_size(page: TiffPage, max_pixels: int) -> None:
    if page.samplesperpixel > MAX_SAMPLES:
        raise ValueError(f"it has {page.samplesperpixel} samples per pixel")
    if page.imagewidth * page.imagelength * page.imagedepth > max_pixels:
        raise ValueError(f"it has more than {max_pixels} pixels")
    if page.is_tiled and page.tilewidth * page.tilelength * page.tiledepth > max(max_pixels, 1 << 20):
        raise ValueError(f"it has tiles of more than {max_pixels} pixels")


class _Pieces:
    """The strips or tiles of one page, each decoded within its bound and put in its place."""

    def __init__(self, page: TiffPage, data: bytes, plane: int) -> None:
        self._page, self._data = page, data
        self._bits = _bits(page)
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
        self._across = math.ceil(page.imagewidth / self._columns)
        self._count = self._across * math.ceil(page.imagelength / self._rows)
        self._shift = plane * page.imagelength * self._row_bytes * self._separate
        if plane and page.compression != UNCOMPRESSED:
            raise ValueError(f"only its first page can be read, because its {_name(page)} data have no directory")

    def samples(self) -> Numbers:
        """The page as (height, width, samples)."""
        page = self._page
        if page.predictor != 1 and page.compression in (UNCOMPRESSED, PACKBITS):
            # The standard has predictors for LZW alone and some programs leave the tag behind: the smoother one is it.
            plain, undone = self._assembled(1), self._assembled(page.predictor)
            return plain if _roughness(plain) < _roughness(undone) else undone
        return self._assembled(page.predictor)

    def _assembled(self, predictor: int) -> Numbers:
        page = self._page
        height, width = page.imagelength, page.imagewidth
        if min(len(page.dataoffsets), len(page.databytecounts)) < self._count * self._separate * page.imagedepth:
            raise ValueError("some of its strips or tiles are missing")
        whole = np.empty((height, width, page.samplesperpixel), _dtype(page, self._bits))
        for plane in range(self._separate):
            part = whole[:, :, plane : plane + self._together]
            for number in range(self._count):
                top, left = number // self._across * self._rows, number % self._across * self._columns
                rows = self._rows if page.is_tiled else min(self._rows, height - top)
                index = plane * page.imagedepth * self._count + number
                piece = self._piece(index, rows, predictor)
                down, along = min(rows, height - top), min(self._columns, width - left)
                if piece.shape[0] < down or piece.shape[1] < along:
                    raise ValueError("a strip or tile holds fewer pixels than it should: the file is damaged")
                part[top : top + down, left : left + along] = piece[:down, :along]
        return whole

    def _piece(self, index: int, rows: int, predictor: int) -> Numbers:
        """A strip or tile as (rows, columns, samples)."""
        page, need = self._page, rows * self._row_bytes
        offset, count = page.dataoffsets[index] + self._shift, page.databytecounts[index]
        if page.dataoffsets[index] <= 0 or count <= 0:
            raise ValueError("some of its strips or tiles are missing")
        if page.compression == UNCOMPRESSED:
            count = need  # some programs write any number
        if offset + count > len(self._data):
            raise ValueError("the file is truncated: a strip or tile lies beyond its end")
        stored = self._data[offset : offset + count]
        if page.compression in PICTURES:
            return self._picture(stored, index, rows)
        if page.fillorder == 2:
            stored = imagecodecs.bitorder_decode(stored)
        if page.compression != UNCOMPRESSED:
            room = 2 * self._rows * self._row_bytes + SURPLUS
            stored = _decompressor(page)(stored, out=room)
        if len(stored) < need:
            raise ValueError("a strip or tile holds fewer bytes than it should: the file is damaged")
        return self._unpacked(stored[:need], rows, predictor)

    def _picture(self, stored: bytes, index: int, rows: int) -> Numbers:
        page = self._page
        claimed = _claimed_pixels(page, stored)
        if claimed > 4 * rows * self._columns + SURPLUS:
            raise ValueError(f"a strip or tile claims {claimed:,} pixels and its place has {rows * self._columns:,}")
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
        if predictor == 3:  # its bytes are sorted, whatever the file's order
            return np.asarray(imagecodecs.floatpred_decode(np.frombuffer(raw, kind).reshape(shape), axis=-2))
        values = np.frombuffer(raw, kind.newbyteorder(self._order)).reshape(shape).astype(kind, copy=False)
        if predictor == 2:  # differences of the stored words, floats too
            words = values.view(f"u{kind.itemsize}")
            return np.asarray(imagecodecs.delta_decode(words, axis=-2)).view(kind)
        return values


def _bits(page: TiffPage) -> int:
    """Bits of a sample, for a kind that can be read."""
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


def _name(page: TiffPage) -> str:
    try:
        return COMPRESSION(page.compression).name
    except ValueError:
        return f"compression {int(page.compression)}"


def _decompressor(page: TiffPage) -> Callable[..., Any]:
    try:
        return BYTES[page.compression]
    except KeyError:
        raise ValueError(f"its compression is not read ({_name(page)}, {int(page.compression)})") from None


def _claimed_pixels(page: TiffPage, stored: bytes) -> int:
    """Pixels that a picture in a strip or tile says it has."""
    if page.compression in JPEG:
        _, height, width, _ = jpeg_shape(stored)
        return height * width
    if page.compression in JPEG_2000:
        width, height = struct.unpack_from(">II", stored, stored.index(b"\xff\x51", 0, 4096) + 6)
        return int(width * height)
    if page.compression in (PNG, WEBP):
        layout = read_layout(stored, 1)
        return layout.width * layout.height
    return 0


def _roughness(samples: Numbers) -> float:
    """How much neighbouring rows differ, in the picture's own spread: near 1 for noise, far below for pictures."""
    with np.errstate(all="ignore"):
        grey = samples[:, :, 0].astype(np.float64)
        measure = np.abs(np.diff(grey, axis=0)).mean() / grey.std() if grey.shape[0] > 1 else 0.0
    return float(measure) if np.isfinite(measure) else math.inf


def _page(page: TiffPage, samples: Numbers) -> Page:
    kind = _photometric(page)
    if kind not in BASE_SAMPLES:
        raise ValueError(f"its colours are not read ({_colours(kind)})")
    base, count = BASE_SAMPLES[kind], samples.shape[2]
    if page.compression in JPEG and kind == YCBCR:
        kind = RGB  # its decoder converts
    if count < base:
        raise ValueError(f"it has {count} samples per pixel, too few for {_colours(kind)}")
    if samples.dtype.kind == "u" and samples.dtype.itemsize >= 4 and page.tags.valueof(SAMPLE_FORMAT) in (None, 4):
        samples = _by_the_bits(samples)
    values, opacity = samples[:, :, :base], _alpha(page, samples, base, kind)
    bits = _bits(page)
    mode = MODES.get((count, str(samples.dtype)), f"{count} x {samples.dtype}")
    alpha = None
    if opacity is not None:
        at, associated = opacity
        alpha = _opacity(samples[:, :, at], bits)
        if associated and kind in (RGB, WHITE_IS_ZERO, BLACK_IS_ZERO):
            values = _unmultiplied(values, alpha, bits)
    if kind in (WHITE_IS_ZERO, BLACK_IS_ZERO):
        values, read_as = _grey(values[:, :, 0], bits)
        if count > 1 and alpha is None:
            read_as += f", first of {count} channels"
    elif kind == PALETTE:
        values, read_as = _through_palette(values[:, :, 0], page)
    elif kind == RGB:
        values, read_as = _colour(values, bits)
    else:
        values, read_as = _converted(values, kind, page)
    orientation = page.tags.valueof(ORIENTATION, 1)
    return Page(
        values,
        mode,
        read_as,
        kind == WHITE_IS_ZERO,
        orientation if isinstance(orientation, int) else 1,
        alpha,
        _no_data(page),
        _named_bar(page),
    )


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
    """32- or 64-bit words without SampleFormat: floats where only floats look like this, else integers.

    As floats, pictures keep to a few decades around 1, so the exponents of their words are close together and near the
    middle. Counts and full-scale integers, read in that way, have tiny exponents or ones all over the range.
    """
    width = words.dtype.itemsize * 8
    mantissa, middle, exponents = (23, 127, 0xFF) if width == 32 else (52, 1023, 0x7FF)
    used = words[words != 0]
    if used.size == 0:
        return words
    exponent = (used >> np.array(mantissa, words.dtype)) & np.array(exponents, words.dtype)
    finite = exponent[exponent != exponents].astype(np.int64)
    if finite.size < used.size / 2:
        return words
    low, high = np.percentile(finite, (1, 99))
    near = (np.abs(finite - middle) <= 40).mean()
    if near >= 0.98 and high - low <= 24:
        return words.view(f"f{words.dtype.itemsize}")
    if near <= 0.5:
        return words
    raise ValueError(
        f"its {width}-bit samples have no SampleFormat tag and may be integers or floats: save it with that tag"
    )


def _alpha(page: TiffPage, samples: Numbers, base: int, kind: int) -> tuple[int, bool] | None:
    """Which sample is opacity, and whether the colours are multiplied by it. Unspecified samples are none."""
    extra = samples.shape[2] - base
    if extra < 1:
        return None
    if EXTRA_SAMPLES not in page.tags:
        return (base, False) if kind == RGB and extra == 1 else None
    for index, meaning in enumerate(page.extrasamples[:extra]):
        if meaning in (ASSOCIATED, UNASSOCIATED):
            return base + index, int(meaning) == ASSOCIATED
    return None


def _opacity(alpha: Numbers, bits: int) -> NDArray[np.float32]:
    """Alpha as 0 to 1. Also where 12 bits stand in 16: then the greatest value is a full scale of its own."""
    most = alpha.max()
    if alpha.dtype.kind == "f":
        full = max(1.0, float(most)) if np.isfinite(most) else 1.0
    else:
        full = float(2**bits - 1 if alpha.dtype.kind == "u" else np.iinfo(alpha.dtype).max)
        if bits > 8 and most in (255, 1023, 4095, 16383):
            full = float(most)
    return np.clip(np.nan_to_num(alpha.astype(np.float32) / np.float32(full)), 0, 1)


def _unmultiplied(values: Numbers, alpha: NDArray[np.float32], bits: int) -> Numbers:
    if not alpha.any():
        return values
    with np.errstate(all="ignore"):
        plain = np.where(alpha[:, :, None] > 0, values / alpha[:, :, None], 0)
    if values.dtype.kind == "f":
        return plain.astype(values.dtype)
    return np.rint(np.clip(plain, 0, 2**bits - 1)).astype(values.dtype)


def _grey(values: Numbers, bits: int) -> tuple[Numbers, str]:
    if values.dtype == np.int8:
        return values.view(np.uint8) ^ np.uint8(0x80), "signed 8-bit greyscale, shifted by 128"
    if bits == 1:
        return values.astype(np.uint8) * np.uint8(255), "1-bit black and white"
    if bits < 8:
        scale = np.rint(np.arange(256) * (255 / (2**bits - 1))).clip(0, 255).astype(np.uint8)
        return scale[values], f"{bits}-bit greyscale"
    kind = {"f": " float", "i": " signed integer"}.get(values.dtype.kind, " integer" if bits > 16 else "")
    return values, f"{bits}-bit{kind} greyscale"


def _colour(values: Numbers, bits: int) -> tuple[Numbers, str]:
    if values.dtype == np.int8:
        return values.view(np.uint8) ^ np.uint8(0x80), "signed 8-bit colour, shifted by 128"
    if bits < 8:
        scale = np.rint(np.arange(256) * (255 / (2**bits - 1))).clip(0, 255).astype(np.uint8)
        return scale[values], f"{bits}-bit colour"
    return values, f"{bits}-bit{' float' if values.dtype.kind == 'f' else ''} colour"


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
    if values.dtype.itemsize != 1 or _bits(page) != 8:
        raise ValueError(f"{page.bitspersample}-bit {name} of type {values.dtype} is not read")
    values = np.ascontiguousarray(values).view(np.uint8)
    if kind == ICCLAB:  # Pillow takes a and b as the other kind has them, signed
        values = values ^ np.array([0, 0x80, 0x80], np.uint8)
    height, width = values.shape[:2]
    image = Image.frombytes(name, (width, height), values.tobytes())
    return np.asarray(image.convert("RGB")), f"{name}, converted to RGB"


def _by_libtiff(page: TiffPage, data: bytes, header: ImageHeader) -> Page:
    """YCbCr that is not JPEG, and JPEG of the old kind: libtiff alone knows their subsampling and tables."""
    if page.tags.valueof(SAMPLE_FORMAT, 1) not in (1, (1, 1, 1)) or page.bitspersample != 8 or page.is_tiled:
        raise ValueError(f"{_name(page)} with {_colours(int(page.photometric))} is not read in this depth or in tiles")
    _check_whole(page, data)
    upright = bytearray(data)
    if tag := page.tags.get(ORIENTATION):  # libtiff would turn it half
        upright[tag.valueoffset : tag.valueoffset + 2] = struct.pack(page.parent.byteorder + "H", 1)
    values = imagecodecs.tiff_decode(bytes(upright), index=header.frame - 1, asrgb=True)
    orientation = page.tags.valueof(ORIENTATION, 1)
    values = np.asarray(values)[:, :, :3]
    if values.shape[:2] != (page.imagelength, page.imagewidth):
        raise ValueError("its page cannot be found by libtiff")
    turn = orientation if isinstance(orientation, int) else 1
    return Page(values, "YCbCr", "YCbCr, converted to RGB", False, turn, None, (), None)


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
    """The data bar at the bottom, where FEI and Thermo (rows of the scan) or TESCAN (rows of the strip) name it."""
    rows = 0
    for tag in FEI:
        fields = page.tags.valueof(tag)
        image = fields.get("Image") if isinstance(fields, dict) else None
        scan = image.get("ResolutionY") if isinstance(image, dict) else None
        if isinstance(scan, int) and 0 < scan < page.imagelength:
            rows = page.imagelength - scan
    if isinstance(text := page.tags.valueof(TESCAN), bytes) and (
        found := re.search(rb"ImageStripSize=(\d{1,5})", text)
    ):
        rows = int(found[1])
    return Bar("bottom", rows, named=True) if 0 < rows <= page.imagelength // 2 else None
