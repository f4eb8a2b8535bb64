"""Looks into log files for what must not be there, and tells where without repeating it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

SUFFIXES = {".log", ".out", ".err"}
PIECE_BYTES = 1 << 20


def log_files(folders: Iterable[Path]) -> Iterator[Path]:
    """Every log file below the folders, rotated ones too; a link to another is not a file of its own."""
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink() and SUFFIXES.intersection(path.suffixes):
                yield path


def leaks(folders: Iterable[Path], words: Sequence[str]) -> list[str]:
    """A line for each file and each length of the words that it holds."""
    assert all(words)
    needles = {word.encode() for word in words}
    found = []
    for path in log_files(folders):
        lengths = sorted({len(needle) for needle in _held(path, needles)})
        found += [f"{path} holds a word of {letters} letters" for letters in lengths]
    return found


def _held(path: Path, needles: set[bytes]) -> set[bytes]:
    overlap, end, held = max(map(len, needles)), b"", set()
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            held |= {needle for needle in needles if needle in end + piece}
            end = piece[-overlap:]
    return held
