"""The limits of memory and time hold in the libraries that really decode, in the worker that really runs them."""

import asyncio
import struct
import time
import zlib
from collections.abc import AsyncIterator, Callable
from functools import cache
from typing import Any

import imagecodecs
import numpy as np
import pytest
import pytest_asyncio
from PIL import Image

from serve_app.errors import ImageTooCostly, ImageUndecodable, ServiceError
from serve_app.models.pool import DecodePool
from serve_app.settings import Settings
from tests import pictures
from tests.services import hostile
from tests.tiff_writer import Kind, write

LIMIT_MIB = 256
SLACK_MIB = 16
"""The worker's own, in the moment of its error."""

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def opened(**limits: object) -> AsyncIterator[DecodePool]:
    made = DecodePool(Settings(decode_workers=1, **limits), "tests.services.hostile")
    await made.start()
    async with made.slot():
        await made.run(hostile.read_picture, pictures.encode(pictures.gradient(), "PNG"))  # what is loaded late
    yield made
    await made.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def narrow() -> AsyncIterator[DecodePool]:
    async for pool in opened(decode_memory_mib=LIMIT_MIB, decode_timeout_s=60):
        yield pool


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def wide() -> AsyncIterator[DecodePool]:
    async for pool in opened(decode_memory_mib=4096, decode_timeout_s=60):
        yield pool


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fresh() -> AsyncIterator[DecodePool]:
    """A worker without freed memory of large pictures, in which a bomb could hide."""
    async for pool in opened(decode_memory_mib=4096, decode_timeout_s=60):
        yield pool


async def taken(pool: DecodePool, function: Callable[..., object], *args: object) -> tuple[object, float]:
    """What the function gave or was refused with, and how far it drove the worker's memory up, in MiB."""
    async with pool.slot():
        before = await pool.run(hostile.forget_peak)
        try:
            answer: object = await pool.run(function, *args)
        except ServiceError as error:
            answer = error
        return answer, await pool.run(hostile.peak_since, before)


async def held(pool: DecodePool) -> float:
    """The worker's address space, in MiB, which its limit bounds."""
    async with pool.slot():
        return await pool.run(hostile.address_space)


@pytest.mark.slow(reason="a worker takes a gigabyte, piece by piece")
async def test_the_memory_of_a_worker_is_bounded(narrow: DecodePool, wide: DecodePool):
    answer, peak = await taken(wide, hostile.swell, 1024)
    assert answer == 1024, "the machine itself has not that much"
    assert peak > 1000
    answer, peak = await taken(narrow, hostile.swell, 1024)
    assert type(answer) is ImageTooCostly
    assert str(LIMIT_MIB) in str(answer)
    assert peak < LIMIT_MIB + SLACK_MIB


@cache
def tall_tiff() -> bytes:
    """288 MB of float64, in 300 strips that each unpack to what they say."""
    rows = np.floor(np.linspace(0, 99, 6000))[None].repeat(6000, axis=0)
    return pictures.encode_tiff(rows, compression="zlib", rowsperstrip=20)


def wide_png() -> bytes:
    rows = np.zeros((7_000, 5_000, 3), np.uint8)
    rows[:, ::7] = 90
    return pictures.encode(rows, "PNG", compress_level=1)


def deep_png() -> bytes:
    return pictures.png_deep(np.zeros((8000, 1500, 4), np.uint16))


def progressive_jpeg() -> bytes:
    return pictures.encode(Image.new("RGB", (6_000, 6_000), "grey"), "JPEG", progressive=True)


LARGE = {
    "float64 TIFF": tall_tiff,
    "RGB PNG": wide_png,
    "16-bit RGBA PNG": deep_png,
    "progressive JPEG": progressive_jpeg,
}


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.slow(reason="a decode worker starts and reads a large picture")
async def test_a_picture_that_needs_more_than_the_limit_never_gets_it(name: str, narrow: DecodePool, wide: DecodePool):
    data = LARGE[name]()
    answer, peak = await taken(wide, hostile.read_picture, data)
    assert isinstance(answer, tuple), answer
    assert peak > LIMIT_MIB + SLACK_MIB, "a limit that the file does not reach shows nothing"
    before = await held(narrow)
    answer, peak = await taken(narrow, hostile.read_picture, data)
    assert type(answer) in (ImageTooCostly, ImageUndecodable)
    assert peak < LIMIT_MIB + SLACK_MIB
    assert await held(narrow) < before + SLACK_MIB, "the next picture has less memory"
    async with narrow.slot():
        assert await narrow.run(hostile.echo, "after") == "after"


SIDE = 20_000
IN_STEPS: dict[str, Callable[[], bytes]] = {
    "TIFF of 8 bits in tiles": lambda: pictures.large_tiff(SIDE, "uint8", tile=2000),
    "TIFF of 8 bits in strips": lambda: pictures.large_tiff(SIDE, "uint8", rows=150),
    "TIFF of 8-bit colour": lambda: pictures.large_tiff(SIDE, "uint8", tile=512, samples=3),
    "TIFF of 16 bits in tiles": lambda: pictures.large_tiff(SIDE, "uint16", tile=1024),
    "TIFF of 16 bits in strips": lambda: pictures.large_tiff(SIDE, "uint16", rows=200),
    "JPEG": lambda: pictures.large_jpeg(SIDE),
}


@pytest.mark.parametrize("name", IN_STEPS)
@pytest.mark.slow(reason="400 million pixels are read")
async def test_a_thumbnail_of_400_megapixels_fits_into_the_smallest_worker(name: str, narrow: DecodePool):
    answer, peak = await taken(narrow, hostile.make_thumbnail, IN_STEPS[name]())
    assert isinstance(answer, dict), answer
    assert (answer["width"], answer["height"]) == (SIDE, SIDE)
    assert peak < LIMIT_MIB


HUGE = 160 * 2**20
PEAK_MIB = 60
"""More than every other reading of a small picture takes; each of the bombs that unpack has 150 MB or more."""
SMALL = np.zeros((64, 64), np.uint8)


@cache
def deflated() -> bytes:
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(HUGE >> 20)) + packer.flush()


def text_bomb(kind: bytes, before: bytes) -> bytes:
    chunk = pictures.png_chunk(kind, before + deflated())
    return pictures.png_claiming(8, 8, before=chunk)


def tiff(*pieces: bytes, bits: int = 8, **options: Any) -> bytes:
    """A small picture whose strips hold these bytes."""
    return write(SMALL, Kind(bits, pieces=pieces or None, **options))


def claiming(name: str) -> bytes:
    """A picture of a picture format whose header claims 20,000 x 20,000 pixels."""
    side = 20_000
    if name == "png":
        return pictures.png_claiming(side, side)
    if name == "jpeg":
        data = bytearray(pictures.encode(SMALL, "JPEG"))
        place = data.index(b"\xff\xc0") + 5
        data[place : place + 4] = struct.pack(">HH", side, side)
        return bytes(data)
    data = bytearray(imagecodecs.jpeg2k_encode(SMALL, level=0, codecformat="j2k"))
    place = data.index(b"\xff\x51") + 6
    data[place : place + 8] = struct.pack(">II", side, side)
    return bytes(data)


BOMBS: dict[str, Callable[[], bytes]] = {
    "TIFF, Deflate": lambda: tiff(deflated(), compression=8),
    "TIFF, Deflate, 16 x 16": lambda: pictures.tiff_deflated(16, 16, bytes(HUGE)),
    "TIFF, Zstandard": lambda: tiff(imagecodecs.zstd_encode(bytes(HUGE)), compression=50000),
    "TIFF, LZMA": lambda: tiff(imagecodecs.lzma_encode(bytes(HUGE), level=0), compression=34925),
    "TIFF, LZW": lambda: tiff(imagecodecs.lzw_encode(bytes(HUGE)), compression=5),
    "TIFF, PackBits": lambda: tiff(b"\x81\x00" * 1_300_000, compression=32773),
    "TIFF, PNG inside": lambda: tiff(claiming("png"), compression=34933),
    "TIFF, JPEG inside": lambda: tiff(claiming("jpeg"), compression=7),
    "TIFF, JPEG 2000 inside": lambda: tiff(claiming("jpeg 2000"), compression=34712),
    "TIFF, large tiles": lambda: tiff(tags={322: (4, [40_000]), 323: (4, [40_000])}, tile=(64, 64), compression=8),
    "TIFF, rows without end": lambda: tiff(deflated(), compression=8, tags={278: (4, [2**32 - 1])}),
    "TIFF, 65,535 samples": lambda: tiff(tags={277: (3, [65535])}),
    "TIFF, fax": lambda: tiff(b"\xff" * 1_000_000, bits=1, compression=4),
    "TIFF, complex numbers": lambda: pictures.encode_tiff(np.zeros((4, 4), np.complex64)),
    "PNG, zTXt": lambda: text_bomb(b"zTXt", b"Raw profile type exif\0\0"),
    "PNG, iTXt": lambda: text_bomb(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0"),
    "PNG, iCCP": lambda: text_bomb(b"iCCP", b"profile\0\0"),
    "PNG, a broken iCCP": lambda: pictures.png_claiming(
        8, 8, before=pictures.png_chunk(b"iCCP", b"a\x00\x00" + bytes(1000))
    ),
    "PNG, pixels": lambda: (
        pictures.png_claiming(8, 8)[:33] + pictures.png_chunk(b"IDAT", deflated()) + pictures.png_chunk(b"IEND", b"")
    ),
    "PNG, a claimed size": lambda: pictures.png_claiming(9000, 9000),
}


@pytest.mark.parametrize("name", BOMBS)
async def test_a_small_file_that_unpacks_to_much_or_claims_much_costs_little(name: str, fresh: DecodePool):
    data = BOMBS[name]()
    assert len(data) < 5_000_000
    async with fresh.slot():
        before = await fresh.run(time.process_time)
    answer, peak = await taken(fresh, hostile.read_picture, data)
    async with fresh.slot():
        assert await fresh.run(time.process_time) - before < 2, "seconds of a processor"
    assert isinstance(answer, (tuple, ImageUndecodable)), answer
    assert peak < PEAK_MIB


@pytest.mark.slow(reason="decode workers run into their time limit")
async def test_the_time_limit_holds_inside_the_decoders():
    async for pool in opened(decode_memory_mib=4096, decode_timeout_s=2.0):
        data = tall_tiff()
        began = asyncio.get_running_loop().time()
        async with pool.slot():
            with pytest.raises(ImageTooCostly, match="longer than 2 s"):
                await pool.run(hostile.read_for_ever, data)
            assert asyncio.get_running_loop().time() - began < 10
            assert await pool.run(hostile.echo, "after") == "after"
