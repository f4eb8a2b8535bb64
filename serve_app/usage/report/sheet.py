"""The report as CSV: one line per user, group and model, for a spreadsheet."""

from __future__ import annotations

import csv
import io
from typing import Final

from serve_app.contracts import Json
from serve_app.usage.report.summary import plain

COLUMNS: Final = (
    "name",
    "id",
    "requests",
    "errors",
    "completed",
    "failed",
    "cancelled",
    "dead",
    "latency_p50_ms",
    "latency_p95_ms",
    "latency_p99_ms",
    "bytes",
    "compute_seconds",
)
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def write_csv(report: Json) -> str:
    """The tables by user, group and model below each other, told apart by the first column."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["window_start_utc", "window_end_utc", "by", *COLUMNS])
    start, end = report["requested_start_utc"] or "", report["requested_end_utc"]
    for by, table in (("user", "users"), ("group", "groups"), ("model", "models")):
        for row in report[table]:
            writer.writerow([start, end, by, *(_cell(row[name]) for name in COLUMNS)])
    return text.getvalue()


def _cell(value: str | float | None) -> str | float | None:
    """Text on one line; what a spreadsheet would run as a formula gets an apostrophe before it."""
    if not isinstance(value, str):
        return value
    return f"'{plain(value)}" if value.startswith(_FORMULA) else plain(value)
