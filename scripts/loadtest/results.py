"""Results of a run: one line for each, checked against scripts/targets.toml, and the raw record in build/."""

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
class Result:
    """The values of all repetitions, and the target that their median is compared with."""

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
        return f"{self.name} {self.median:.3g} {target} {'short' if self.is_short else 'ok'}"


def results(raw: Mapping[str, Sequence[float]], bench: str) -> list[Result]:
    """One result for each row that targets.toml has for this bench. Raises KeyError for a row that was not measured."""
    return [
        Result(name, raw[name], row.get("at_least"), row.get("at_most"))
        for name, row in tomllib.loads(TARGETS.read_text()).items()
        if row.get("bench", "bench") == bench
    ]


def percentile(ordered: Sequence[float], percent: int) -> float:
    """The smallest of the ordered values that at least `percent` of them do not exceed (nearest rank)."""
    return ordered[max(0, ceil(len(ordered) * percent / 100) - 1)]


def write_record(bench: str, **content: object) -> Json:
    """Write build/BENCH.json: command, revision, machine and `content`. Returns the record as a reader gets it."""
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    revision = subprocess.run(describe, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    command = f"make {bench}" + (f" ARGS='{' '.join(sys.argv[1:])}'" if sys.argv[1:] else "")
    text = json.dumps({"command": command, "revision": revision, "machine": MACHINE, **content}, indent=1)
    BUILD.mkdir(exist_ok=True)
    (BUILD / f"{bench}.json").write_text(text)
    record: Json = json.loads(text)
    return record


def report(found: Sequence[Result]) -> int:
    """Print the values of repeated results, then one line for each result. Returns 1 when one is short, else 0."""
    for one in found:
        if len(one.values) > 1:
            values = " ".join(f"{value:.3g}" for value in one.values)
            print(f"# {one.name}: median {one.median:.3g} of {values}")
    print(*(one.line for one in found), sep="\n")
    return int(any(one.is_short for one in found))
