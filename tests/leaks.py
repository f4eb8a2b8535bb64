"""What no log may hold, looked for in log files and in the records of the tests' own process.

What is found is told without being repeated: where, and what sort of thing.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

SUFFIXES: Final = {".log", ".out", ".err"}
PIECE_BYTES: Final = 1 << 20
OVERLAP_BYTES: Final = 4096
"""What is longer and lies across two pieces of a file may be missed."""

SECRETS: Final[Mapping[str, re.Pattern[bytes]]] = {
    "a token": re.compile(rb"eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*"),
    "a bearer's token": re.compile(rb"(?i)bearer\s+[\w.~+/=-]{16,}"),
    "a password in a URL": re.compile(rb"://[^\s/:@]*:[^\s/@*]+@"),
    "a webhook's secret": re.compile(rb"whsec_[\w+/]{16,}"),
    "a private key": re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY"),
    # How PNG, JPEG, GIF, WebP and TIFF begin: as they are, as Python or JSON shows bytes, and in base64.
    "an image": re.compile(
        rb"PNG(?:\r\n|\\r\\n)|\xff\xd8\xff|\xc3\xbf\xc3\x98\xc3\xbf|\\xff\\xd8\\xff|\\u00ff\\u00d8\\u00ff|JFIF"
        rb"|GIF8[79]a|RIFF.{4,24}WEBP|II\*(?:\0|\\x00|\\u0000)|MM(?:\0|\\x00|\\u0000)\*"
        rb"|iVBORw0KGgo|/9j/[2-4]|R0lGOD[dl]h|\bUklGR|\bSUkqA|\bTU0AK[gh]"
    ),
}
FILE_NAME: Final = {"a file name": re.compile(rb"(?i)[\w-]\.(?:png|jpe?g|tiff?|gif|bmp|webp)\b")}
"""Ours alone never name an image file; Ray's may."""


def log_files(folders: Iterable[Path]) -> Iterator[Path]:
    """Every log file below the folders, rotated ones too; a link to another is not a file of its own."""
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink() and SUFFIXES.intersection(path.suffixes):
                yield path


def leaks(folders: Iterable[Path], words: Sequence[str]) -> list[str]:
    """A line for each file and each sort of thing in it: one of the secrets, or of these words."""
    return [f"{path} holds {sort}" for path in log_files(folders) for sort in sorted(_in_file(path, words))]


class LeakScan(logging.Handler):
    """Looks at each record as it comes, as text with its traceback. Keeps what it found, not the records.

    `words` are what the servers of this session keep secret.
    """

    def __init__(self) -> None:
        super().__init__()
        self.words: set[str] = set()
        self._found: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record).encode(errors="backslashreplace")
        self._found.update(f"{record.name} logs {sort}" for sort in _sorts(text, self.words, SECRETS | FILE_NAME))

    def take(self) -> list[str]:
        """What was found since the last time."""
        found, self._found = self._found, set()
        return sorted(found)


def _in_file(path: Path, words: Sequence[str]) -> set[str]:
    end, found = b"", set()
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            found |= _sorts(end + piece, words, SECRETS)
            end = piece[-OVERLAP_BYTES:]
    return found


def _sorts(text: bytes, words: Iterable[str], patterns: Mapping[str, re.Pattern[bytes]]) -> set[str]:
    assert all(words)
    held = {f"a word of {len(word)} letters" for word in words if word.encode() in text}
    return held | {sort for sort, pattern in patterns.items() if pattern.search(text)}
