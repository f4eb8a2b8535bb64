"""Of the pages of a TIFF file the largest picture is meant, wherever previews stand; a parameter chooses another."""

from __future__ import annotations

import dataclasses
import io
import struct
import sys
import time
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from serve_app.errors import ImageTooLarge, ImageUndecodable, ImageUnreadable, ServiceError
from serve_app.images.decode import read_pixels
from serve_app.images.header import inspect
from serve_app.models.sem_classifier import SemClassifier
from serve_app.settings import Settings
from tests import pictures
from tests.tiff_writer import Kind, write, write_pages

SETTINGS = Settings()
Page = tuple[NDArray[Any], Kind]


def page(level: int, height: int = 40, width: int = 60, *, reduced: int | None = None, **options: Any) -> Page:
    """A page of one grey level; `reduced` is its NewSubfileType."""
    tags = {254: (4, [reduced])} if reduced is not None else {}
    return np.full((height, width), level, np.uint8), Kind(tags=tags | options.pop("tags", {}), **options)


def level(data: bytes, number: int | None = None) -> tuple[int, str]:
    pixels = read_pixels(data, SETTINGS, number)
    return int(pixels.array.flat[0]), pixels.how["frame"]


PICTURE, PREVIEW = page(200), page(50, 10, 15)
MEANT = {
    "a preview before it, without a word": ([PREVIEW, PICTURE], "2 of 2"),
    "a preview behind it": ([PICTURE, PREVIEW], "1 of 2"),
    "a preview between": ([page(50, 10, 15), PREVIEW, PICTURE, PREVIEW], "3 of 4"),
    "a large thumbnail that says so": ([page(50, 80, 90, reduced=1), PICTURE], "2 of 2"),
    "a thumbnail of the old kind": ([page(50, 80, 90, tags={255: (3, [2])}), PICTURE], "2 of 2"),
    "a transparency mask": ([page(50, 80, 90, reduced=4), PICTURE], "2 of 2"),
    "a mask by its colours": ([page(50, 80, 90, photometric=4), PICTURE], "2 of 2"),
    "a pyramid": ([page(200, reduced=0), page(50, 20, 30, reduced=1), page(50, 10, 15, reduced=1)], "1 of 3"),
    "equal pages": ([PICTURE, page(50), page(60)], "1 of 3"),
    "pages of a document": ([page(200, reduced=2), page(50, reduced=2)], "1 of 2"),
    "nothing but thumbnails": ([page(50, 10, 10, reduced=1), page(200, reduced=1)], "2 of 2"),
    "another depth in front": ([(np.zeros((20, 20, 3), np.uint8), Kind(photometric=2)), PICTURE], "2 of 2"),
}


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("name", MEANT)
def test_the_largest_picture_is_classified_and_named(name: str, order: str, big: bool) -> None:
    pages, frame = MEANT[name]
    pages = [(samples, dataclasses.replace(kind, order=order, big=big)) for samples, kind in pages]
    data = write_pages(pages)
    assert level(data) == (200, frame)
    header = inspect(data, SETTINGS)
    assert (header.height, header.width) == (40, 60)


def test_a_full_picture_below_a_thumbnail_is_found() -> None:
    """As in DNG: the main chain holds a thumbnail, its SubIFD the picture. Reduced SubIFDs are no pages."""
    data = write_pages([page(50, 10, 15, reduced=1), page(200, reduced=0), page(60, 20, 30, reduced=1)], {0: [1, 2]})
    assert level(data) == (200, "2 of 2")
    pyramid = write_pages([PICTURE, page(60, 20, 30, reduced=1), page(60, 10, 15, reduced=1)], {0: [1, 2]})
    assert level(pyramid) == (200, "1 of 1")


def test_a_parameter_chooses_the_page() -> None:
    data = write_pages([PREVIEW, PICTURE, page(80, 30, 30)])
    assert [level(data, number) for number in (1, 2, 3)] == [(50, "1 of 3"), (200, "2 of 3"), (80, "3 of 3")]
    params = SemClassifier.Params(page=3)
    assert params.page == 3
    for wrong in (0, -1, "x", 1.5):
        with pytest.raises(ValueError, match="page"):
            SemClassifier.Params.model_validate({"page": wrong})


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_a_parameter_chooses_the_frame_of_an_animation(kind: str) -> None:
    data = pictures.frames(kind, 5)
    assert level(data) == (0, "1 of 5")
    found, frame = level(data, 4)
    assert abs(found - 3 * 37) <= 2
    assert frame == "4 of 5"


def test_a_page_that_is_not_there_is_refused_with_the_number_of_pages() -> None:
    for data, words in (
        (write_pages([PREVIEW, PICTURE]), "has 2 pages and no page 3"),
        (write(*PICTURE), "has one page and no page 3"),
        (pictures.encode(pictures.gradient(), "PNG"), "has one page and no page 3"),
        (pictures.encode(pictures.gradient(), "JPEG"), "has one page and no page 3"),
    ):
        with pytest.raises(ImageUndecodable, match=words):
            read_pixels(data, SETTINGS, 3)


def test_only_pages_that_are_read_count_against_the_limits() -> None:
    many = write_pages([page(index % 250, 8, 8) for index in range(150)])
    assert level(many) == (0, "1 of 150")
    assert level(many, 150) == (149, "150 of 150")
    small = Settings(image_max_pixels=1000)
    large_beside = write_pages([page(50, 80, 90, reduced=1), page(200, 20, 30)])
    assert read_pixels(large_beside, small).how["frame"] == "2 of 2"
    with pytest.raises(ImageTooLarge, match="at most 1,000"):
        inspect(large_beside, small, page=1)
    assert inspect(many, SETTINGS).pixels == 64


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_frames_before_the_one_that_is_read_count_against_the_limit(kind: str) -> None:
    data = pictures.frames(kind, 80)
    assert level(data)[1] == "1 of 80"
    assert level(data, 64)[1] == "64 of 80"
    with pytest.raises(ImageUndecodable, match="only the first 64 frames"):
        read_pixels(data, SETTINGS, 65)


def test_planes_behind_one_directory_are_pages() -> None:
    """ImageJ writes stacks of more than 4 GB so, MetaMorph all."""
    planes = [np.full((40, 60), shade, np.uint16) for shade in (100, 200, 300)]
    planes[1][:20] = 0
    for tags in ({270: (2, b"ImageJ=1.53t\nimages=3\nslices=3\n\0")}, {33629: (5, [0, 1] * 3)}):
        data = write(planes[0], Kind(16, tags=tags)) + bytes(2)
        at = tifffile.TiffFile(io.BytesIO(data)).pages.first.dataoffsets[0]
        stack = b"".join(plane.tobytes() for plane in planes)
        moved = bytearray(data + stack)  # the planes go to the end of the file
        place = moved.index(struct.pack("<HHII", 273, 4, 1, at)) + 8
        moved[place : place + 4] = struct.pack("<I", len(data))
        pixels = read_pixels(bytes(moved), SETTINGS)
        assert pixels.how["frame"] == "1 of 3"
        assert pixels.how["window"] == [100.0, 100.0]
        assert read_pixels(bytes(moved), SETTINGS, 2).how["window"] == [0.0, 200.0]
        assert read_pixels(bytes(moved), SETTINGS, 3).how["window"] == [300.0, 300.0]
        with pytest.raises(ImageUndecodable, match="truncated"):
            read_pixels(bytes(moved[:-4000]), SETTINGS, 3)


def test_planes_that_also_have_directories_are_counted_once() -> None:
    tags = {270: (2, b"ImageJ=1.53t\nimages=3\nslices=3\n\0")}
    data = write_pages([page(200, tags=tags), page(50), page(60)])
    assert level(data) == (200, "1 of 3")
    assert level(data, 2) == (50, "2 of 3")


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("big", [False, True])
def test_an_unfinished_file_is_named_so(order: str, big: bool) -> None:
    data = bytearray(write(PICTURE[0], Kind(order=order, big=big)))
    place, size = (8, 8) if big else (4, 4)
    unfinished = data.copy()
    unfinished[place : place + size] = bytes(size)
    with pytest.raises(ImageUnreadable, match=r"not finished by the instrument.*names no directory"):
        inspect(bytes(unfinished), SETTINGS)
    for length in (place + size, len(data) // 2):
        with pytest.raises(ImageUnreadable, match="cut off, or was not finished by the instrument"):
            inspect(bytes(data[:length]), SETTINGS)


def test_a_chain_that_leaves_the_file_or_turns_back_ends_there() -> None:
    data = bytearray(write_pages([PICTURE, PREVIEW, page(60)]))
    second = tifffile.TiffFile(io.BytesIO(bytes(data))).pages[1].offset
    link = second + 2 + 12 * struct.unpack_from("<H", data, second)[0]
    for place in (second, 8, len(data) + 100, len(data) - 1, 2**32 - 1):
        data[link : link + 4] = struct.pack("<I", place)
        found, frame = level(bytes(data))
        assert found == 200
        assert frame.startswith("1 of ")
        assert frame.endswith(", others are cut off or damaged") == (place != second)
        assert inspect(bytes(data), SETTINGS).frames <= 3


@pytest.mark.parametrize("order", "<>")
def test_a_preview_whose_picture_is_cut_off_is_not_classified(order: str) -> None:
    preview, picture = page(50, 10, 15, reduced=1, order=order), page(200, order=order)
    behind = write_pages([preview, picture])
    below = write_pages([preview, page(200, reduced=0, order=order)], {0: [1]})
    # Of the second file the SubIFD is written first: its place is moved behind the end.
    at = next(at for at in range(len(below)) if below.startswith(struct.pack(order + "HHI", 330, 4, 1), at)) + 8
    moved = below[:at] + struct.pack(order + "I", len(below) + 8) + below[at + 4 :]
    second = tifffile.TiffFile(io.BytesIO(behind)).pages[1].offset
    for data in (behind[:second], behind[: second + 20], moved):
        with pytest.raises(ImageUnreadable, match="a preview or mask is there and the picture itself is not"):
            inspect(data, SETTINGS)


def chain(directories: int, tags: int) -> bytes:
    """Many directories of many tags, one behind the other."""
    size = 2 + 12 * tags + 4
    out = bytearray(b"II*\0" + struct.pack("<I", 8))
    entries = b"".join(struct.pack("<HHII", 256 + index, 4, 1, 8) for index in range(tags))
    for index in range(directories):
        following = 8 + (index + 1) * size if index + 1 < directories else 0
        out += struct.pack("<H", tags) + entries + struct.pack("<I", following)
    return bytes(out)


HOSTILE = {
    "40 MB of directories": lambda: chain(800, 4096),
    "a directory for every 30 bytes": lambda: chain(1_000_000, 2),
    "SubIFDs of SubIFDs": lambda: write_pages([page(1, tags={330: (4, [8] * 60_000)})]),
    "a description of 4 GB": lambda: pictures.tiff_of([(256, 4, 1, 8), (257, 4, 1, 8), (270, 2, 2**32 - 1, 8)]),
    "a thousand million planes": lambda: write(np.zeros((8, 8), np.uint8), Kind(tags={33629: (5, [1, 1] * 10_000)})),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_the_look_at_a_hostile_chain_of_pages_is_bounded(name: str) -> None:
    data = HOSTILE[name]()
    began = time.process_time()
    try:
        header = inspect(data, SETTINGS)
    except ServiceError:
        header = None
    assert time.process_time() - began < 0.5
    assert header is None or header.frames <= 20_000


def test_the_size_that_the_gateway_accepted_is_the_size_that_is_decoded() -> None:
    """Both look with the same code; the decoder's own numbers are held against the limit once more."""
    small = Settings(image_max_pixels=100)
    with pytest.raises(ImageUndecodable, match="at most 100"):
        read_pixels(write_pages([page(1, 5, 5), page(2, 50, 50)]), small)
    assert read_pixels(write_pages([page(1, 5, 5), page(2, 50, 50)]), small, 1).array.shape == (5, 5)


def test_no_file_beside_the_upload_is_opened() -> None:
    """OME-TIFF and others name companion files; a TIFF of a stranger must not make us read them."""
    xml = b"""<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">
    <Pixels ID="P:0" DimensionOrder="XYZCT" Type="uint8" SizeX="64" SizeY="64" SizeZ="2" SizeC="1" SizeT="1">
    <TiffData IFD="0" FirstZ="1"><UUID FileName="/etc/passwd">urn:uuid:1</UUID></TiffData></Pixels></Image></OME>\0"""
    data = write(np.zeros((64, 64), np.uint8), Kind(tags={270: (2, xml)}))
    opened: list[object] = []
    sys.addaudithook(lambda event, args: opened.append(args[0]) if event == "open" and watching else None)
    watching = True
    try:
        pixels = read_pixels(data, SETTINGS)
    finally:
        watching = False
    assert pixels.how["frame"] == "1 of 1"
    assert not opened
