"""Which pictures a TIFF file holds and which is the main one, read without a decoder in a bounded number of steps.

TIFF 6.0 and BigTIFF. Instruments and programs store previews, thumbnails, masks and rendered copies
before the picture (JEOL, DNG) or after it, in the main chain of directories or in SubIFDs.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from serve_app.errors import ImageUnreadable

MAX_TAGS = 4096
"""Tags in one directory; real files have tens."""
MAX_WORK = 100_000
"""Most tags read in one file, at worst 40 ms. Later directories are counted and not compared."""
DIRECTORY_WORK = 16
"""Cost of a directory besides its tags, in tags."""
MAX_DIRECTORIES = 20_000
MAX_SUB_DIRECTORIES = 64
"""SubIFDs followed per directory; pyramids have ten."""

SUBFILE, OLD_SUBFILE, WIDTH, HEIGHT, PHOTOMETRIC, DESCRIPTION, SUB_DIRECTORIES, STK_PLANES = (
    254, 255, 256, 257, 262, 270, 330, 33629,
)  # fmt: skip
WANTED = frozenset((SUBFILE, OLD_SUBFILE, WIDTH, HEIGHT, PHOTOMETRIC, DESCRIPTION, SUB_DIRECTORIES, STK_PLANES))
REDUCED, MASK = 1, 4
"""Bits of NewSubfileType."""
TRANSPARENCY_MASK = 4
"""Photometric interpretation of a mask."""
INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
IMAGEJ_PLANES = re.compile(rb"\AImageJ=[^\0]*?\nimages=(\d{1,9})")

OUTSIDE = (struct.error, IndexError, OverflowError)
"""Exceptions of reading beyond the file; the last for BigTIFF offsets from 2^63."""


@dataclass(frozen=True, slots=True)
class Directory:
    """One TIFF directory. `planes` pictures of its size lie one after the other from the start of its data."""

    place: int
    width: int
    height: int
    secondary: bool = False
    """A picture of reduced resolution or a mask, by its tags."""
    planes: int = 1


@dataclass(frozen=True, slots=True)
class TiffPages:
    """The compared directories of a file, and its number of pages."""

    directories: tuple[Directory, ...]
    count: int
    lost: bool = False
    """A directory lies beyond the end of the file or is damaged."""

    def meant(self) -> int:
        """The number of the largest picture that is not a preview, thumbnail or mask; the first of equals.

        Raises `ImageUnreadable` if pages are lost and only previews and masks are left.
        """
        main = [index for index, page in enumerate(self.directories) if not page.secondary and page.width * page.height]
        if self.lost and not main:
            raise ImageUnreadable(
                "The TIFF file is cut off or damaged: a preview or mask is there and the picture itself is not. Send "
                "the whole file."
            )
        order = main or range(len(self.directories))
        best = max(order, key=lambda index: (self.directories[index].width * self.directories[index].height, -index))
        return best + 1

    def page(self, number: int) -> tuple[Directory, int]:
        """The directory of page `number`, and the index of the plane in it, from 0."""
        if self.directories[0].planes > 1 and len(self.directories) == 1:
            return self.directories[0], number - 1
        if number > len(self.directories):
            raise ImageUnreadable(f"Only the first {len(self.directories)} pages of this file can be chosen.")
        return self.directories[number - 1], 0


@dataclass(frozen=True, slots=True)
class _Kind:
    order: str
    count: str
    """Format of the number of tags in a directory."""
    entry: str
    """Format of tag, type, value count, and value or offset."""
    place: str
    """Format of an offset."""


def _kind(data: bytes) -> _Kind:
    order = "<" if data.startswith(b"II") else ">"
    if 43 in data[2:4]:
        return _Kind(order, order + "Q", order + "HHQ8s", order + "Q")
    return _Kind(order, order + "H", order + "HHI4s", order + "I")


def read_pages(data: bytes) -> TiffPages:
    """The pages of a TIFF file: first the main chain in its order, then full-size pictures in SubIFDs.

    Raises `ImageUnreadable` if the first directory is damaged or missing, as in an unfinished file. A chain that later
    leaves the file or forms a loop ends there.
    """
    kind = _kind(data)
    (place,) = struct.unpack_from(kind.place, data, 8 if kind.place[1] == "Q" else 4)
    if place < 8:
        raise ImageUnreadable(
            "The TIFF file was not finished by the instrument or program that wrote it: its header names no directory, "
            "so no picture can be found in it. Save or export it again."
        )
    if place + struct.calcsize(kind.count) > len(data):
        raise ImageUnreadable(
            f"The TIFF file is cut off, or was not finished by the instrument: its directory should be at byte "
            f"{place:,} and the file ends at byte {len(data):,}. Send the whole file."
        )
    reader = _Reader(data, kind)
    found = [reader.directory(place)]
    seen, following, counted, lost = {place}, reader.following, 1, False
    while following and following not in seen and counted < MAX_DIRECTORIES:
        seen.add(following)
        try:
            if reader.left > 0:
                found.append(reader.directory(following))
            else:
                reader.pass_over(following)
        except (*OUTSIDE, ImageUnreadable):
            lost = True
            break
        counted += 1
        following = reader.following
    if counted == 1 and found[0].planes > 1:
        return TiffPages(tuple(found), found[0].planes)
    if counted == len(found):
        within, missed = _sub_pictures(reader, seen)
        return TiffPages((*found, *within), counted + len(within), lost or missed)
    return TiffPages(tuple(found), counted, lost)


def _sub_pictures(reader: _Reader, seen: set[int]) -> tuple[list[Directory], bool]:
    """The full-size pictures in SubIFDs, and whether any SubIFD could not be read."""
    pictures: list[Directory] = []
    missed = False
    for place in reader.below:
        if place in seen or reader.left <= 0:
            continue
        seen.add(place)
        try:
            picture = reader.directory(place)
        except (*OUTSIDE, ImageUnreadable):
            missed = True
            continue
        if not picture.secondary and picture.width * picture.height:
            pictures.append(picture)
    return pictures, missed


class _Reader:
    """Reads directories; keeps the next offset, the offsets of SubIFDs and the tags left to read."""

    def __init__(self, data: bytes, kind: _Kind) -> None:
        self._data, self._kind = data, kind
        self.left = MAX_WORK
        self.following = 0
        self.below: list[int] = []

    def directory(self, place: int) -> Directory:
        values: dict[int, tuple[int, int, bytes]] = {}
        start, end = self._limits(place)
        self.left -= DIRECTORY_WORK + (end - start) // struct.calcsize(self._kind.entry)
        for tag, kind, count, value in struct.iter_unpack(self._kind.entry, self._data[start:end]):
            if tag in WANTED:
                values[tag] = (kind, count, value)
        width, height = self._number(values.get(WIDTH)), self._number(values.get(HEIGHT))
        subfile = self._number(values.get(SUBFILE))
        reduced = bool(subfile & REDUCED) or (SUBFILE not in values and self._number(values.get(OLD_SUBFILE)) == 2)
        mask = bool(subfile & MASK) or self._number(values.get(PHOTOMETRIC)) == TRANSPARENCY_MASK
        self.below += self._numbers(values.get(SUB_DIRECTORIES))
        planes = self._planes(values, width * height)
        return Directory(place, width, height, reduced or mask, planes)

    def pass_over(self, place: int) -> None:
        """Only find the next directory."""
        self._limits(place)

    def _limits(self, place: int) -> tuple[int, int]:
        """Start and end of the entries of the directory at `place`; sets `following`."""
        kind = self._kind
        (tags,) = struct.unpack_from(kind.count, self._data, place)
        if tags > MAX_TAGS:
            raise ImageUnreadable(f"The TIFF file has more than {MAX_TAGS} tags in one directory: it is damaged.")
        start = place + struct.calcsize(kind.count)
        end = start + tags * struct.calcsize(kind.entry)
        (self.following,) = struct.unpack_from(kind.place, self._data, end)
        return start, end

    def _number(self, entry: tuple[int, int, bytes] | None) -> int:
        """The single integer of an entry; 0 without one."""
        if entry is None or entry[1] != 1 or entry[0] not in INTEGERS:
            return 0
        try:
            return int(struct.unpack_from(self._kind.order + INTEGERS[entry[0]], entry[2])[0])
        except struct.error:  # an 8-byte value in a 4-byte entry
            return 0

    def _numbers(self, entry: tuple[int, int, bytes] | None) -> list[int]:
        if entry is None or entry[0] not in INTEGERS:
            return []
        letter, count = INTEGERS[entry[0]], min(entry[1], MAX_SUB_DIRECTORIES)
        try:
            if struct.calcsize(letter) * entry[1] <= len(entry[2]):
                return list(struct.unpack_from(f"{self._kind.order}{count}{letter}", entry[2]))
            (place,) = struct.unpack(self._kind.place, entry[2])
            return list(struct.unpack_from(f"{self._kind.order}{count}{letter}", self._data, place))
        except OUTSIDE:
            return []

    def _planes(self, values: dict[int, tuple[int, int, bytes]], pixels: int) -> int:
        """Pictures that share one directory: ImageJ stacks of more than 4 GB, and MetaMorph's STK."""
        planes = values[STK_PLANES][1] if STK_PLANES in values else 1
        if description := values.get(DESCRIPTION):
            (place,) = struct.unpack(self._kind.place, description[2])
            if found := IMAGEJ_PLANES.match(self._data[place : place + min(description[1], 4096)]):
                planes = int(found[1])
        most = len(self._data) // max(1, pixels // 8)
        return max(1, min(planes, most))
