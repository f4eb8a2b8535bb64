"""PNG, JPEG and BMP files as programs really write them: read as other decoders do, and damage is still refused."""

from __future__ import annotations

import io
import struct
import time
import zlib
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from serve_app.errors import ImageTypeUnsupported, ImageUndecodable, ImageUnreadable
from serve_app.images.decode import read_pixels
from serve_app.images.header import inspect
from serve_app.settings import Settings
from tests.pictures import bmp_with_alpha, encode, frames, gradient, png_chunk, png_deep, texture

SETTINGS = Settings()
GREY = texture(96, 128)
COLOUR = np.dstack([GREY, GREY[::-1], GREY[:, ::-1]])
PNG = encode(GREY, "PNG")
JPEG = encode(COLOUR, "JPEG", quality=90)
LONG = b"<Stage x='12.5'/>" * 200_000
ORIENTED = Image.Exif()
ORIENTED[274] = 6


def with_chunk(kind: bytes, body: bytes, *, crc: int | None = None, file: bytes = PNG, behind: bool = False) -> bytes:
    """The file with a chunk before its pixels, or behind them."""
    chunk = png_chunk(kind, body)
    if crc is not None:
        chunk = chunk[:-4] + struct.pack(">I", crc)
    at = len(file) - 12 if behind else 33
    return file[:at] + chunk + file[at:]


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def with_segments(*pieces: bytes) -> bytes:
    """The JPEG with pieces behind its SOI."""
    return JPEG[:2] + b"".join(pieces) + JPEG[2:]


ODD_PNG = {
    "3 MB of text": with_chunk(b"tEXt", b"xml\0" + LONG),
    "3 MB of packed text": with_chunk(b"zTXt", b"xml\0\0" + zlib.compress(LONG)),
    "3 MB of packed international text": with_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(LONG)),
    "a text bomb": with_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(60_000_000))),
    "text behind the pixels": with_chunk(b"zTXt", b"xml\0\0" + zlib.compress(LONG), behind=True),
    "70 MB of texts in one file": PNG[:33] + png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**6))) * 70 + PNG[33:],
    "a profile of 2 MB": with_chunk(b"iCCP", b"scanner\0\0" + zlib.compress(bytes(2_000_000))),
    "a profile by an unknown method": with_chunk(b"iCCP", b"scanner\0\7" + b"x"),
    "text by an unknown method": with_chunk(b"zTXt", b"a\0\7b"),
    "a wrong checksum of a text": with_chunk(b"tEXt", b"a\0b", crc=1),
    "a wrong checksum of gamma": with_chunk(b"gAMA", struct.pack(">I", 45455), crc=1),
    "a wrong checksum behind the pixels": with_chunk(b"tIME", bytes(7), crc=1, behind=True),
    "a wrong checksum of IEND": PNG[:-4] + b"abcd",
    "a palette proposal with a wrong checksum": with_chunk(b"PLTE", bytes(3), crc=1),
    "chunks that are too short": with_chunk(b"pHYs", b"\0", file=with_chunk(b"cHRM", b"\0")),
    "no end": PNG[:-12],
    "a cut text behind the pixels": PNG[:-12] + png_chunk(b"tEXt", bytes(100))[:50],
    "bytes behind the end": PNG + bytes(1000),
}


@pytest.mark.parametrize("name", ODD_PNG)
def test_a_png_is_read_whatever_stands_beside_its_pixels(name: str) -> None:
    began = time.process_time()
    assert np.array_equal(read_pixels(ODD_PNG[name], SETTINGS).array, GREY)
    assert time.process_time() - began < 2


def idat() -> tuple[int, int]:
    """Where the pixels of PNG begin and end."""
    at = PNG.index(b"IDAT")
    return at + 4, at + 4 + struct.unpack_from(">I", PNG, at - 4)[0]


def stored_png(change: int) -> bytes:
    """A PNG whose pixels are not packed, so that a changed byte is a changed pixel; with the right Adler sum or not."""
    rows = b"".join(b"\0" + row.tobytes() for row in GREY)
    packed = bytearray(zlib.compress(rows, 0))
    packed[500] ^= change
    chunk = png_chunk(b"IDAT", zlib.compress(rows, 0))
    return PNG[:33] + chunk[:8] + bytes(packed) + chunk[-4:] + png_chunk(b"IEND", b"")


DAMAGED_PNG = {
    "wrong checksum": PNG[: idat()[1]] + b"abcd" + PNG[idat()[1] + 4 :],
    "broken stream": PNG[: idat()[0] + 900] + bytes(4) + PNG[idat()[0] + 904 :],
    "a changed pixel": stored_png(change=0x55),
    "cut in its pixels": PNG[: idat()[1] - 100],
    "cut in the checksum": PNG[: idat()[1] + 2],
    "rows missing": PNG[:33] + png_chunk(b"IDAT", zlib.compress(bytes(129) * 50)) + png_chunk(b"IEND", b""),
    "a damaged palette": with_chunk(b"PLTE", bytes(768), crc=1, file=encode(Image.fromarray(GREY).convert("P"), "PNG")),
    "too few 16-bit rows": png_deep(np.zeros((9, 9), np.uint16)).replace(
        png_chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 9, 16, 0, 0, 0, 0)),
        png_chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 900, 16, 0, 0, 0, 0)),
    ),
}


@pytest.mark.parametrize("name", DAMAGED_PNG)
def test_a_png_with_damaged_pixels_is_refused(name: str) -> None:
    with pytest.raises(ImageUndecodable):
        read_pixels(DAMAGED_PNG[name], SETTINGS)


def test_transparency_with_a_wrong_checksum_is_left_out_and_said_to_be() -> None:
    pixels = read_pixels(with_chunk(b"tRNS", struct.pack(">H", int(GREY[0, 0])), crc=1), SETTINGS)
    assert np.array_equal(pixels.array, GREY)
    assert pixels.how["read_as"] == "8-bit greyscale, damaged transparency left out"


@pytest.mark.parametrize("kind", [b"eXIf", b"zTXt", b"iTXt"])
def test_a_png_is_upright_by_exif_raw_profile_or_xmp(kind: bytes) -> None:
    raw = ORIENTED.tobytes().hex().encode()
    body = {
        b"eXIf": ORIENTED.tobytes().removeprefix(b"Exif\0\0"),
        b"zTXt": b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n%8d\n%s\n" % (len(raw) // 2, raw)),
        b"iTXt": b"XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation='6'/>".replace(b"'", b'"'),
    }[kind]
    assert np.array_equal(read_pixels(with_chunk(kind, body), SETTINGS).array, np.rot90(GREY, -1))


COUNTS = gradient(96, 128, "uint16", 4095)
FULL = np.full_like(COUNTS, 65535)
DEEP_PNG = {
    "grey": COUNTS,
    "grey + alpha": np.dstack([COUNTS, FULL]),
    "rgb": np.dstack([COUNTS] * 3),
    "rgba": np.dstack([COUNTS] * 3 + [FULL]),
}


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("name", DEEP_PNG)
def test_twelve_bits_in_a_16_bit_png_get_the_window_in_every_kind(name: str, interlaced: bool) -> None:
    pixels = read_pixels(png_deep(DEEP_PNG[name], interlaced=interlaced), SETTINGS)
    grey = pixels.array if pixels.array.ndim == 2 else pixels.array[:, :, 1]
    assert np.abs(grey.astype(int) - gradient(96, 128)).max() <= 1
    assert pixels.array.ndim == (3 if "rgb" in name else 2)
    assert pixels.how["read_as"].startswith(f"16-bit {'colour' if 'rgb' in name else 'greyscale'}, window 0.1–99.9 %")
    assert pixels.how["window"] == [0, 4095]


def test_the_channels_of_a_16_bit_png_share_one_window() -> None:
    pixels = read_pixels(png_deep(np.dstack([COUNTS, COUNTS // 2, COUNTS // 4])), SETTINGS)
    assert [int(pixels.array[50, :, channel].max()) for channel in range(3)] == [255, 127, 64]


@pytest.mark.parametrize("how", ["alpha", "tRNS"])
def test_transparent_parts_of_a_16_bit_png_are_white_and_do_not_decide_the_window(how: str) -> None:
    samples = np.dstack([COUNTS] * 3)
    samples[:40, :50] = 60_000
    before = b""
    if how == "alpha":
        alpha = FULL.copy()
        alpha[:40, :50] = 0
        samples = np.dstack([samples, alpha])
    else:
        before = png_chunk(b"tRNS", struct.pack(">HHH", 60_000, 60_000, 60_000))
    pixels = read_pixels(png_deep(samples, before=before), SETTINGS)
    assert (pixels.array[:40, :50] == 255).all()
    assert np.abs(pixels.array[50:, :, 0].astype(int) - gradient(96, 128)[50:]).max() <= 1
    assert "transparency laid on white" in pixels.how["read_as"]


def test_the_picture_beside_an_animation_is_counted_with_its_frames() -> None:
    data = frames("PNG", 3)
    control = data.index(b"fcTL") - 4
    hidden = data[:control] + data[control + 38 :]
    assert inspect(data, SETTINGS).frames == 3
    assert inspect(hidden, SETTINGS).frames == 4
    assert read_pixels(hidden, SETTINGS).how["frame"] == "1 of 4"


STRAY = (JPEG.index(b"\xff\xdb"), JPEG.index(b"\xff\xc0"), JPEG.index(b"\xff\xc4"))
ODD_JPEG = {
    **{f"{n} stray bytes at {at}": JPEG[:at] + bytes(n) + JPEG[at:] for n in (1, 26, 70_000) for at in (2, *STRAY)},
    "a line end": JPEG[: STRAY[1]] + b"\r\n" + JPEG[STRAY[1] :],
    "escaped and bare markers": with_segments(b"\xff\0\xff\x01\xff\xd0\xff\xd8"),
    "fill bytes": with_segments(b"\xff" * 500),
    "a large profile": with_segments(
        *(segment(0xE2, b"ICC_PROFILE\0" + bytes((n, 99)) + bytes(60_000)) for n in range(99))
    ),
    "a broken profile": with_segments(segment(0xE2, b"ICC_PROFILE\0")),
    "broken EXIF": with_segments(segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff")),
    "EXIF in many parts": with_segments(*[segment(0xE1, b"Exif\0\0" + bytes(60_000))] * 99),
    "a thumbnail": with_segments(
        segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0" + encode(GREY[:40, :40], "JPEG"))
    ),
    "a broken resource block": with_segments(segment(0xED, b"Photoshop 3.0\x008BIM\4")),
    "short words on the colour space": with_segments(segment(0xE0, b"JFIF\0"), segment(0xEE, b"Adobe")),
    "a broken list of pictures": with_segments(segment(0xE2, b"MPF\0II*\0\x08\0\0\0\0\0")),
    "comments": with_segments(*[segment(0xFE, bytes(60_000))] * 99),
    "no end": JPEG[:-2],
    "bytes behind the end": JPEG + bytes(5000),
    "another image behind the end": JPEG + encode(GREY, "JPEG"),
}


@pytest.mark.parametrize("name", ODD_JPEG)
def test_a_jpeg_is_read_as_other_decoders_read_it(name: str) -> None:
    assert inspect(ODD_JPEG[name], SETTINGS).width == 128
    expected = np.asarray(Image.open(io.BytesIO(JPEG)))
    assert np.array_equal(read_pixels(ODD_JPEG[name], SETTINGS).array, expected)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"subsampling": 0}])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.97])
@pytest.mark.parametrize("end", [b"", b"\xff\xd9", b"\xff\xd9" + bytes(100)])
def test_a_jpeg_whose_pixels_end_early_is_refused_also_where_an_end_marker_hides_it(
    options: dict[str, Any], share: float, end: bytes
) -> None:
    data = encode(COLOUR, "JPEG", **options)
    assert read_pixels(data, SETTINGS).array.shape == COLOUR.shape
    with pytest.raises(ImageUndecodable, match="truncated"):
        read_pixels(data[: int(len(data) * share)] + end, SETTINGS)


def test_a_progressive_jpeg_without_its_last_scans_is_refused() -> None:
    """A decoder draws it blurred and does not notice."""
    data = encode(COLOUR, "JPEG", progressive=True)
    scans = [at for at in range(len(data)) if data.startswith(b"\xff\xda", at)]
    assert len(scans) > 4
    for at in scans[1:]:
        with pytest.raises(ImageUndecodable, match="truncated"):
            read_pixels(data[:at], SETTINGS)


def test_a_lossless_jpeg_is_read_exactly() -> None:
    assert np.array_equal(read_pixels(imagecodecs.ljpeg_encode(GREY), SETTINGS).array, GREY)


@pytest.mark.parametrize("adobe", [False, True])
def test_cmyk_and_ycck_jpeg_keep_their_colours(adobe: bool) -> None:
    inks = Image.fromarray(COLOUR).convert("CMYK")
    # Pillow inverts what it writes, as Adobe does; YCCK is what Adobe's transform makes of it.
    options = {"colorspace": "CMYK", "outcolorspace": "YCCK"}
    ycck = imagecodecs.jpeg8_encode(255 - np.asarray(inks), level=98, **options)
    data = ycck if adobe else encode(inks, "JPEG", quality=98, subsampling=0)
    pixels = read_pixels(data, SETTINGS)
    assert pixels.how["read_as"] == "CMYK, converted to RGB"
    assert np.abs(pixels.array.astype(int) - COLOUR).mean() < 8


def test_what_no_jpeg_decoder_goes_on_after_is_refused_with_a_reason() -> None:
    with pytest.raises(ImageUnreadable, match=r"unknown marker \(0x05\)"):
        inspect(with_segments(b"\xff\x05"), SETTINGS)
    with pytest.raises(ImageUnreadable, match="more than 4096 segments"):
        inspect(with_segments(b"a\xff\0" * 5000), SETTINGS)
    with pytest.raises(ImageTypeUnsupported, match="a JPEG image behind 2 stray bytes"):
        inspect(b"\r\n" + JPEG, SETTINGS)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("webp", encode(COLOUR, "WEBP", lossless=True, xmp=LONG, icc_profile=LONG, exif=b"Exif\0\0broken") + bytes(99)),
        ("gif", encode(GREY, "GIF", comment=LONG)),
    ],
)
def test_large_or_broken_words_in_other_types_do_not_stop_a_picture(name: str, data: bytes) -> None:
    assert np.array_equal(read_pixels(data, SETTINGS).array, COLOUR if name == "webp" else GREY)


def bmp(bits: int, rows: bytes, *, compression: int = 0, masks: tuple[int, ...] = (), down: bool = False) -> bytes:
    """A BMP of COLOUR's size with a header of 40 bytes."""
    told = struct.pack(f"<{len(masks)}I", *masks)
    header = struct.pack("<IiiHHIIIIII", 40, 128, -96 if down else 96, 1, bits, compression, len(rows), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + len(told)) + header + told + rows


def packed(red: int, green: int, blue: int) -> bytes:
    """COLOUR with that many bits for each channel in 16."""
    r, g, b = (COLOUR[::-1, :, at].astype("<u2") >> 8 - bits for at, bits in enumerate((red, green, blue)))
    return (r << (green + blue) | g << blue | b).astype("<u2").tobytes()


BMP: dict[str, tuple[bytes, int]] = {
    "24 bits": (bmp(24, COLOUR[::-1, :, ::-1].tobytes()), 0),
    "from the top": (bmp(24, COLOUR[:, :, ::-1].tobytes(), down=True), 0),
    "32 bits, the fourth byte 0": (bmp(32, np.dstack([COLOUR[::-1, :, ::-1], 0 * GREY]).tobytes()), 0),
    "5-6-5 bits": (bmp(16, packed(5, 6, 5), compression=3, masks=(0xF800, 0x7E0, 0x1F)), 7),
    "5-5-5 bits": (bmp(16, packed(5, 5, 5), compression=3, masks=(0x7C00, 0x3E0, 0x1F)), 7),
    "16 bits without masks": (bmp(16, packed(5, 5, 5)), 7),
    "OS/2": (b"BM" + struct.pack("<IHHIIHHHH", 0, 0, 0, 26, 12, 128, 96, 1, 24) + COLOUR[::-1, :, ::-1].tobytes(), 0),
}


@pytest.mark.parametrize("name", BMP)
def test_a_bmp_of_every_layout_keeps_its_colours(name: str) -> None:
    data, tolerance = BMP[name]
    found: NDArray[Any] = read_pixels(data, SETTINGS).array
    assert np.abs(found.astype(int) - COLOUR).max() <= tolerance


def test_transparent_parts_of_a_bmp_are_white() -> None:
    alpha = np.full_like(GREY, 255)
    alpha[:10] = 0
    array = read_pixels(bmp_with_alpha(GREY, alpha), SETTINGS).array
    assert (array[:10] == 255).all()
    assert np.array_equal(array[10:, :, 0], GREY[10:])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (bmp(16, packed(4, 4, 4), compression=3, masks=(0xF00, 0xF0, 0xF)), "bitfields layout"),
        (bmp(32, bytes(4 * GREY.size), compression=3, masks=(0x3FF00000, 0xFFC00, 0x3FF)), "bitfields layout"),
        (bmp(24, bytes(3 * GREY.size), compression=4), "compression"),
    ],
)
def test_a_bmp_that_is_not_read_is_refused_by_name(data: bytes, words: str) -> None:
    with pytest.raises(ImageUndecodable, match=words):
        read_pixels(data, SETTINGS)
