"""The window is measured on the specimen: masks, fill values and the data bar do not decide it, real extremes do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from serve_app.errors import ImageUndecodable
from serve_app.images.decode import Pixels, read_pixels
from serve_app.settings import Settings
from tests.tiff_writer import Kind, write

SETTINGS = Settings()
Numbers = NDArray[Any]


def specimen(height: int = 240, width: int = 320, low: float = 200, high: float = 3800) -> NDArray[np.float64]:
    """A noisy 12-bit picture with discs, as counts."""
    random = np.random.default_rng(3)
    y, x = np.mgrid[0:height, 0:width]
    share = 0.2 + 0.2 * x / width + random.normal(0, 0.04, (height, width))
    for _ in range(30):
        distance = np.hypot(y - random.uniform(0, height), x - random.uniform(0, width)) / random.uniform(6, 18)
        share = np.where(distance < 1, 0.5 + 0.4 * distance**2, share)
    return low + (high - low) * np.clip(share, 0, 1)


SPECIMEN = specimen()
TOP_ROWS = np.zeros(SPECIMEN.shape, bool)
TOP_ROWS[:24] = True
CORNERS = np.add.outer(np.arange(240), np.arange(320)) < 90
HOLE = np.zeros(SPECIMEN.shape, bool)
HOLE[100:150, 60:140] = True
MASKS = {"a strip": TOP_ROWS, "a corner": CORNERS, "a hole": HOLE}


def read(samples: Numbers, **options: Any) -> Pixels:
    kind = {"u": 1, "i": 2, "f": 3}[samples.dtype.kind]
    return read_pixels(write(samples, Kind(samples.dtype.itemsize * 8, kind, **options)), SETTINGS)


def no_data(text: str) -> dict[str, Any]:
    return {"tags": {42113: (2, text.encode() + b"\0")}}


def as_without(pixels: Pixels, mask: NDArray[np.bool_], plain: Numbers) -> None:
    """Where nothing is masked, the picture is as it is when only that part is measured."""
    plain = plain.astype("f8")
    low, high = np.percentile(plain[~mask], (0.1, 99.9), method="nearest")
    expected = np.clip((plain - low) / (high - low), 0, 1) * 255
    assert np.abs(pixels.array[~mask] - expected[~mask]).max() <= 1


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (-3.4028235e38, "f4"),
        (3.4028235e38, "f4"),
        (-1.7e308, "f8"),
        (-9999.0, "f4"),
        (-9999.0, "f8"),
        (1e20, "f4"),
        (-32768, "i2"),
        (-9999, "i2"),
        (-2147483648, "i4"),
        (65535, "u2"),
        (4294967295, "u4"),
    ],
)
def test_a_mask_far_from_all_others_does_not_decide_the_window(name: str, value: float, dtype: str) -> None:
    mask = MASKS[name]
    plain = SPECIMEN.astype(dtype)
    pixels = read(np.where(mask, np.array(value, dtype), plain))
    as_without(pixels, mask, plain)
    drawn = "black" if value < 0 else "white"
    assert (pixels.array[mask] == (0 if drawn == "black" else 255)).all()
    assert "measured without" in pixels.how["read_as"]
    assert f"{np.array(value, dtype).item():g} (" in pixels.how["read_as"]
    assert f"drawn {drawn}" in pixels.how["read_as"]


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_what_is_not_finite_does_not_decide_the_window_and_is_told(value: str) -> None:
    plain = SPECIMEN.astype("f4")
    pixels = read(np.where(HOLE, np.float32(value), plain))
    as_without(pixels, HOLE, plain)
    assert "measured without NaN and infinity (5.2% of the pixels" in pixels.how["read_as"]
    assert (pixels.array[HOLE] == (255 if value == "inf" else 0)).all()


@pytest.mark.parametrize(
    ("text", "value", "dtype"),
    [
        ("0", 0, "u2"),
        ("-3.40282e+38", np.finfo("f4").min, "f4"),
        ("1500", 1500, "i4"),
        ("65535", 65535, "u2"),
        ("0,5", 0.5, "f8"),
    ],
)
def test_a_value_that_the_file_names_is_left_out_wherever_it_lies(text: str, value: float, dtype: str) -> None:
    """GDAL_NODATA, also in the middle of the range, imprecise, or with a comma; drawn black."""
    mask = TOP_ROWS | HOLE | CORNERS
    plain = SPECIMEN.astype(dtype)
    plain[plain == value] += 1
    pixels = read(np.where(mask, np.array(value, dtype), plain), **no_data(text))
    as_without(pixels, mask, plain)
    assert (pixels.array[mask] == 0).all()
    assert "named by the file, drawn black" in pixels.how["read_as"]


@pytest.mark.parametrize(
    ("one", "other", "dtype"),
    [
        (-3.4e38, 3.4e38, "f4"),
        (-9999, 65535, "f4"),
        (-3.4e38, -9999, "f4"),
        (-9999, -999, "f8"),
        (-32768, 32767, "i2"),
        (-9999, 1e20, "f4"),
    ],
)
def test_several_masks_do_not_hide_each_other(one: float, other: float, dtype: str) -> None:
    plain = SPECIMEN.astype(dtype)
    pixels = read(np.select([HOLE, CORNERS], [np.array(one, dtype), np.array(other, dtype)], plain))
    as_without(pixels, HOLE | CORNERS, plain)
    assert pixels.how["read_as"].count(", drawn ") == 2


@pytest.mark.parametrize(
    ("value", "hot", "dead", "dtype"),
    [(-9999, 30_000, 0, "f4"), (-3.4e38, 1e6, 0, "f4"), (65535, 10_000, 0, "u2"), (-32768, 32767, 0, "i2")],
)
def test_hot_and_dead_pixels_do_not_hide_a_mask(value: float, hot: float, dead: float, dtype: str) -> None:
    plain = specimen(low=1500).astype(dtype)
    chance = np.random.default_rng(1).random(plain.shape)
    plain[chance < 0.0005], plain[chance > 0.9995] = hot, dead
    pixels = read(np.where(HOLE, np.array(value, dtype), plain))
    as_without(pixels, HOLE, plain)
    assert "measured without" in pixels.how["read_as"]


SKEWED = {
    "lognormal": np.random.default_rng(1).lognormal(5, 1, SPECIMEN.shape),
    "few counts": np.random.default_rng(1).poisson(3, SPECIMEN.shape),
    "counts about a fill value's size": SPECIMEN,
}


@pytest.mark.parametrize("value", [-9999, -999, 1e20])
@pytest.mark.parametrize("name", SKEWED)
def test_a_mask_beside_a_long_tail_or_few_values_is_found(name: str, value: float) -> None:
    plain = SKEWED[name].astype("f4")
    as_without(read(np.where(HOLE, np.float32(value), plain)), HOLE, plain)


@pytest.mark.parametrize("value", [1e20, -1e10])
def test_a_mask_of_any_value_may_cover_most_of_a_picture_that_no_scale_shows_beside_it(value: float) -> None:
    mask = np.arange(320) > np.full((240, 1), 100)
    plain = SPECIMEN.astype("f4")
    as_without(read(np.where(mask, np.float32(value), plain)), mask, plain)


def test_masks_of_a_picture_whose_zero_is_white_are_drawn_as_the_result_says() -> None:
    plain = SPECIMEN.astype("f4")
    named = read(np.where(HOLE, np.float32(-5), plain), photometric=0, **no_data("-5"))
    assert (named.array[HOLE] == 0).all()
    assert "named by the file, drawn black), white is zero" in named.how["read_as"]
    found = read(np.where(HOLE, np.float32(-9999), plain), photometric=0)
    assert (found.array[HOLE] == 255).all()
    assert "a fill value, drawn white), white is zero" in found.how["read_as"]
    lost = read(np.where(HOLE, np.float32(np.nan), plain), photometric=0)
    assert (lost.array[HOLE] == 255).all()
    assert "NaN drawn white), white is zero" in lost.how["read_as"]


def test_a_picture_of_nothing_but_masked_pixels_is_refused() -> None:
    with pytest.raises(ImageUndecodable, match="that counts"):
        read(np.full((20, 20), -9999.0), **no_data("-9999"))
    with pytest.raises(ImageUndecodable, match="finite"):
        read(np.full((8, 8), np.nan, "f4"))


def window(samples: Numbers, **options: Any) -> tuple[float, float]:
    pixels = read(samples, **options)
    assert "measured without" not in pixels.how["read_as"], pixels.how["read_as"]
    low, high = pixels.how["window"]
    return low, high


def blurred(samples: Numbers) -> Numbers:
    """As a lens and a detector would draw it: an edge is two pixels wide."""
    for axis in (0, 1):
        samples = (samples + np.roll(samples, 1, axis)) / 2
    return samples


REAL_EXTREMES = {
    "true black below a bright specimen": np.where(HOLE, 0, specimen(low=1500, high=3800)).astype("u2"),
    "true black below a narrow specimen": blurred(np.where(CORNERS, 0, specimen(low=3000, high=3600))).astype("u2"),
    "saturated discs on a dim ground": blurred(np.where(CORNERS | HOLE, 65535, specimen(low=200, high=3000))).astype(
        "u2"
    ),
    "a saturated half": blurred(np.where(np.arange(320) > 170, 65535, specimen(low=200, high=3000))).astype("u2"),
    "bright lines on a true black ground": np.where(HOLE, specimen(low=50_000, high=60_000), 0).astype("u2"),
    "dark lines in saturated white": np.where(HOLE, specimen(low=100, high=900), 65535).astype("u2"),
    "two levels": np.where(CORNERS, 60_000, 300).astype("u2"),
    "floats from zero": np.where(HOLE, 0, specimen(low=0.2, high=0.9)).astype("f4"),
    "negative counts": (SPECIMEN - 2000).astype("i2"),
    "a map of four numbers": np.digitize(np.arange(240 * 320).reshape(240, 320) % 320, (80, 160, 240)).astype("u2")
    * np.uint16(100)
    + np.where(HOLE, 0, 3000).astype("u2"),
}


@pytest.mark.parametrize("name", REAL_EXTREMES)
def test_true_black_and_saturated_pixels_are_measured(name: str) -> None:
    samples = REAL_EXTREMES[name]
    expected = np.percentile(samples, (0.1, 99.9), method="nearest")
    assert window(samples) == tuple(float(end) for end in expected)


def with_bar(
    edge: str, low: float, high: float, dtype: str = "u2", lines: int = 24
) -> tuple[Numbers, NDArray[np.bool_]]:
    """The specimen with a data bar: a ground, a line of text, scale marks."""
    turned = {"bottom": 0, "right": 1, "top": 2, "left": 3}[edge]
    picture = np.rot90(SPECIMEN, -turned).copy()
    bar = np.zeros(picture.shape, bool)
    bar[-lines:] = True
    picture[bar] = low
    picture[-16:-12, 30:130] = high
    picture[-18:-6, 150:230:4] = high
    picture[-18:-6, 151:230:4] = (low + high) / 2
    return np.rot90(picture, turned).astype(dtype), np.rot90(bar, turned)


@pytest.mark.parametrize("edge", ["bottom", "top", "left", "right"])
@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [(0, 65535, "u2"), (65535, 0, "u2"), (0, 4095, "u2"), (-32768, 32767, "i2"), (0, 2**32 - 1, "u4"), (0, 1e6, "f4")],
)
def test_the_data_bar_does_not_decide_the_window(edge: str, low: float, high: float, dtype: str) -> None:
    samples, bar = with_bar(edge, low, high, dtype)
    pixels = read(samples)
    as_without(pixels, bar, samples.astype("f8"))
    lines = "rows" if edge in ("bottom", "top") else "columns"
    assert f"measured without data bar (24 {lines} at the {edge}, found as a flat strip)" in pixels.how["read_as"]
    assert {0, 255} <= set(pixels.array[bar])


@pytest.mark.parametrize(("low", "high"), [(30_000, 33_000), (2000, 2500), (200, 3800)])
@pytest.mark.parametrize("white", [255, 1023])
def test_a_bar_drawn_with_fewer_bits_than_the_picture_does_not_decide_the_window(
    low: float, high: float, white: int
) -> None:
    samples, bar = with_bar("bottom", 0, white)
    samples[~bar] = specimen(low=low, high=high).astype("u2")[~bar]
    pixels = read(samples)
    as_without(pixels, bar, samples)
    assert "data bar (24 rows at the bottom" in pixels.how["read_as"]


def lettered(lines: int, width: int, ground: float, ink: float) -> NDArray[np.float64]:
    """A strip of text with grey edges, as programs draw it, and a scale."""
    image = Image.new("L", (width, lines), 0)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=max(8, int(lines * 0.45)))
    draw.text((8, lines * 0.2), "HV 15.00 kV  WD 10.2 mm  mag 5 000x  det ETD  Institute", fill=255, font=font)
    draw.rectangle((width - 60, lines // 2 - 1, width - 10, lines // 2 + 1), fill=255)
    return ground + (ink - ground) * (np.asarray(image) / 255)


@pytest.mark.parametrize("width", [160, 320, 1024])
@pytest.mark.parametrize(("ground", "ink"), [(0, 65535), (65535, 0), (20_000, 65535)])
@pytest.mark.parametrize("edge", ["bottom", "top", "bottom and top"])
def test_text_with_grey_edges_is_a_data_bar(width: int, ground: float, ink: float, edge: str) -> None:
    samples, bar = specimen(width=width), np.zeros((240, width), bool)
    for part in edge.split(" and "):
        rows = slice(-20, None) if part == "bottom" else slice(None, 20)
        samples[rows], bar[rows] = lettered(20, width, ground, ink), True
    pixels = read(samples.astype("u2"))
    as_without(pixels, bar, samples.astype("u2"))
    assert pixels.how["read_as"].count("data bar (20 rows") == len(edge.split(" and "))


def test_a_bar_of_three_cells_and_a_mixed_line_beside_it_do_not_decide_the_window() -> None:
    """Pictures that were made smaller have a line in which bar and specimen are mixed."""
    samples, bar = specimen(), np.zeros((240, 320), bool)
    samples[-24:], bar[-25:] = lettered(24, 320, 0, 65535), True
    samples[-24:, 100:200] = 65535 - samples[-24:, 100:200]
    samples[-24:, 200:] /= 2
    samples[-25] = (samples[-25] + samples[-24]) / 2
    as_without(read(samples.astype("u2")), bar, samples.astype("u2"))


@pytest.mark.parametrize(("value", "dtype"), [(-3.4e38, "f4"), (-9999, "f4"), (-32768, "i2")])
def test_bar_and_mask_do_not_hide_each_other(value: float, dtype: str) -> None:
    samples, bar = with_bar("bottom", 0, 30_000, dtype)
    samples[HOLE] = value
    pixels = read(samples)
    as_without(pixels, bar | HOLE, samples)
    assert "data bar (24 rows" in pixels.how["read_as"]
    assert f"{np.array(value, dtype).item():g} (" in pixels.how["read_as"]


def test_the_data_bar_of_a_colour_picture_does_not_decide_the_window_either() -> None:
    samples, bar = with_bar("bottom", 0, 65535)
    pixels = read(np.dstack([samples] * 3), photometric=2)
    as_without(pixels, bar, np.dstack([samples] * 3).astype("f8"))
    green = np.dstack([SPECIMEN] * 3).astype("u2")
    green[bar] = 0
    green[bar, 1] = samples[bar]
    as_without(read(green, photometric=2), bar, green)


FEI = b"[User]\r\nDate=06/13/2016\r\n[Image]\r\nResolutionX=320\r\nResolutionY=%d\r\n\0"
TESCAN = b"\0\0[MAIN]\r\nDevice=VEGA3\r\nImageStripSize=%d\r\n\0"


@pytest.mark.parametrize(
    "tags", [{34682: (2, FEI % 216)}, {34680: (2, FEI % 216)}, {50431: (7, TESCAN % 24)}, {50431: (2, TESCAN[2:] % 24)}]
)
def test_a_bar_that_the_instrument_names_is_left_out_whatever_is_in_it(tags: dict[int, Any]) -> None:
    """FEI and Thermo name the rows of the scan, TESCAN of the strip. This bar is noise: its looks tell nothing."""
    samples = SPECIMEN.astype("u2")
    samples[216:] = np.random.default_rng(0).integers(0, 65536, (24, 320))
    bar = np.zeros(samples.shape, bool)
    bar[216:] = True
    pixels = read(samples, tags=tags)
    as_without(pixels, bar, samples.astype("f8"))
    assert "measured without data bar (24 rows at the bottom, named by the instrument)" in pixels.how["read_as"]


def test_a_bar_below_an_empty_picture_is_still_readable() -> None:
    samples, bar = with_bar("bottom", 0, 65535)
    samples[~bar] = 0
    pixels = read(samples, tags={34682: (2, FEI % 216)})
    assert pixels.array[~bar].max() == 0
    assert pixels.array[bar].max() == 255


FLAT = {
    "a dim part": np.where(TOP_ROWS, np.random.default_rng(1).poisson(0.1, SPECIMEN.shape), specimen(low=900)),
    "a true black strip": np.where(TOP_ROWS, 0, specimen(low=900)),
    "few counts everywhere": np.random.default_rng(1).poisson(1.5, SPECIMEN.shape),
    "counts about 5": np.random.default_rng(1).poisson(5, SPECIMEN.shape),
    "the corners beside a round picture": np.where(
        np.hypot(np.arange(240)[:, None] - 120, np.arange(320) - 160) < 110, specimen(low=2500, high=3200), 0
    ),
    "stripes of two values": np.where(np.arange(320) % 40 < 20, 100, 60_000) * np.ones((240, 1)),
}


@pytest.mark.parametrize("name", FLAT)
def test_a_part_of_the_specimen_with_few_values_is_no_data_bar(name: str) -> None:
    samples = FLAT[name].astype("u2")
    low, high = np.percentile(samples, (0.1, 99.9), method="nearest")
    assert window(samples) == (float(low), float(high))


@pytest.mark.parametrize(("bits", "top"), [(8, 255), (16, 65535), (16, 4095)])
@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("kind", [1, 2])
def test_transparent_parts_of_a_tiff_are_white(bits: int, top: int, colours: int, kind: int) -> None:
    """Associated (1: colours multiplied) and unassociated (2) alpha; the rest looks as it does in 8 bits."""
    share = specimen(low=0, high=1)
    dtype = f"u{bits // 8}"
    hidden = np.random.default_rng(0).uniform(0, 1, share.shape)
    alpha = np.where(HOLE, 0.0, np.where(CORNERS, 0.5, 1.0))
    grey = np.where(HOLE, hidden if kind == 2 else 0, share * (alpha if kind == 1 else 1))
    full = 255 if bits == 8 else 65535
    samples = np.dstack([np.rint(grey * top)] * colours + [np.rint(alpha * full)]).astype(dtype)
    pixels = read(samples, photometric=1 if colours == 1 else 2, extra=(kind,))
    expected = 255 - (255 - share * 255) * alpha
    shown = pixels.array if colours == 1 else pixels.array[:, :, 1]
    assert np.abs(shown - expected).max() <= 2
    assert (shown[HOLE] == 255).all()
    assert "transparency laid on white" in pixels.how["read_as"]
    assert bits == 8 or "because parts are transparent" in pixels.how["read_as"]


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2"])
def test_alpha_of_0_and_1_is_a_mask(dtype: str) -> None:
    """As programs write it that keep a mask as an array of yes and no."""
    grey = (specimen(low=0, high=1) * 255).astype(dtype)
    pixels = read(np.dstack([grey, ~HOLE]).astype(dtype), extra=(2,))
    assert (pixels.array[HOLE] == 255).all()
    assert np.ptp(pixels.array[~HOLE]) > 100


def test_a_channel_that_is_not_said_to_be_alpha_hides_nothing() -> None:
    grey = (specimen(low=0, high=1) * 255).astype("u1")
    for extra in ((0,), ()):
        pixels = read(np.dstack([grey, np.zeros_like(grey)]), extra=extra)
        assert (pixels.array == grey).all()
        assert "first of 2 channels" in pixels.how["read_as"]


def test_12_bits_in_16_bit_colour_are_scaled_by_one_window_for_all_channels() -> None:
    samples = np.dstack([SPECIMEN, SPECIMEN / 2, SPECIMEN / 4]).astype("u2")
    opaque = np.full(SPECIMEN.shape, 65535, "u2")
    plain = read(samples, photometric=2)
    low, high = np.percentile(samples, (0.1, 99.9), method="nearest")
    assert plain.how["window"] == [float(low), float(high)]
    assert f"16-bit colour, window 0.1–99.9 % ({low:g}–{high:g})" in plain.how["read_as"]
    assert (read(np.dstack([samples, opaque]), photometric=2, extra=(2,)).array == plain.array).all()
