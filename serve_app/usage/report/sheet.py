"""The report as CSV: one line per user, group and model, for a spreadsheet."""

from __future__ import annotations

from typing import Final

from serve_app.contracts import Json
from serve_app.texts import csv_row

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


def write_csv(report: Json) -> str:
    """The tables by user, group and model below each other, told apart by the first column."""
    start, end = report["requested_start_utc"] or "", report["requested_end_utc"]
    lines = [csv_row(["window_start_utc", "window_end_utc", "by", *COLUMNS])]
    for by, table in (("user", "users"), ("group", "groups"), ("model", "models")):
        lines += [csv_row([start, end, by, *(row[name] for name in COLUMNS)]) for row in report[table]]
    return "".join(lines)
