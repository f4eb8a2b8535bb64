"""Thumbnails: their size, kind and name for every kind of image; and large files read in steps as if read whole."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from serve_app.contracts import Output
from serve_app.errors import ImageTooCostly, ImageUndecodable
from serve_app.images.names import NAME_MAX, name_in_url, safe_name
from serve_app.images.reduced import read_reduced
from serve_app.models.contract import OUTPUT_NAME, Answer
from serve_app.models.thumbnail import Thumbnail, ThumbnailModel, ThumbnailParams
from serve_app.settings import Settings
from tests.pictures import encode, encode_tiff, frames, gradient, large_tiff, rotated, texture


def made(data: bytes, settings: Settings | None = None, **params: object) -> tuple[Thumbnail, Image.Image, Output]:
    """The result, the opened file, and the output of a thumbnail with these parameters."""
    model, chosen = ThumbnailModel(), ThumbnailParams.model_validate(params)
    model.load(settings or Settings())
    prepared = model.preprocess(data, chosen, model.recipe)
    [output] = model.forward([prepared.item])
    answer = model.postprocess(output, chosen, prepared.notes)
    assert isinstance(answer, Answer)
    answer.check(Settings().output_max_bytes)
    result = answer.listed()
    assert isinstance(result, Thumbnail)
    file = answer.outputs[result.file]
    image = Image.open(io.BytesIO(file.data))
    assert image.size == (result.width, result.height)
    assert image.format == result.format.upper()
    assert file.media_type == f"image/{result.format}"
    return result, image, file


def half_and_half(width: int, height: int) -> Image.Image:
    """Black on the left of the middle and white on the right."""
    image = Image.new("L", (width, height), "white")
    image.paste(0, (0, 0, width // 2, height))
    return image


@pytest.mark.parametrize(
    ("mode", "size", "expected"),
    [
        ("exact", (300, 150), (100, 60)),
        ("fit", (300, 150), (100, 50)),
        ("fit", (150, 300), (30, 60)),
        ("fit", (20, 10), (20, 10)),
        ("fit", (5000, 1), (100, 1)),
        ("cover", (300, 150), (100, 60)),
        ("cover", (150, 300), (100, 60)),
        ("cover", (1, 5000), (100, 60)),
        ("exact", (1, 1), (100, 60)),
    ],
)
def test_each_mode_makes_its_size_of_any_shape(mode: str, size: tuple[int, int], expected: tuple[int, int]) -> None:
    _, image, _ = made(encode(half_and_half(*size), "PNG"), width=100, height=60, mode=mode)
    assert image.size == expected


def test_cover_shows_the_middle_and_the_others_the_whole() -> None:
    picture = half_and_half(400, 100)
    picture.paste(128, (0, 0, 100, 100))
    for mode, left in (("exact", 128), ("fit", 128), ("cover", 0)):
        _, image, _ = made(encode(picture, "PNG"), mode=mode)
        assert image.getpixel((0, image.height // 2)) == left
        assert image.getpixel((image.width - 1, image.height // 2)) == 255


@pytest.mark.parametrize("name", ["png", "jpeg", "gif", "webp"])
@pytest.mark.parametrize("filter_name", ["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"])
def test_each_format_and_filter(name: str, filter_name: str) -> None:
    data = encode(Image.fromarray(texture(120, 160)).convert("RGB"), "PNG")
    result, image, _ = made(data, format=name, filter=filter_name)
    assert result.frames == 1
    assert abs(float(np.asarray(image.convert("L")).mean()) - float(texture(120, 160).mean())) < 6


def test_deep_transparent_and_turned_images_are_read_as_everywhere_here() -> None:
    deep = encode_tiff(gradient(dtype="uint16", top=4000))
    result, image, _ = made(deep)
    assert "window 0.1–99.9 %" in result.image["read_as"]
    assert image.mode == "L"
    assert image.getextrema() == (0, 255)
    clear = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    clear.paste((0, 0, 255, 255), (0, 0, 20, 40))
    _, image, _ = made(encode(clear, "PNG"), format="webp")
    red, green, blue = image.convert("RGB").getpixel((90, 50))
    assert min(red, green, blue) > 245, "transparency is white"
    _, image, _ = made(rotated("JPEG", 6), mode="fit")
    assert image.size == (48, 64), "upright"


def test_an_animation_keeps_its_frames_and_durations_on_request() -> None:
    pictures = [Image.new("RGB", (60, 40), (number * 60, 0, 255 - number * 60)) for number in range(4)]
    durations = [50, 120, 200, 70]
    data = encode(pictures[0], "GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0)
    for kind in ("gif", "webp"):
        result, image, _ = made(data, format=kind, animated=True, width=30, height=20)
        assert (result.frames, image.n_frames) == (4, 4)
        found = []
        for number in range(4):
            image.seek(number)
            image.load()
            found.append(image.info["duration"])
            red = np.asarray(image.convert("RGB"))[:, :, 0].mean()
            assert abs(red - number * 60) < 12
        assert found == durations
    still = encode(pictures[0], "WEBP", save_all=True, append_images=pictures[1:2] * 2, lossless=True)
    result, image, _ = made(still, format="gif", animated=True)
    assert (result.frames, image.n_frames) == (2, 2), "equal ones are joined"
    result, image, _ = made(data)
    assert (result.frames, getattr(image, "n_frames", 1)) == (1, 1)
    result, _, _ = made(encode(gradient(), "PNG"), format="gif", animated=True)
    assert result.frames == 1, "a still image has one"


@pytest.mark.parametrize(
    ("data", "params"),
    [(frames("GIF", 501), {}), (frames("GIF", 20), {"width": 1000, "height": 1000}), (frames("WEBP", 501), {})],
)
def test_too_much_animation_is_refused(data: bytes, params: dict[str, int]) -> None:
    with pytest.raises(ImageTooCostly, match=r"has \d+ frames; at this size at most \d+ are kept"):
        made(data, format="gif", animated=True, **params)


@pytest.mark.parametrize(
    "params",
    [
        {"width": 0},
        {"height": 4097},
        {"width": -1},
        {"width": 4096, "height": 4096},
        {"width": 1.5},
        {"width": "wide"},
        {"mode": "stretch"},
        {"format": "tiff"},
        {"format": "PNG"},
        {"filter": "sharp"},
        {"animated": True},
        {"animated": True, "format": "jpeg"},
        {"animated": True, "format": "gif", "page": 2},
        {"page": 0},
        {"file_name": "x" * 256},
        {"file_name": 3},
        {"colour": "red"},
    ],
)
def test_bad_parameters_are_refused(params: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ThumbnailParams.model_validate(params)


NAMES = {
    "scan 01.TIF": "thumb_scan_01.png",
    "a.b.png": "thumb_a.b.png",
    "../../etc/passwd": "thumb_passwd.png",
    "C:\\Users\\ada\\sample.tif": "thumb_sample.png",
    "": "thumb_image.png",
    "....": "thumb_image.png",
    "___": "thumb_image.png",
    ".hidden": "thumb_hidden.png",
    "Müller Größe.jpg": "thumb_Muller_Groe.png",
    "画像.png": "thumb_png.png",
    "\u202egnp.exe": "thumb_gnp.png",
    "a\r\nSet-Cookie: x=1.png": "thumb_a_Set-Cookie_x_1.png",
    'a";rm -rf .png': "thumb_a_rm_-rf.png",
    "a\0b.png": "thumb_a_b.png",
    "\ud800.png": "thumb_png.png",
    "-rf": "thumb_rf.png",
    "a..b...png": "thumb_a.b.png",
    "x" * 5000 + ".png": "thumb_" + "x" * 90 + ".png",
    "archive.tar.gz": "thumb_archive.tar.png",
    "thumb_a.png": "thumb_thumb_a.png",
}


@pytest.mark.parametrize("given", NAMES)
def test_the_file_is_named_after_the_upload_safely(given: str) -> None:
    name = safe_name(given, prefix="thumb_", extension="png")
    assert name == NAMES[given]
    assert OUTPUT_NAME.fullmatch(name)
    assert len(name) <= NAME_MAX
    assert safe_name(name, extension="png") == name


def test_a_url_names_a_file_by_the_end_of_its_path() -> None:
    assert name_in_url("https://x.example.org/a/scan%2001.tif?token=1#f") == "scan 01.tif"
    assert name_in_url("https://x.example.org/") == ""
    assert name_in_url("http://[") == ""


IN_STEPS = Settings(image_max_pixels=20_000, image_max_pixels_in_steps=10**9)
"""So that small pictures count as large."""


@pytest.mark.parametrize("step", [2, 4])
@pytest.mark.parametrize(
    ("layout", "samples", "dtype"),
    [
        ({"tile": (16, 32)}, 1, "uint8"),
        ({"rowsperstrip": 7}, 1, "uint8"),
        ({"rowsperstrip": 7}, 3, "uint8"),
        ({"tile": (32, 16)}, 3, "uint8"),
        ({"rowsperstrip": 5}, 1, "uint16"),
        ({"tile": (16, 16)}, 3, "uint16"),
        ({"rowsperstrip": 1}, 1, "float32"),
        ({"rowsperstrip": 9, "planarconfig": "separate"}, 3, "uint8"),
    ],
)
def test_a_tiff_read_in_steps_has_the_pixels_of_the_whole(
    step: int, layout: dict[str, object], samples: int, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    height, width = 157, 203
    rng = np.random.default_rng(4)
    planes = layout.get("planarconfig") == "separate"
    shape = (height, width) if samples == 1 else (samples, height, width) if planes else (height, width, samples)
    values = rng.integers(0, 256, shape).astype(dtype)
    kind = "rgb" if samples == 3 else "minisblack"
    data = encode_tiff(values, compression="zlib", photometric=kind, **layout)
    monkeypatch.setattr("serve_app.images.reduced.READ_PIXELS", height * width // step**2 + 1)
    pixels = read_reduced(data, IN_STEPS, (10, 10))
    picture = np.moveaxis(values, 0, -1) if planes else values
    assert pixels.array.shape[:2] == (math.ceil(height / step), math.ceil(width / step))
    assert (pixels.how["width"], pixels.how["height"]) == (width, height)
    if dtype == "uint8":
        whole = np.asarray(Image.fromarray(picture).reduce(step))
        assert pixels.how["steps"].endswith(f"means of {step}x{step} pixels")
        np.testing.assert_array_equal(pixels.array, whole)
    else:
        assert pixels.how["steps"].endswith(f"one pixel in {step}x{step}")
        low, high = pixels.how["window"]
        expected = np.clip((picture[::step, ::step].astype(float) - low) / (high - low), 0, 1) * 255
        np.testing.assert_allclose(pixels.array, expected, atol=1)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_a_jpeg_read_in_steps_looks_like_the_whole(options: dict[str, object]) -> None:
    data = encode(Image.fromarray(texture(800, 1200)).convert("RGB"), "JPEG", quality=95, **options)
    small, image, _ = made(data, IN_STEPS)
    assert small.image["steps"].endswith("scaled by the JPEG decoder")
    assert (small.image["width"], small.image["height"]) == (1200, 800)
    whole = Image.fromarray(texture(800, 1200)).resize((100, 100), Image.Resampling.LANCZOS)
    assert np.abs(np.asarray(image.convert("L"), int) - np.asarray(whole, int)).mean() < 3


def test_a_turned_jpeg_read_in_steps_has_its_upright_size() -> None:
    exif = Image.Exif()
    exif[274] = 6
    data = encode(Image.fromarray(texture(400, 800)), "JPEG", exif=exif)
    result, image, _ = made(data, IN_STEPS, mode="fit")
    assert (result.image["width"], result.image["height"]) == (400, 800)
    assert image.size == (50, 100)


def test_what_cannot_be_read_in_steps_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.images.reduced.BUFFER_SHARE", 0.001)
    with pytest.raises(ImageTooCostly, match="Save it as a baseline JPEG"):
        made(encode(Image.new("RGB", (1200, 1200)), "JPEG", progressive=True), IN_STEPS)
    monkeypatch.setattr("serve_app.images.tiff_samples.PIECE_MAX_BYTES", 1 << 16)
    with pytest.raises(ImageUndecodable, match="strips are too large to be read one by one"):
        made(large_tiff(300, "uint8", rows=300), IN_STEPS)
    with pytest.raises(ImageUndecodable, match=r"at most 100,000,000 are accepted"):
        made(encode(Image.new("1", (11_000, 10_000)), "PNG"))
    whole = encode(Image.fromarray(texture(400, 800)), "JPEG", quality=90)
    with pytest.raises(ImageUndecodable, match="truncated"):
        made(whole[: len(whole) // 2], IN_STEPS)
    data = encode_tiff(texture(400, 800), compression="zlib", rowsperstrip=10)
    with pytest.raises(ImageUndecodable):
        made(data[: len(data) // 2], IN_STEPS)
