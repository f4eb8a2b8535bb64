"""The measurements of a run, compared with scripts/targets.toml and written to build/test-cluster.json."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import tomllib

from load import Account, Load, as_record
from loadtest.results import TARGETS, Result
from real_cluster import ROOT, Json

FILE = ROOT / "build" / "test-cluster.json"
BENCH = "test-cluster"


class Record:
    """Results and accounts of one run. A result that misses its target fails the test that measured it.

    Without `strict_times`, seconds and minutes are reported and fail nothing, because a busy machine is slow.
    """

    def __init__(self, *, strict_times: bool) -> None:
        self._strict_times = strict_times
        self._rows = {
            name: row for name, row in tomllib.loads(TARGETS.read_text()).items() if row.get("bench") == BENCH
        }
        self.began = time.time()
        """When the run began."""
        self.values: dict[str, list[float]] = {}
        self.scenarios: list[Json] = []
        self.all_s = 0.0
        """How long `scripts/cluster all` took."""

    def measured(self, **values: float) -> None:
        """Keep each value, then assert that every one reaches its target."""
        for name, value in values.items():
            assert name in self._rows, f"scripts/targets.toml has no row {name}"
            self.values.setdefault(name, []).append(float(value))
        counted = {name: value for name, value in values.items() if self._strict_times or _unit(name) == "count"}
        short = [result.line for name, value in counted.items() if (result := self._result(name, [value])).is_short]
        assert not short, "; ".join(short)

    def settled(self, load: Load, *, slowest: str, seen: Json | None = None, **values: float) -> Account:
        """The account of a load: nothing failed, lost or left over, and the slowest job within the row `slowest`.

        `seen` is written beside it for a reader of the file.
        """
        account = load.account()
        self.scenarios.append({"scenario": load.name, "at": time.time(), **as_record(account), **(seen or {})})
        self.measured(
            cluster_failed=account.failed,
            cluster_lost=account.lost,
            cluster_doubled=account.doubled,
            cluster_strays=len(account.strays),
            cluster_rows_missing=account.rows_missing,
            **{slowest: account.slowest_s},
            **values,
        )
        return account

    def lines(self) -> list[str]:
        """One line for each scenario, then one for each result, from its worst value."""
        lines = [
            f"# {one['scenario']}: {one['requests']} requests, {one['failed']} failed, {one['repeated']} repeated, "
            f"{one['broken']} connections broken, away {one['away_s']:.1f} s; {one['accepted']} jobs, "
            f"{one['lost']} lost, {one['redelivered']} delivered again, slowest {one['slowest_s']:.1f} s, "
            f"slowest answer {one['slowest_answer_s']:.1f} s"
            for one in self.scenarios
        ]
        return lines + [self._result(name, [max(values)]).line for name, values in self.values.items()]

    def write(self) -> None:
        """Write everything as JSON."""
        revision = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
        results = {
            name: {"unit": _unit(name), "values": values, **self._rows[name]} for name, values in self.values.items()
        }
        document = {
            "revision": revision.stdout.strip(),
            "command": " ".join(sys.argv),
            "seconds": time.time() - self.began,
            "scenarios": self.scenarios,
            "figures": results,
        }
        FILE.parent.mkdir(parents=True, exist_ok=True)
        FILE.write_text(json.dumps(document, indent=2) + "\n")

    def _result(self, name: str, values: list[float]) -> Result:
        row = self._rows[name]
        return Result(name, values, row.get("at_least"), row.get("at_most"))


def _unit(name: str) -> str:
    return {"s": "seconds", "minutes": "minutes"}.get(name.rpartition("_")[2], "count")
