"""The header is read without decoding, in a bounded number of steps, and every refusal says what to do."""

from __future__ import annotations

import io
import struct
import time
from typing import Any

import pytest

from serve_app.errors import ImageTooLarge, ImageTypeUnsupported, ImageUnreadable, ServiceError
from serve_app.images.header import COUNTED_FRAMES, inspect
from serve_app.settings import Settings
from tests import pictures

SETTINGS = Settings()
GOOD = pictures.one_of_each()


@pytest.mark.parametrize("name", GOOD)
def test_type_and_size_come_from_the_content(name: str) -> None:
    header = inspect(GOOD[name], SETTINGS)
    assert header.media_type == "image/" + name.split("-")[0]
    expected = (8, 8, 3) if name in ("gif", "webp-moving") else (64, 48, 1)
    assert (header.width, header.height, header.frames) == expected
    assert header.pixels == header.width * header.height  # of the one frame that is read


@pytest.mark.parametrize(
    ("make", "width", "height"),
    [
        (lambda: pictures.encode(pictures.gradient(), "WEBP", quality=80), 64, 48),
        (lambda: pictures.encode_tiff(pictures.gradient(), bigtiff=True), 64, 48),
        (lambda: pictures.encode_tiff(pictures.gradient(), byteorder=">"), 64, 48),
        (lambda: pictures.encode(pictures.gradient(), "JPEG", progressive=True), 64, 48),
        (lambda: pictures.rotated("JPEG", 6), 64, 48),
        (lambda: b"BM" + struct.pack("<IIIIiiHH", 0, 0, 54, 40, 20, -10, 1, 24) + bytes(700), 20, 10),
    ],
)
def test_variants_of_a_type(make: Any, width: int, height: int) -> None:
    header = inspect(make(), SETTINGS)
    assert (header.width, header.height) == (width, height)


def test_a_file_object_is_read_from_its_start() -> None:
    file = io.BytesIO(GOOD["png"])
    file.seek(17)
    assert inspect(file, SETTINGS).width == 64


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "WEBP", "PNG"])
def test_frames_are_counted_and_those_that_are_not_read_are_no_reason_to_refuse(kind: str) -> None:
    assert inspect(pictures.frames(kind, 5), SETTINGS).frames == 5
    header = inspect(pictures.frames(kind, 80), SETTINGS)
    assert (header.frame, header.frames) == (1, 80)


def test_frames_are_counted_up_to_a_limit() -> None:
    claims = pictures.png_claiming(8, 8, before=pictures.png_chunk(b"acTL", struct.pack(">II", 2**32 - 1, 0)))
    assert inspect(claims, SETTINGS).frames <= COUNTED_FRAMES + 1


UNSUPPORTED = {
    "pdf": b"%PDF-1.7\n" + GOOD["jpeg"],
    "html": b"<!doctype html><img>",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "json": b'{"error": "not found"}',
    "zip": b"PK\x03\x04" + bytes(40),
    "jpeg2000": b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(40),
    "heic": b"\x00\x00\x00\x18ftypheic" + bytes(40),
    "fits": b"SIMPLE  =                    T" + bytes(40),
    "gzip": b"\x1f\x8b\x08" + bytes(40),
    "shell": b"#!/bin/sh\n",
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n",
    "image behind other bytes": b"\x00" + GOOD["png"],
    "program": b"\x7fELF\x02\x01\x01" + bytes(100),
    "Windows icon": b"\x00\x00\x01\x00" + bytes(100),
    "12-bit jpeg": b"\xff\xd8\xff\xc1" + struct.pack(">HBHHB", 11, 12, 8, 8, 1) + b"\x01\x11\x00",
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_other_types_are_named_and_refused(name: str) -> None:
    with pytest.raises(ImageTypeUnsupported, match="Send"):
        inspect(UNSUPPORTED[name], SETTINGS)


TOO_LARGE = {
    "png 50k x 50k": pictures.png_claiming(50_000, 50_000),
    "png 2^31": pictures.png_claiming(2**31 - 1, 2**31 - 1),
    "jpeg 65535 x 65535": pictures.jpeg_claiming(65535, 65535),
    "tiff": pictures.tiff_deflated(200_000, 200_000, bytes(1000)),
    "gif whose frame outgrows the screen": b"GIF89a\x01\x00\x01\x00\x00\x00\x00,"
    + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0)
    + b"\x08\x00",
    "webp": b"RIFF\xff\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00\x00\x00\x00\x00" + b"\xff" * 6,
    "bmp": b"BM" + struct.pack("<IIIIiiHH", 0, 0, 54, 40, 2**31 - 1, 2**31 - 1, 1, 24),
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_claimed_size_beyond_the_limit_is_refused(name: str) -> None:
    with pytest.raises(ImageTooLarge):
        inspect(TOO_LARGE[name], SETTINGS)


def test_the_byte_limit_holds_for_bytes_and_files() -> None:
    small = Settings(image_max_bytes=100)
    for source in (GOOD["bmp"], io.BytesIO(GOOD["bmp"])):
        with pytest.raises(ImageTooLarge, match="MiB"):
            inspect(source, small)


UNREADABLE = {
    "empty": b"",
    "0 x N png": pictures.png_claiming(0, 100),
    "N x 0 jpeg": pictures.jpeg_claiming(100, 0),
    "tiff without a size": pictures.tiff_of([(258, 3, 1, 8)]),
    "big tiff pointing nowhere": b"II+\x00\x08\x00\x00\x00" + b"\xff" * 8 + bytes(40),
    "unfinished tiff": b"II*\x00" + bytes(1000),
    "tiff without its end": b"MM\x00*\x00\x10\x00\x00" + bytes(1000),
    "tiff that goes in circles": b"II*\x00\x08\x00\x00\x00\x00\x00\x08\x00\x00\x00",
    "tiff pointing nowhere": b"II*\x00\xff\xff\xff\x7f",
    "tiff with 65535 tags": b"II*\x00\x08\x00\x00\x00\xff\xff" + bytes(70),
    "png with a wrong checksum": GOOD["png"][:20] + b"\x01" + GOOD["png"][21:],
    "png of endless chunks": pictures.png_claiming(8, 8, before=pictures.png_chunk(b"tEXt", b"a") * 5000),
    "jpeg of endless segments": b"\xff\xd8" + b"\xff\xe1\x00\x02" * 5000,
    "jpeg of fill bytes": b"\xff\xd8" + b"\xff" * 100_000,
    "gif of endless blocks": b"GIF89a\x01\x00\x01\x00\x00\x00\x00," + bytes(9) + b"\x08" + b"\x01\x01" * 300_000,
    "gif without a picture": b"GIF89a\x01\x00\x01\x00\x00\x00\x00;",
    "webp of endless chunks": b"RIFF\xff\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00\x02" + bytes(9) + b"JUNK" + bytes(40_000),
    **{f"{name} cut to 20 bytes": data[:20] for name, data in GOOD.items() if name[:4] != "tiff"},
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_broken_headers_are_refused_with_a_reason(name: str) -> None:
    with pytest.raises(ImageUnreadable) as caught:
        inspect(UNREADABLE[name], SETTINGS)
    assert caught.value.detail.endswith(".")


def test_a_tiff_whose_pages_run_in_a_circle_ends() -> None:
    data = pictures.tiff_of([(256, 4, 1, 8), (257, 4, 1, 8)], following=8)
    assert inspect(data, SETTINGS).frames == 1


def test_hostile_headers_cost_no_more_than_good_ones_may() -> None:
    began = time.process_time()
    for data in (*TOO_LARGE.values(), *UNREADABLE.values()):
        with pytest.raises(ServiceError):
            inspect(data, SETTINGS)
    assert time.process_time() - began < 1.0
