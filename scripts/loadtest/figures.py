"""What a measurement found: every figure held against targets.toml, and the raw record of the run in build/."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from serve_app.contracts import Json

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"
TARGETS = ROOT / "scripts" / "targets.toml"
MACHINE = f"{platform.machine()} with {os.cpu_count() or 1} processors"


@dataclass(frozen=True)
class Figure:
    """The median of a figure's repetitions, their range, and its target."""

    name: str
    values: Sequence[float]
    at_least: float | None
    at_most: float | None

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def is_short(self) -> bool:
        too_low = self.at_least is not None and self.median < self.at_least
        return too_low or (self.at_most is not None and self.median > self.at_most)

    @property
    def line(self) -> str:
        target = "-"
        if self.at_least is not None:
            target = f">={self.at_least:g}"
        elif self.at_most is not None:
            target = f"<={self.at_most:g}"
        verdict = "short" if self.is_short else "ok"
        return f"{self.name} {self.median:.3g} {target} {verdict}"

    @property
    def spread(self) -> str:
        values = " ".join(f"{value:.3g}" for value in self.values)
        return f"# {self.name}: median {self.median:.3g} of {values}"


def figures(raw: Mapping[str, Sequence[float]], bench: str) -> list[Figure]:
    """Every figure that targets.toml lists for one bench. Raises KeyError for one that was not measured."""
    return [
        Figure(name, raw[name], row.get("at_least"), row.get("at_most"))
        for name, row in tomllib.loads(TARGETS.read_text()).items()
        if row.get("bench", "bench") == bench
    ]


def percentile(ordered: Sequence[float], percent: int) -> float:
    """The smallest of the ordered values that `percent` of them do not exceed (nearest rank)."""
    return ordered[max(0, ceil(len(ordered) * percent / 100) - 1)]


def write_record(bench: str, **content: object) -> Json:
    """Write build/BENCH.json: command, revision, machine and `content`. Returns what the file holds."""
    described = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    revision = subprocess.run(described, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    command = f"make {bench}" + (f" ARGS='{' '.join(sys.argv[1:])}'" if sys.argv[1:] else "")
    BUILD.mkdir(exist_ok=True)
    file = BUILD / f"{bench}.json"
    file.write_text(json.dumps({"command": command, "revision": revision, "machine": MACHINE, **content}, indent=1))
    record: Json = json.loads(file.read_text())
    return record


def report(found: Sequence[Figure]) -> int:
    """Print one line per figure, after the repetitions of those that have several; 1 when a figure is short, else 0."""
    repetitions = [figure.spread for figure in found if len(figure.values) > 1]
    print(*repetitions, *(figure.line for figure in found), sep="\n")
    return int(any(figure.is_short for figure in found))
