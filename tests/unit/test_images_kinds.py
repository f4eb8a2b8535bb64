"""One picture in every kind of TIFF and PNG: read as the plain 8-bit file is, or refused by name; none silently wrong.

The kinds are products of bits, sign, float, byte order, compression, predictor, colours, alpha, strips and tiles,
BigTIFF. Readers of other people's make read them too; where they do not agree, `DISAGREEMENTS` says who is right.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from serve_app.errors import ImageUndecodable
from serve_app.images.decode import read_pixels
from serve_app.images.window import to_eight_bits
from serve_app.settings import Settings
from tests import pictures
from tests.tiff_writer import Kind, write

SETTINGS = Settings()
Numbers = NDArray[Any]


def drawn(height: int = 44, width: int = 60) -> NDArray[np.uint8]:
    """Bright discs on a dark noisy slope, from 0 to 255: byte-swapped, shifted or inverted it looks quite different."""
    random = np.random.default_rng(7)
    y, x = np.mgrid[0:height, 0:width]
    grey = 20 + 90 * x / width + random.normal(0, 8, (height, width))
    for _ in range(9):
        cy, cx, radius = random.uniform(0, height), random.uniform(0, width), random.uniform(3, 9)
        distance = np.hypot(y - cy, x - cx)
        grey = np.where(distance < radius, 140 + 110 * (distance / radius) ** 2, grey)
    grey[:3, :9], grey[3:6, :9] = 0, 255
    return np.clip(grey, 0, 255).astype(np.uint8)


GREY = drawn()
COLOUR = np.dstack([GREY, GREY[::-1], 255 - GREY[:, ::-1]])


def stored(grey: Numbers, bits: int, form: int) -> Numbers:
    """`grey` in a part of the kind's range, as instruments use it; the window brings it back."""
    share = grey / 255
    if form == 3:
        return (share * 800 - 100).astype({16: "f2", 24: "f4", 32: "f4", 64: "f8"}[bits])
    if bits <= 8:
        return np.rint(share * (2**bits - 1) - (128 if form == 2 else 0)).astype(np.int8 if form == 2 else np.uint8)
    top = {32: 3_000_000, 64: 10**12}.get(bits, 2 ** min(bits, 12) - 1)
    size = 2 if bits <= 16 else bits // 8
    return np.rint(share * top - (top // 3 if form == 2 else 0)).astype(f"{'i' if form == 2 else 'u'}{size}")


def shown(grey: Numbers, bits: int) -> NDArray[np.uint8]:
    """What an 8-bit file of the same picture holds: fewer bits have lost something before they are written."""
    levels = 2 ** min(bits, 8) - 1
    return np.rint(np.rint(grey / 255 * levels) * (255 / levels)).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class Colours:
    """What the samples of a pixel mean, and the picture they show."""

    name: str
    picture: NDArray[np.uint8]
    photometric: int
    extra: tuple[int, ...] = ()
    planar: bool = False


COLOURS = (
    Colours("grey", GREY, 1),
    Colours("white is zero", GREY, 0),
    Colours("grey and alpha", GREY, 1, (2,)),
    Colours("rgb", COLOUR, 2),
    Colours("rgb and alpha", COLOUR, 2, (2,)),
    Colours("grey and premultiplied alpha", GREY, 1, (1,)),
    Colours("rgb and premultiplied alpha", COLOUR, 2, (1,)),
    Colours("planar rgb", COLOUR, 2, planar=True),
    Colours("planar rgb and alpha", COLOUR, 2, (2,), planar=True),
    Colours("rgb and a fourth channel", COLOUR, 2, (0,)),
)
WHOLE = [(8, 1), (16, 1), (32, 1), (64, 1), (8, 2), (16, 2), (32, 2), (64, 2), (16, 3), (32, 3), (64, 3)]
PACKED = [(bits, 1) for bits in range(1, 16) if bits != 8] + [(24, 3)]
COMPRESSIONS, MORE_COMPRESSIONS = (1, 5, 8, 32773, 50000), (32946, 34925)
PIECES: list[dict[str, Any]] = [
    {},
    {"rows": 7},
    {"tile": (16, 32)},
    {"rows": 7, "big": True},
    {"tile": (32, 16), "big": True},
    {"rows": 1},
]


@dataclass(frozen=True, slots=True)
class Case:
    samples: Numbers
    kind: Kind
    expected: NDArray[np.uint8]

    def __str__(self) -> str:
        plain = Kind()
        said = dataclasses.asdict(self.kind).items()
        return ", ".join(f"{key}={value}" for key, value in said if value != getattr(plain, key)) or "plain"


def case(kind: Kind, colours: Colours) -> Case:
    bits, form = kind.bits, kind.form
    samples = stored(colours.picture, bits, form)
    if colours.photometric == 0:
        samples = (samples.max() + samples.min()) - samples if form != 1 or bits > 8 else 2**bits - 1 - samples
        samples = samples.astype(stored(GREY, bits, form).dtype)
    if colours.extra:
        opaque = np.full(GREY.shape, 1 if form == 3 else 2 ** (bits - (form == 2)) - 1).astype(samples.dtype)
        samples = np.dstack([samples, stored(GREY, bits, form) if colours.extra == (0,) else opaque])
    kind = dataclasses.replace(kind, photometric=colours.photometric, extra=colours.extra, planar=colours.planar)
    return Case(samples, kind, shown(colours.picture, bits))


def cases() -> Iterator[Case]:
    pieces = itertools.cycle(PIECES)
    for (bits, form), order in itertools.product(WHOLE + PACKED, "<>"):
        whole = (bits, form) in WHOLE
        predictors = ((1, 2, 3) if form == 3 else (1, 2)) if whole else (1,)
        colours = COLOURS if whole else COLOURS[:5]
        for compression, predictor, one in itertools.product(COMPRESSIONS, predictors, colours):
            yield case(Kind(bits, form, order, compression, predictor, **next(pieces)), one)
        for compression, predictor in itertools.product(MORE_COMPRESSIONS, predictors):
            yield case(Kind(bits, form, order, compression, predictor, **next(pieces)), COLOURS[0])
        if bits not in (24, 32, 64):
            yield case(Kind(bits, form, order, 5, fill_order=2, rows=7), COLOURS[0])
    for bits, order, compression in itertools.product((32, 64), "<>", (1, 5, 8)):
        for form in (1, 3):  # SampleFormat is not there: the bits tell
            yield case(Kind(bits, form, order, compression, without=(339,)), COLOURS[0])
    for tag in (262, 277, 278, 284, 339):  # what simple writers leave away
        yield case(Kind(without=(tag,)), COLOURS[0])
    for compression in (1, 5, 8):
        yield case(Kind(compression=compression, without=(279,)), COLOURS[0])


@pytest.fixture(scope="module")
def table() -> list[tuple[Case, bytes, NDArray[np.uint8] | str]]:
    """Every case, its file, and what was read or why it was refused."""
    read: list[tuple[Case, bytes, NDArray[np.uint8] | str]] = []
    for one in cases():
        data = write(one.samples, one.kind)
        try:
            read.append((one, data, read_pixels(data, SETTINGS).array))
        except ImageUndecodable as error:
            read.append((one, data, error.detail))
    return read


def off(array: Numbers, expected: Numbers) -> float:
    return float(np.abs(array.astype(int) - expected).max()) if array.shape == expected.shape else np.inf


def test_every_kind_of_samples_reads_as_the_plain_picture(table: list[tuple[Case, bytes, Any]]) -> None:
    wrong = []
    for one, _, result in table:
        if isinstance(result, str):
            wrong.append(f"{one}: {result}")
        elif off(result, one.expected) > 1:
            wrong.append(f"{one}: off by {off(result, one.expected)}")
    print(f"{len(table)} kinds of TIFF samples")
    assert not wrong, "\n".join(wrong[:40])
    assert len(table) > 3000


def test_every_kind_gets_the_scores_of_the_plain_picture(table: list[tuple[Case, bytes, Any]]) -> None:
    """Equal pixels share a forward pass."""
    from serve_app.models.sem_classifier import SemClassifier

    classifier = SemClassifier()
    classifier.load(SETTINGS)
    params = SemClassifier.Params()
    files: dict[bytes, bytes] = {}
    pairs: dict[tuple[bytes, bytes], Case] = {}
    for one, data, array in table:
        files.setdefault(array.tobytes(), data)
        plain = one.expected.tobytes()
        files.setdefault(plain, pictures.encode(one.expected, "PNG"))
        pairs.setdefault((array.tobytes(), plain), one)
    items = [classifier.preprocess(data, params, classifier.recipe).item for data in files.values()]
    outputs = [row for start in range(0, len(items), 32) for row in classifier.forward(items[start : start + 32])]
    scores = dict(zip(files, outputs, strict=True))
    print(f"{len(files)} distinct pictures, {len(pairs)} pairs")
    for (array, plain), one in pairs.items():
        assert np.abs(scores[array] - scores[plain]).max() <= 0.02, one
        assert scores[array].argmax() == scores[plain].argmax(), one


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Another reader shows something else, ours is right, and `why`."""

    reader: str
    applies: Callable[[Kind], bool]
    why: str


def uncompressed_predictor(kind: Kind) -> bool:
    return kind.predictor != 1 and kind.compression in (1, 32773)


DISAGREEMENTS = (
    Disagreement(
        "Pillow",
        uncompressed_predictor,
        "libtiff knows the predictor tag with LZW, Deflate, Zstandard, LZMA alone (TIFF 6.0: with LZW) and shows the "
        "differences. The samples here are differences, as the tag says; ours takes what is smoother",
    ),
    Disagreement("libtiff", uncompressed_predictor, "as above"),
    Disagreement(
        "Pillow",
        lambda kind: kind.form == 2 and kind.bits == 8,
        "signed bytes are shown as unsigned: -1 becomes white and 0 black",
    ),
    Disagreement(
        "Pillow",
        lambda kind: kind.bits == 16 and kind.photometric == 2,
        "of 16-bit colour the upper 8 bits are kept, so 12-bit data become black",
    ),
    Disagreement(
        "Pillow",
        lambda kind: kind.order == ">" and kind.compression != 1 and kind.form in (2, 3),
        "libtiff gives native words, which Pillow then swaps again (its modes I;16BS, I;32BS, F;32BF)",
    ),
    Disagreement(
        "Pillow",
        lambda kind: 262 in kind.without,
        "without a photometric tag Pillow takes white as zero; libtiff and ImageJ take black, as most pictures are",
    ),
    Disagreement(
        "Pillow",
        lambda kind: 339 in kind.without and kind.form == 3,
        "without SampleFormat floats are taken for integers; ours looks at the bits",
    ),
    Disagreement("libtiff", lambda kind: 339 in kind.without and kind.form == 3, "likewise"),
)


def by_pillow(one: Case, data: bytes) -> Numbers:
    """Pillow's samples, through our window where they are deep."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = Image.open(io.BytesIO(data))
        array = np.asarray(image.convert("L") if image.mode == "1" else image)
    if array.ndim == 3:
        array = array[:, :, 0] if one.expected.ndim == 2 else array[:, :, :3]
    if array.dtype == np.uint8:
        return array
    scaled, _ = to_eight_bits(array)
    return 255 - scaled if one.kind.photometric == 0 and 262 not in one.kind.without else scaled


def by_libtiff(one: Case, data: bytes) -> Numbers:
    """Whether imagecodecs' own libtiff gives the samples that were written: then the expected picture."""
    array = imagecodecs.tiff_decode(data)
    if one.kind.planar:
        array = np.moveaxis(array, 0, 2)
    kind = array.dtype.kind.replace("b", "u")
    same = array.shape == one.samples.shape and kind == one.samples.dtype.kind
    return one.expected if same and (array == one.samples).all() else 255 - one.expected


@pytest.mark.slow(reason="two readers read every kind of image")
def test_where_other_readers_do_not_agree_the_reason_is_known(table: list[tuple[Case, bytes, Any]]) -> None:
    unknown, used, agreed = [], Counter[str](), Counter[str]()
    for (one, data, _), (reader, read) in itertools.product(table, (("Pillow", by_pillow), ("libtiff", by_libtiff))):
        try:
            array = read(one, data)
        except Exception:  # noqa: S112 - it does not read this kind, and says so
            continue
        if off(array, one.expected) <= 1:
            agreed[reader] += 1
        elif why := next((d.why for d in DISAGREEMENTS if d.reader == reader and d.applies(one.kind)), None):
            used[f"{reader}: {why}"] += 1
        else:
            unknown.append(f"{reader}: {one}")
    print(f"agree: {dict(agreed)}; known disagreements: {dict(used)}")
    assert not unknown, "\n".join(unknown[:40])
    assert len(used) == len(DISAGREEMENTS), "a disagreement is listed that no longer happens"
    assert agreed["Pillow"] > 300
    assert agreed["libtiff"] > 2500


def by_tifffile(picture: Numbers, **options: Any) -> bytes:
    return pictures.encode_tiff(picture, **options)


def test_files_of_another_writer_read_the_same() -> None:
    count = 0
    for (bits, form), order, big in itertools.product(WHOLE, "<>", (False, True)):
        for picture, photometric in ((GREY, "minisblack"), (COLOUR, "rgb")):
            for compression, predictor in itertools.product((None, "zlib", "lzw", "zstd"), (False, True)):
                if predictor and (not compression or (bits == 64 and form != 3)):
                    continue
                options: dict[str, Any] = {"tile": (16, 16)} if count % 2 else {"rowsperstrip": 9}
                data = by_tifffile(
                    stored(picture, bits, form),
                    byteorder=order,
                    bigtiff=big,
                    photometric=photometric,
                    compression=compression,
                    predictor=predictor,
                    **options,
                )
                assert off(read_pixels(data, SETTINGS).array, picture) <= 1, (bits, form, order, compression, predictor)
                count += 1
    print(f"{count} files of tifffile's writer")


PICTURE_CODECS = {
    "jpeg grey": (by_tifffile(GREY, compression="jpeg", compressionargs={"level": 100}), GREY, 2),
    "jpeg rgb": (
        by_tifffile(COLOUR, photometric="rgb", compression="jpeg", subsampling=(1, 1), compressionargs={"level": 100}),
        COLOUR,
        6,
    ),
    "jpeg rgb, tiles": (
        by_tifffile(
            np.tile(COLOUR, (2, 2, 1)),
            photometric="rgb",
            compression="jpeg",
            subsampling=(1, 1),
            compressionargs={"level": 100},
            tile=(32, 32),
        ),
        np.tile(COLOUR, (2, 2, 1)),
        6,
    ),
    "jpeg 12-bit": (
        by_tifffile(stored(GREY, 12, 1), compression="jpeg", bitspersample=12, compressionargs={"level": 100}),
        GREY,
        2,
    ),
    "jpeg cmyk": (
        pictures.encode(Image.fromarray(COLOUR).convert("CMYK"), "TIFF", compression="jpeg", quality=100),
        COLOUR,
        4,
    ),
    "webp rgb": (
        by_tifffile(COLOUR, photometric="rgb", compression="webp", compressionargs={"lossless": True}),
        COLOUR,
        0,
    ),
    "jpeg 2000 grey": (by_tifffile(GREY, compression="jpeg2000"), GREY, 0),
    "jpeg 2000 16-bit": (by_tifffile(stored(GREY, 16, 1), compression="jpeg2000"), GREY, 1),
    "cmyk": (pictures.encode(Image.fromarray(COLOUR).convert("CMYK"), "TIFF"), COLOUR, 0),
    "cmyk lzw": (pictures.encode(Image.fromarray(COLOUR).convert("CMYK"), "TIFF", compression="tiff_lzw"), COLOUR, 0),
    "ycbcr": (pictures.encode(Image.fromarray(COLOUR).convert("YCbCr"), "TIFF"), COLOUR, 3),
    "ycbcr lzw": (pictures.encode(Image.fromarray(COLOUR).convert("YCbCr"), "TIFF", compression="tiff_lzw"), COLOUR, 3),
    "old jpeg": (
        write(
            COLOUR,
            Kind(photometric=6, compression=6, pieces=(pictures.encode(COLOUR, "JPEG", quality=100, subsampling=0),)),
        ),
        COLOUR,
        6,
    ),
    "thunderscan": (
        write(stored(GREY, 4, 1), Kind(4, compression=32809, pieces=((stored(GREY, 4, 1) | 0xC0).tobytes(),))),
        shown(GREY, 4),
        0,
    ),
    **{
        f"fax {name}": (
            pictures.encode(Image.fromarray(GREY > 100), "TIFF", compression=name),
            (GREY > 100) * np.uint8(255),
            0,
        )
        for name in ("group3", "group4", "tiff_ccitt")
    },
    **{
        f"{order} {bits}-bit palette": (
            write(
                np.arange(GREY.size).reshape(GREY.shape) % 2**bits,
                Kind(
                    bits,
                    order=order,
                    photometric=3,
                    tags={320: (3, [c * 257 for c in np.tile(np.linspace(255, 0, 2**bits), 3).astype(int)])},
                ),
            ),
            np.linspace(255, 0, 2**bits).astype(np.uint8)[np.arange(GREY.size).reshape(GREY.shape) % 2**bits],
            0,
        )
        for bits, order in itertools.product((1, 2, 4, 8), "<>")
    },
}


@pytest.mark.parametrize("name", PICTURE_CODECS)
def test_every_colour_and_picture_compression_reads_as_the_picture(name: str) -> None:
    data, expected, tolerance = PICTURE_CODECS[name]
    assert off(read_pixels(data, SETTINGS).array, expected) <= tolerance


NOT_READ = {
    "PNG": by_tifffile(GREY, compression="png"),  # its decoder passes over wrong checksums
    "JPEGXL": by_tifffile(GREY, compression="jpegxl"),
    "JPEGXR": by_tifffile(GREY, compression="jpegxr"),
    "LERC": by_tifffile(GREY, compression="lerc"),
    "SGILOG": write(GREY, Kind(photometric=32845, compression=34676, pieces=(bytes(200),))),
    "NEXT": write(GREY, Kind(bits=2, compression=32766, pieces=(bytes(200),))),
    "compression 4242": write(GREY, Kind(compression=4242, pieces=(bytes(200),))),
    "CFA": write(GREY, Kind(photometric=32803)),
    "MASK": write(GREY, Kind(photometric=4)),
    "LOGLUV": write(COLOUR, Kind(photometric=32845)),
    "photometric 99": write(GREY, Kind(photometric=99)),
    "complex": by_tifffile(GREY.astype(np.complex64)),
    "24-bit integers": write(GREY, Kind(24, pieces=(bytes(GREY.size * 3),))),
    "20-bit integers": write(GREY.astype(np.uint32), Kind(20)),
    "12-bit signed integers": write(stored(GREY, 12, 1), Kind(12, 2)),
    "128-bit": write(GREY, Kind(128, 3, pieces=(bytes(GREY.size * 16),))),
    "8, 8, 16 bits": write(COLOUR, Kind(photometric=2, tags={258: (3, [8, 8, 16])})),
    "predictor 7": write(GREY, Kind(compression=5, tags={317: (3, [7])})),
    "predictor 2 is not read with 12-bit": write(stored(GREY, 12, 1), Kind(12, compression=5, tags={317: (3, [2])})),
    "predictor 3 is not read with 16-bit": write(stored(GREY, 16, 1), Kind(16, compression=5, tags={317: (3, [3])})),
    "inks": write(np.dstack([COLOUR, GREY]), Kind(photometric=5, tags={332: (3, [2])})),
    "16-bit LAB": write(stored(COLOUR, 16, 1), Kind(16, photometric=8)),
    "too few": write(np.dstack([GREY, GREY]), Kind(photometric=2)),
    "17 samples": write(np.dstack([GREY] * 17), Kind()),
    "SampleFormat": write(  # integers of a narrow range that could as well be floats of a wide one
        GREY.astype(np.uint32) * np.uint32(2_900_000) + np.uint32(700_000_000), Kind(32, without=(339,))
    ),
}


@pytest.mark.parametrize("words", NOT_READ)
def test_what_is_not_read_is_refused_by_its_name(words: str) -> None:
    with pytest.raises(ImageUndecodable, match=words):
        read_pixels(NOT_READ[words], SETTINGS)


@pytest.mark.parametrize("top", [255, 4095, 65535, 2**24, 2**32 - 1])
@pytest.mark.parametrize("order", "<>")
def test_integers_without_a_sample_format_stay_integers(top: int, order: str) -> None:
    samples = np.rint(GREY / 255 * top).astype(np.uint32)
    pixels = read_pixels(write(samples, Kind(32, order=order, without=(339,))), SETTINGS)
    assert off(pixels.array, GREY) <= 1
    assert "32-bit integer" in pixels.how["read_as"]


@pytest.mark.parametrize("compression", [1, 5])
@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(("top", "zero"), [(200, 100), (3800, 2000), (3_000_000, 1_000_000)])
def test_signed_integers_without_a_sample_format_are_not_read_as_huge_ones(
    top: int, zero: int, order: str, bits: int, compression: int
) -> None:
    samples = (np.rint(GREY / 255 * top) - zero).astype(f"i{bits // 8}")
    pixels = read_pixels(write(samples, Kind(bits, 2, order, compression, without=(339,))), SETTINGS)
    assert off(pixels.array, GREY) <= 1
    assert f"{bits}-bit signed integer" in pixels.how["read_as"]


def test_white_of_full_scale_without_a_sample_format_stays_white() -> None:
    samples = np.where(GREY > 100, np.uint32(2**32 - 1), np.uint32(0))
    pixels = read_pixels(write(samples, Kind(32, without=(339,))), SETTINGS)
    assert off(pixels.array, (GREY > 100) * np.uint8(255)) == 0


def test_floats_far_from_1_without_a_sample_format_are_refused() -> None:
    samples = (GREY / 255 * 1e15 + 1e12).astype("f4")
    with pytest.raises(ImageUndecodable, match="may be integers or floats"):
        read_pixels(write(samples, Kind(32, 3, without=(339,))), SETTINGS)


@pytest.mark.parametrize("top", [1e-6, 1.0, 255.0, 65535.0, 1e9])
@pytest.mark.parametrize(("bits", "dtype"), [(32, "f4"), (64, "f8")])
def test_floats_without_a_sample_format_are_floats(top: float, bits: int, dtype: str) -> None:
    samples = (GREY / 255 * top - top / 3).astype(dtype)
    pixels = read_pixels(write(samples, Kind(bits, 3, without=(339,))), SETTINGS)
    assert off(pixels.array, GREY) <= 1
    assert "float" in pixels.how["read_as"]


@pytest.mark.parametrize("compression", [1, 32773])
@pytest.mark.parametrize(("bits", "form", "predictor"), [(8, 1, 2), (16, 1, 2), (32, 3, 2), (32, 3, 3)])
def test_a_predictor_tag_that_nothing_was_done_for_is_passed_over(
    bits: int, form: int, predictor: int, compression: int
) -> None:
    """LSM and others leave it in files without compression."""
    kind = Kind(bits, form, compression=compression, tags={317: (3, [predictor])})
    assert off(read_pixels(write(stored(GREY, bits, form), kind), SETTINGS).array, GREY) <= 1


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_every_png_palette_reads_as_the_plain_picture(bits: int) -> None:
    image = Image.fromarray((stored(GREY, bits, 1) if bits < 8 else GREY), "L").convert("P")
    image = Image.frombytes("P", GREY.shape[::-1], stored(GREY, bits, 1).tobytes())
    image.putpalette([int(level) for level in np.repeat(np.linspace(0, 255, 2**bits).astype(int), 3)])
    data = pictures.encode(image, "PNG", bits=bits)
    assert off(read_pixels(data, SETTINGS).array, shown(GREY, bits)) <= 1


@pytest.mark.parametrize("compression", [1, 5, 8, 32773, 50000, 34925])
def test_a_last_strip_that_is_filled_up_is_read(compression: int) -> None:
    from tests.tiff_writer import COMPRESSORS

    filled = np.pad(GREY, ((0, 6), (0, 0)))
    pieces = tuple(COMPRESSORS[compression](filled[top : top + 10].tobytes()) for top in range(0, 50, 10))
    data = write(GREY, Kind(compression=compression, rows=10, pieces=pieces))
    assert off(read_pixels(data, SETTINGS).array, GREY) == 0


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "raw"])
@pytest.mark.parametrize("picture", [COLOUR, GREY], ids=["colour", "grey"])
def test_a_file_that_is_cut_off_is_never_another_picture(picture: Numbers, compression: str) -> None:
    """Pillow writes the values of tags behind the pixels; without those of BitsPerSample there would be one bit."""
    data = pictures.encode(picture, "TIFF", compression=compression, dpi=(300, 300))
    whole = read_pixels(data, SETTINGS).array
    for length in (*range(8, len(data) - 64, 97), *range(len(data) - 64, len(data))):
        try:
            array = read_pixels(data[:length], SETTINGS).array
        except ImageUndecodable:
            continue
        assert np.array_equal(array, whole), f"cut off at {length} of {len(data)}"


@pytest.mark.parametrize("tag", [258, 277, 338, 339, 317, 284])
@pytest.mark.parametrize("kind", [2, 99])
def test_a_damaged_tag_that_decides_pixels_is_refused_by_its_number(tag: int, kind: int) -> None:
    """Of a type that does not exist, or with its values beyond the end."""
    data = bytearray(write(np.dstack([COLOUR, GREY]), Kind(photometric=2, compression=5, predictor=2, extra=(2,))))
    at = next(at for at in range(len(data)) if data.startswith(tag.to_bytes(2, "little") + b"\3\0", at))
    data[at + 2] = kind
    if kind == 2:
        data[at + 2 : at + 12] = b"\3\0\x10\0\0\0\xff\xff\xff\x7f"
    with pytest.raises(ImageUndecodable, match=rf"tag {tag} \("):
        read_pixels(bytes(data), SETTINGS)


@pytest.mark.parametrize("compression", ["jpeg", "jpeg2000", "webp", "lzw", "zstd", "zlib", "packbits", "lzma"])
@pytest.mark.parametrize("share", [0, 0.3, 0.7, 0.97])
def test_a_strip_that_is_cut_short_is_refused_in_every_compression(compression: str, share: float) -> None:
    picture = np.tile(COLOUR, (4, 4, 1))
    data = by_tifffile(picture, compression=compression, photometric="rgb", rowsperstrip=64)
    page = tifffile.TiffFile(io.BytesIO(data)).pages.first
    count = int(page.databytecounts[0] * share)
    tag = page.tags[279]
    assert (tag.count, tag.dtype) == (3, 4)  # 32-bit numbers
    changed = bytearray(data)
    changed[tag.valueoffset : tag.valueoffset + 4] = count.to_bytes(4, "little")
    assert read_pixels(data, SETTINGS).array.shape == picture.shape
    with pytest.raises(ImageUndecodable):
        read_pixels(bytes(changed), SETTINGS)
