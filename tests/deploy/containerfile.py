"""Reads a Containerfile as a builder does: what it is sent, copies and runs, in which environment and as whom.

What the file calls `/source` is a folder of the test. Nothing is run here; the image itself is built for the cluster of
`make test-cluster`.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parents[2]
CONTAINERFILE = ROOT / "k8s" / "image" / "Containerfile"
IGNORED = [
    line.strip()
    for line in (ROOT / ".containerignore").read_text().splitlines()
    if line.strip() and not line.startswith("#")
]
PREFIX = "/opt/sem-image-classifier"


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Each instruction in upper case and what follows it, comments left out and continued lines joined."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        word, _, rest = line.strip().partition(" ")
        yield word.upper(), rest.strip()


def ignored(path: str) -> bool:
    """Whether a builder leaves `path` out of the context: the last pattern that fits it, or a folder above, decides."""
    parts, out = path.split("/"), False
    ways = ["/".join(parts[:length]) for length in range(1, len(parts) + 1)]
    for pattern in IGNORED:
        wanted = pattern.lstrip("!")
        regex = re.escape(wanted).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
        if any(re.fullmatch(regex, way) for way in ways):
            out = not pattern.startswith("!")
    return out


def context(folder: Path) -> None:
    """What a builder would be sent of this checkout, copied into `folder`."""
    for top, folders, files in os.walk(ROOT):
        here = Path(top).relative_to(ROOT)
        folders[:] = [name for name in folders if name != ".git" and not name.startswith(".venv")]
        for path in (here / name for name in files):
            if not ignored(path.as_posix()):
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / path, folder / path)


@dataclass(frozen=True)
class Run:
    """One `RUN` of the file: its command, who runs it and with which options."""

    command: str
    user: str
    options: tuple[str, ...]


@dataclass
class Image:
    """What a build with these arguments does: every COPY into the folder `source`, every RUN, which is only listed, and
    the labels, the environment and the account of the last stage."""

    source: Path
    arguments: Mapping[str, str] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    user: str = ""

    def build(self, text: str, sent: Path) -> Self:
        """Build from the text of a Containerfile and the folder that a builder was sent."""
        before: dict[str, str] = {}
        values = before  # of the stage
        for word, rest in instructions(text):
            if word == "FROM" and rest.startswith("${"):
                values, self.environment, self.labels, self.user = {}, {}, {}, ""
            elif word == "ARG":
                name, _, default = rest.partition("=")
                values[name] = self.arguments.get(name, default or before.get(name, ""))
            elif word in ("ENV", "LABEL"):
                kept = self.environment if word == "ENV" else self.labels
                kept |= {name: expand(value, {**values, **self.environment}) for name, value in pairs(rest)}
            elif word == "USER":
                self.user = rest
            elif word == "COPY" and not rest.startswith("--from="):
                self._copy(rest.split(), sent)
            elif word == "RUN":
                words = rest.split(" ")
                options = tuple(word for word in words if word.startswith("--"))
                self.runs.append(Run(" ".join(words[len(options) :]), self.user, options))
        return self

    def _copy(self, names: list[str], sent: Path) -> None:
        target = self.source / names[-1]
        for name in names[:-1]:
            if (sent / name).is_dir():
                shutil.copytree(sent / name, target, dirs_exist_ok=True)
            else:
                into = target / Path(name).name if names[-1].endswith("/") else target
                into.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(sent / name, into)


def expand(value: str, values: Mapping[str, str]) -> str:
    known = {"PATH": os.defpath, "PREFIX": PREFIX, **values}
    return re.sub(r"\$\{(\w+)\}", lambda name: known.get(name[1], ""), value)


def pairs(rest: str) -> Iterator[tuple[str, str]]:
    """`NAME=value NAME="value"` of one ENV or LABEL."""
    for word in shlex.split(rest):
        name, _, value = word.partition("=")
        yield name, value
