"""Every kind of file becomes the pixels a person would see, the result says how, and damage is never half an image."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import settings as rules
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from serve_app.errors import ImageUndecodable, ServiceError
from serve_app.images.decode import read_pixels
from serve_app.images.header import COUNTED_FRAMES, inspect
from serve_app.settings import Settings
from tests import pictures
from tests.pictures import encode, encode_tiff, gradient
from tests.tiff_writer import Kind, write

SETTINGS = Settings()
GOOD = pictures.one_of_each()
GREY = gradient()
COLOUR = np.dstack([GREY, GREY[::-1], GREY[:, ::-1]])
BILEVEL = Image.fromarray(GREY > 100)


def colour_image() -> Image.Image:
    return Image.fromarray(COLOUR)


def off(array: NDArray[Any], expected: NDArray[Any]) -> int:
    """The largest difference in grey levels."""
    assert array.shape == expected.shape
    return int(np.abs(array.astype(int) - expected.astype(int)).max())


def grey_palette() -> Image.Image:
    """Index 255 is black, index 0 is white: taken as grey numbers, the picture would be its negative."""
    image = Image.fromarray(255 - GREY, "L").convert("P")
    image.putpalette([255 - index // 3 for index in range(768)])
    return image


EXACT_GREY = {
    "png": encode(GREY, "PNG"),
    "bmp": encode(GREY, "BMP"),
    "gif": encode(GREY, "GIF"),
    "tiff lzw": encode(GREY, "TIFF", compression="tiff_lzw"),
    "tiff deflate": encode(GREY, "TIFF", compression="tiff_adobe_deflate"),
    "tiff packbits": encode(GREY, "TIFF", compression="packbits"),
    "tiff tiled": encode_tiff(GREY, tile=(16, 16)),
    "tiff tiled deflate": encode_tiff(GREY, tile=(16, 16), compression="zlib"),
    "tiff big": encode_tiff(GREY, bigtiff=True),
    "tiff big-endian": encode_tiff(GREY, byteorder=">"),
    "tiff white is zero": encode_tiff(255 - GREY, photometric="miniswhite"),
    "tiff white is zero, deflate": encode_tiff(255 - GREY, photometric="miniswhite", compression="zlib"),
    "tiff signed 8-bit": encode_tiff((GREY.astype(int) - 128).astype(np.int8)),
    "tiff grey palette": encode(grey_palette(), "TIFF"),
    "png grey palette": encode(grey_palette(), "PNG"),
    "bmp grey palette": encode(grey_palette(), "BMP"),
    "png grey and opaque alpha": encode(Image.fromarray(GREY).convert("LA"), "PNG"),
}


DEEP = {
    "png 16": encode(gradient(dtype="uint16", top=4000), "PNG"),
    "tiff 16": encode_tiff(gradient(dtype="uint16", top=65535)),
    "tiff 16 big-endian": encode_tiff(gradient(dtype="uint16", top=900), byteorder=">"),
    "tiff 16 lzw": encode(gradient(dtype="uint16", top=900), "TIFF", compression="tiff_lzw"),
    "tiff 16 deflate": encode_tiff(gradient(dtype="uint16", top=900), compression="zlib", predictor=True),
    "tiff 16 white is zero": encode_tiff(4000 - gradient(dtype="uint16", top=4000), photometric="miniswhite"),
    "tiff 16 big-endian white is zero": encode_tiff(
        4000 - gradient(dtype="uint16", top=4000), photometric="miniswhite", byteorder=">"
    ),
    "tiff signed 16": encode_tiff(gradient(dtype="int16", top=30000) - 15000),
    "tiff 32": encode_tiff(gradient(dtype="uint32", top=4e9)),
    "tiff signed 32": encode_tiff(gradient(dtype="int32", top=2e9) - 1_000_000_000),
    "tiff 64": encode_tiff(gradient(dtype="uint64", top=1e15)),
    "tiff float 16": encode_tiff(gradient(dtype="float16", top=1)),
    "tiff float 32": encode_tiff(gradient(dtype="float32", top=1e-6)),
    "tiff float 64": encode_tiff(gradient(dtype="float64", top=1e300)),
    "tiff float 32 deflate": encode_tiff(gradient(dtype="float32", top=1), compression="zlib"),
}


def test_few_outliers_do_not_darken_the_rest() -> None:
    values = gradient(400, 400, "uint16", 4000)
    values[200, :30] = 65535
    values[201, :30] = 0
    pixels = read_pixels(encode_tiff(values), SETTINGS)
    assert off(pixels.array[300], gradient(400, 400)[300]) <= 2


def test_a_single_bright_spot_on_a_flat_ground_stays_visible() -> None:
    values = np.full((100, 100), 700, np.uint16)
    values[5, 5] = 900
    array = read_pixels(encode_tiff(values), SETTINGS).array
    assert array[5, 5] == 255
    assert array[50, 50] == 0


@pytest.mark.parametrize("dtype", ["uint16", "float32", "float64"])
def test_a_constant_image_is_mid_grey(dtype: str) -> None:
    pixels = read_pixels(encode_tiff(np.full((20, 30), 7, dtype)), SETTINGS)
    assert (pixels.array == 128).all()
    assert pixels.array.shape == (20, 30)


COLOURS = {
    "png": encode(COLOUR, "PNG"),
    "webp": encode(COLOUR, "WEBP", lossless=True),
    "bmp": encode(COLOUR, "BMP"),
    "tiff": encode(COLOUR, "TIFF"),
    "tiff planar": encode_tiff(np.moveaxis(COLOUR, 2, 0), photometric="rgb", planarconfig="separate"),
    "tiff planar deflate": encode_tiff(
        np.moveaxis(COLOUR, 2, 0), photometric="rgb", planarconfig="separate", compression="zlib"
    ),
    "tiff 16": encode_tiff(COLOUR.astype(np.uint16) * 16, photometric="rgb"),
    "tiff 16 planar": encode_tiff(
        np.moveaxis(COLOUR.astype(np.uint16) * 16, 2, 0), photometric="rgb", planarconfig="separate"
    ),
    "tiff float": encode_tiff(COLOUR.astype(np.float32), photometric="rgb"),
    "png opaque": encode(colour_image().convert("RGBA"), "PNG"),
}


READ = {
    **{f"{name}, 8-bit grey": (data, GREY, 0) for name, data in EXACT_GREY.items()},
    **{f"{name}, deep grey": (data, GREY, 1) for name, data in DEEP.items()},
    **{f"{name}, colour": (data, COLOUR, 1) for name, data in COLOURS.items()},
    **{
        f"{kind}, bilevel": (encode(BILEVEL, kind), np.asarray(BILEVEL.convert("L")), 0)
        for kind in ("PNG", "TIFF", "BMP")
    },
}


@pytest.mark.parametrize("name", READ)
def test_eight_bits_are_not_touched_and_more_are_scaled_by_a_window_that_is_named(name: str) -> None:
    data, expected, tolerance = READ[name]
    pixels = read_pixels(data, SETTINGS)
    assert pixels.array.dtype == np.uint8
    assert off(pixels.array, expected) <= tolerance
    if name.endswith("deep grey"):
        assert "greyscale, window 0.1–99.9 %" in pixels.how["read_as"]
        low, high = pixels.how["window"]
        assert low < high
    elif tolerance == 0:
        assert "window" not in pixels.how


@pytest.mark.parametrize(
    ("data", "read_as", "tolerance"),
    [
        (encode(colour_image().convert("CMYK"), "JPEG", quality=100), "CMYK", 12),
        (encode(colour_image().convert("CMYK"), "TIFF"), "CMYK", 1),
        (encode(colour_image().convert("YCbCr"), "TIFF"), "YCbCr", 12),
        (encode(colour_image(), "JPEG", quality=100, subsampling=0), "8-bit colour", 12),
        (encode(colour_image().quantize(256), "PNG"), "colour palette", 90),
        (encode(colour_image().quantize(256), "GIF"), "colour palette", 90),
    ],
)
def test_other_colour_spaces_become_rgb(data: bytes, read_as: str, tolerance: int) -> None:
    pixels = read_pixels(data, SETTINGS)
    assert read_as in pixels.how["read_as"]
    assert off(pixels.array, COLOUR) <= tolerance
    assert np.abs(pixels.array.astype(int) - COLOUR).mean() < 15


def test_lab_becomes_rgb() -> None:
    lab = Image.merge("LAB", (Image.new("L", (8, 8), 255), Image.new("L", (8, 8), 128), Image.new("L", (8, 8), 128)))
    pixels = read_pixels(encode(lab, "TIFF"), SETTINGS)
    assert pixels.array.shape == (8, 8, 3)
    assert pixels.how["read_as"] == "LAB, converted to RGB"
    assert pixels.array.min() > 240


def test_a_tiff_palette_of_eight_bit_numbers_is_not_black() -> None:
    image = Image.fromarray(GREY).convert("P")
    image.putpalette([index // 3 for index in range(768)])
    data = bytearray(encode(image, "TIFF"))
    stored = Image.open(io.BytesIO(bytes(data))).tag_v2  # type: ignore[attr-defined]
    colormap = b"".join(int(number).to_bytes(2, "little") for number in stored[320])
    start = data.index(colormap)
    data[start : start + len(colormap)] = b"".join((number // 256).to_bytes(2, "little") for number in stored[320])
    assert off(read_pixels(bytes(data), SETTINGS).array, GREY) == 0


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_on_white(mode: str) -> None:
    image = Image.new(mode, (10, 10))
    image.putpixel((3, 4), (0,) * (len(mode) - 1) + (255,))
    pixels = read_pixels(encode(image, "PNG"), SETTINGS)
    assert (pixels.array[4, 3] == 0).all()
    assert (pixels.array == 255).sum() == pixels.array.size - pixels.array[4, 3].size
    assert pixels.array.ndim == (2 if mode == "LA" else 3)
    assert pixels.how["read_as"] == "transparency laid on white"


def hidden(kind: str, colour: Image.Image) -> bytes:
    """A picture with an opacity of 0 everywhere."""
    colour.putalpha(0)
    return encode(colour, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))


def hidden_gif() -> bytes:
    only = Image.new("P", (64, 48), 7)
    only.putpalette([90] * 768)
    return encode(only, "GIF", transparency=7)


NOTHING = np.zeros_like(GREY)
HIDDEN = {
    "PNG": (hidden("PNG", colour_image()), COLOUR),
    "WEBP": (hidden("WEBP", colour_image()), COLOUR),
    "GIF": (hidden_gif(), np.full((*GREY.shape, 3), 90)),
    "BMP": (pictures.bmp_with_alpha(GREY, NOTHING), np.dstack([GREY] * 3)),
    "16-bit PNG": (
        pictures.png_deep(np.dstack([gradient(dtype="uint16", top=4095)] * 3 + [NOTHING])),
        np.dstack([GREY] * 3),
    ),
    **{
        f"TIFF, {bits} bits, {colours} channels": (
            write(
                np.dstack([GREY.astype(f"u{bits // 8}")] * colours + [NOTHING]).astype(f"u{bits // 8}"),
                Kind(bits, photometric=1 if colours == 1 else 2, extra=(2,)),
            ),
            np.dstack([GREY] * 3) if colours == 3 else GREY,
        )
        for bits in (8, 16)
        for colours in (1, 3)
    },
}


@pytest.mark.parametrize("name", HIDDEN)
def test_what_is_transparent_everywhere_is_read_as_opaque_and_said_to_be(name: str) -> None:
    """Programs that write no opacity leave it at 0: nobody sends a white sheet."""
    data, expected = HIDDEN[name]
    pixels = read_pixels(data, SETTINGS)
    assert off(pixels.array, expected) <= ("16" in name)
    assert "transparent everywhere and so read as opaque" in pixels.how["read_as"]


def test_half_transparent_black_on_white_is_grey() -> None:
    pixels = read_pixels(encode(Image.new("RGBA", (4, 4), (0, 0, 0, 127)), "PNG"), SETTINGS)
    assert (pixels.array == 128).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_orientation_comes_out_as_an_exif_reader_shows_it(kind: str, orientation: int) -> None:
    """Written as stored, read upright: the dark corner goes where the EXIF standard says."""
    pixels = read_pixels(pictures.rotated(kind, orientation), SETTINGS)
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # Pillow's transposition numbers
    stored = Image.fromarray(GREY)
    expected = stored if orientation == 1 else stored.transpose(Image.Transpose(back[orientation]))
    assert np.abs(pixels.array.reshape(*pixels.array.shape[:2], -1)[:, :, 0].astype(int) - expected).mean() < 8
    assert pixels.how["rotated"] is (orientation != 1)
    assert (pixels.how["width"], pixels.how["height"]) == expected.size


def test_a_deep_tiff_is_turned_too() -> None:
    for dtype in ("uint16", "float32", "float64"):
        data = encode_tiff(gradient(dtype=dtype, top=1000), extratags=[(274, "H", 1, 6, True)])
        assert off(read_pixels(data, SETTINGS).array, np.rot90(GREY, -1)) <= 1


def test_the_result_says_what_was_done() -> None:
    assert read_pixels(encode_tiff(gradient(dtype="uint16", top=4095)), SETTINGS).how == {
        "format": "TIFF",
        "width": 64,
        "height": 48,
        "mode": "I;16",
        "read_as": "16-bit greyscale, window 0.1–99.9 % (0–4095)",
        "frame": "1 of 1",
        "rotated": False,
        "window": [0.0, 4095.0],
    }


CUT = {
    name: data
    for name, data in {**GOOD, **EXACT_GREY, **DEEP, **COLOURS}.items()
    if "gif" not in name and "moving" not in name
}


@pytest.mark.parametrize("name", CUT)
def test_a_file_cut_in_the_middle_of_its_pixels_is_an_error(name: str) -> None:
    """tifffile and Pillow write TIFF pixels last or first; a cut at 60 % meets pixels or the directory."""
    data = CUT[name]
    with pytest.raises(ImageUndecodable) as caught:
        read_pixels(data[: len(data) * 6 // 10], SETTINGS)
    assert caught.value.detail.endswith(".")
    assert "object at" not in caught.value.detail


def test_a_cut_gif_is_an_error() -> None:
    data = encode(pictures.texture(64, 64), "GIF")
    with pytest.raises(ImageUndecodable):
        read_pixels(data[: len(data) // 2 + 500], SETTINGS)


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"rowsperstrip": 8}, {"tile": (16, 16)}])
@pytest.mark.parametrize("picture", [GREY, gradient(dtype="uint16"), gradient(dtype="float64"), COLOUR])
def test_a_tiff_that_claims_more_rows_than_it_has_is_an_error(picture: NDArray[Any], options: dict[str, Any]) -> None:
    data = bytearray(encode_tiff(picture, **options))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        place = file.pages.first.tags[257].valueoffset
    data[place : place + 2] = (4800).to_bytes(2, "little")
    with pytest.raises(ImageUndecodable):
        read_pixels(bytes(data), SETTINGS)


def test_the_pixel_limit_holds_at_decoding() -> None:
    with pytest.raises(ImageUndecodable, match="at most 1,000"):
        read_pixels(EXACT_GREY["png"], Settings(image_max_pixels=1000))


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A good file with some bytes changed, cut or doubled."""
    data = bytearray(draw(st.sampled_from(list(GOOD.values()))))
    for _ in range(draw(st.integers(1, 6))):
        # Most structure is in front: mutations there are worth more.
        place = draw(st.integers(0, min(len(data) - 1, draw(st.sampled_from([64, 512, 100_000])))))
        data[place] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(8, len(data)))] if draw(st.booleans()) else data)


@given(st.one_of(st.binary(max_size=200), mutated()))
@rules(max_examples=500, deadline=2000)
def test_no_bytes_raise_anything_but_a_refusal(data: bytes) -> None:
    try:
        header = inspect(data, SETTINGS)
        assert 0 < header.width * header.height <= SETTINGS.image_max_pixels
        assert 1 <= header.frame <= header.frames <= COUNTED_FRAMES + 1
    except ServiceError:
        pass
    try:
        pixels = read_pixels(data, SETTINGS)
    except ServiceError:
        return
    assert pixels.array.dtype == np.uint8
    assert pixels.array.shape[:2] == (pixels.how["height"], pixels.how["width"])
    assert pixels.array.ndim == 2 or pixels.array.shape[2] == 3


@given(
    st.lists(st.floats(width=64, allow_nan=True, allow_infinity=True), min_size=4, max_size=40),
    st.sampled_from(["float32", "float64"]),
)
@rules(max_examples=100, deadline=1000)
def test_no_numbers_break_the_window(numbers: list[float], dtype: str) -> None:
    with np.errstate(over="ignore"):
        values = np.asarray(numbers).astype(dtype).reshape(1, -1)
    try:
        array = read_pixels(encode_tiff(values), SETTINGS).array
    except ImageUndecodable:
        assert not np.isfinite(values).any()
        return
    finite = np.isfinite(values)
    order = np.argsort(values[finite], kind="stable")
    assert (np.diff(array[finite][order].astype(int)) >= 0).all()
