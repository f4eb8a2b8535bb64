"""What a stress run showed, as people and scripts read it."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Final

FAILURES_SHOWN: Final = 8
WIDTH: Final = 18


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request and, where it was polled, its job. `fault` is None for a success."""

    endpoint: str
    user: str
    status: str
    seconds: float
    job_status: str = ""
    job_seconds: float = 0.0
    fault: str | None = None


@dataclass
class Tally:
    """Counts, and eight bytes for each latency, however long the run."""

    seconds: float = 0.0
    endpoints: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    users: Counter[str] = field(default_factory=Counter)
    jobs: Counter[str] = field(default_factory=Counter)
    latencies: array[float] = field(default_factory=lambda: array("d"))
    job_latencies: array[float] = field(default_factory=lambda: array("d"))
    failed: int = 0
    failures: list[str] = field(default_factory=list)
    """The first few."""

    @property
    def total(self) -> int:
        return len(self.latencies)

    def add(self, attempt: Attempt) -> None:
        """Count one attempt."""
        self.endpoints[attempt.endpoint] += 1
        self.statuses[attempt.status] += 1
        self.users[attempt.user] += 1
        self.latencies.append(attempt.seconds)
        if attempt.job_status:
            self.jobs[attempt.job_status] += 1
            self.job_latencies.append(attempt.job_seconds)
        if attempt.fault is not None:
            self.failed += 1
            if len(self.failures) < FAILURES_SHOWN:
                self.failures.append(f"{attempt.endpoint} by {attempt.user}: {attempt.fault}")

    def report(self) -> str:
        """The whole summary."""
        lines = ["Stress test complete"]
        lines += _row("Total requests", str(self.total))
        lines += _row("Success", str(self.total - self.failed))
        lines += _row("Failed", str(self.failed))
        lines += _row("Elapsed/s", f"{self.seconds:.3f}")
        lines += _row("Throughput req/s", f"{self.total / self.seconds:.1f}")
        lines += _latencies("Latency", self.latencies)
        lines += _latencies("Job", self.job_latencies)
        lines += _counts("By endpoint", self.endpoints)
        lines += _counts("By status", self.statuses)
        lines += _counts("By user", self.users)
        lines += _counts("By job status", self.jobs)
        if self.failures:
            lines += ["", f"Sample failures ({len(self.failures)} of {self.failed})"]
            lines += [f"  {failure}" for failure in self.failures]
        return "\n".join(lines)


def percentile(ordered: Sequence[float], percent: int) -> float:
    """The smallest of the ordered values that `percent` of them do not exceed (nearest rank)."""
    return ordered[max(0, ceil(len(ordered) * percent / 100) - 1)]


def _latencies(name: str, values: Sequence[float]) -> list[str]:
    ordered = sorted(values)
    if not ordered:
        return []
    rows = _row(f"{name} min/s", f"{ordered[0]:.3f}")
    for percent in (50, 95, 99):
        rows += _row(f"{name} p{percent}/s", f"{percentile(ordered, percent):.3f}")
    return rows + _row(f"{name} max/s", f"{ordered[-1]:.3f}")


def _counts(title: str, counts: Counter[str]) -> list[str]:
    if not counts:
        return []
    width = max(WIDTH - 2, *map(len, counts))
    return ["", title, *(f"  {name:<{width}}{count:>8}" for name, count in counts.most_common())]


def _row(name: str, value: str) -> list[str]:
    return [f"{name:<{WIDTH}}{value:>8}"]
