"""The limits of memory and time hold in the libraries that really decode, in the worker that really runs them."""

import asyncio
import struct
import zlib
from collections.abc import AsyncIterator, Callable
from functools import cache

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


async def taken(pool: DecodePool, function: Callable[..., object], *args: object) -> tuple[object, float]:
    """What the function gave or was refused with, and how far it drove the worker's memory up, in MiB."""
    async with pool.slot():
        before = await pool.run(hostile.forget_peak)
        try:
            answer: object = await pool.run(function, *args)
        except ServiceError as error:
            answer = error
        return answer, await pool.run(hostile.peak_since, before)


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
async def test_a_picture_that_needs_more_than_the_limit_never_gets_it(name: str, narrow: DecodePool, wide: DecodePool):
    data = LARGE[name]()
    answer, peak = await taken(wide, hostile.read_picture, data)
    assert isinstance(answer, tuple), answer
    assert peak > LIMIT_MIB + SLACK_MIB, "a limit that the file does not reach shows nothing"
    answer, peak = await taken(narrow, hostile.read_picture, data)
    assert type(answer) in (ImageTooCostly, ImageUndecodable)
    assert peak < LIMIT_MIB + SLACK_MIB
    async with narrow.slot():
        assert await narrow.run(hostile.echo, "after") == "after"


def bomb_tiff(compression: int, strip: bytes) -> bytes:
    """16 x 16 pixels of 8 bits, whose strip unpacks to far more."""
    data = bytearray(pictures.tiff_deflated(16, 16, bytes(256)))
    tags = {struct.unpack_from("<H", data, 10 + 12 * n)[0]: 10 + 12 * n for n in range(9)}
    struct.pack_into("<H", data, tags[259] + 8, compression)
    struct.pack_into("<I", data, tags[279] + 8, len(strip))
    return bytes(data[: struct.unpack_from("<I", data, tags[273] + 8)[0]]) + strip


HUGE = 160 * 2**20


@cache
def deflated() -> bytes:
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(HUGE >> 20)) + packer.flush()


def text_bomb(kind: bytes, before: bytes) -> bytes:
    chunk = pictures.png_chunk(kind, before + deflated())
    return pictures.png_claiming(8, 8, before=chunk)


BOMBS = {
    "TIFF, Deflate": lambda: bomb_tiff(8, deflated()),
    "TIFF, Zstandard": lambda: bomb_tiff(50000, imagecodecs.zstd_encode(bytes(HUGE))),
    "PNG, zTXt": lambda: text_bomb(b"zTXt", b"Raw profile type exif\0\0"),
    "PNG, iTXt": lambda: text_bomb(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0"),
    "PNG, iCCP": lambda: text_bomb(b"iCCP", b"profile\0\0"),
    "PNG, pixels": lambda: (
        pictures.png_claiming(8, 8)[:33] + pictures.png_chunk(b"IDAT", deflated()) + pictures.png_chunk(b"IEND", b"")
    ),
}


@pytest.mark.parametrize("name", BOMBS)
async def test_a_small_file_that_unpacks_to_160_mb_takes_little(name: str, wide: DecodePool):
    data = BOMBS[name]()
    _, peak = await taken(wide, hostile.read_picture, data)
    assert peak < 64 + 2 * len(data) / 2**20


async def test_the_time_limit_holds_inside_the_decoders():
    async for pool in opened(decode_memory_mib=4096, decode_timeout_s=2.0):
        data = tall_tiff()
        began = asyncio.get_running_loop().time()
        async with pool.slot():
            with pytest.raises(ImageTooCostly, match="longer than 2 s"):
                await pool.run(hostile.read_for_ever, data)
            assert asyncio.get_running_loop().time() - began < 10
            assert await pool.run(hostile.echo, "after") == "after"
