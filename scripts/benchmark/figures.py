"""From raw repetitions to one line per figure: `name value target ok|short`."""

from __future__ import annotations

import statistics
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TARGETS = Path(__file__).resolve().parents[1] / "targets.toml"


@dataclass(frozen=True)
class Figure:
    """The median of a figure's repetitions, their range, and what is asked of it."""

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


def figures(raw: Mapping[str, Sequence[float]], targets: Path = TARGETS, bench: str = "bench") -> list[Figure]:
    """Every figure that the table of targets wants of one bench. Raises KeyError for one that was not measured."""
    table = tomllib.loads(targets.read_text())
    return [
        Figure(name, raw[name], row.get("at_least"), row.get("at_most"))
        for name, row in table.items()
        if row.get("bench", "bench") == bench
    ]
