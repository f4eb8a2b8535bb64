"""The report as text: a summary for a terminal, and CSV for a spreadsheet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from serve_app.contracts import Json
from serve_app.texts import csv_row, one_line
from serve_app.usage.report.statements import OTHERS

BAR_WIDTH = 28
SHOWN = 10
BUCKETS_SHOWN = 12
NAME_WIDTH = 34
LATENCIES = ("latency_p50_ms", "latency_p95_ms", "latency_p99_ms")
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


def write_summary(report: Json) -> str:
    """The summary for a terminal: the source system's sections, then outcomes and latency. No newline at the end."""
    total, failed = report["total"], report["error_count"]
    first, last = (report[name] or "no data" for name in ("coverage_start", "coverage_end"))
    lines = [
        "Model Inference Service API Usage Summary",
        f"Generated UTC: {report['generated_at_utc']}",
        f"Timezone: {report['timezone']} | Bucket: {report['bucket']}",
        f"Coverage: {first} -> {last}",
        "",
        f"Total requests: {total}",
        f"Unique users  : {report['unique_users']}",
        f"Errors        : {failed} ({share(failed, total)})",
    ]
    sections = {
        "Endpoint mix": report["endpoint_counts"],
        "Status health": report["status_counts"],
        "Top users": report["user_counts"],
    }
    for title, rows in sections.items():
        lines += ["", *_bars(title, [(row["name"], row["n"]) for row in rows[:SHOWN]])]
        if others := total - sum(row["n"] for row in rows[:SHOWN]):
            lines.append(f"  {OTHERS:{NAME_WIDTH}} {others:6d}")
    latest = [(row["bucket"], row["n"]) for row in report["time_buckets"]][-BUCKETS_SHOWN:]
    lines += ["", *_bars("Recent activity by bucket", latest)]
    lines += ["", "Recent requests:", *(_recent(report["recent"]) or ["  (none)"])]
    for title in ("models", "groups", "users"):
        lines += ["", f"Outcomes and latency by {title.removesuffix('s')}:", *_table(report[title])]
    return "\n".join([*lines, "", "Data quality notes:", *(f"  - {note}" for note in report["notes"])])


def share(part: int, total: int) -> str:
    """A percentage; 0.0% of nothing."""
    return f"{part / total:.1%}" if total else "0.0%"


def _bars(title: str, rows: Sequence[tuple[str, int]]) -> Iterator[str]:
    yield f"{title}:"
    if not rows:
        yield "  (none)"
    most = max((count for _, count in rows), default=0)
    for name, count in rows:
        bar = "#" * max(1, round(count / most * BAR_WIDTH))
        yield f"  {one_line(name)[:NAME_WIDTH]:{NAME_WIDTH}} {count:6d}  {bar}"


def _recent(rows: Sequence[Json]) -> list[str]:
    return [
        f"  {row['timestamp']}  {one_line(row['username'])[:18]:18} {one_line(row['endpoint_type'])[:12]:12} "
        f"{'<null>' if row['status_code'] is None else row['status_code']} {one_line(row['url_path'])}"
        for row in rows
    ]


def _table(rows: Sequence[Json]) -> Iterator[str]:
    if not rows:
        yield "  (none)"
        return
    yield (
        f"  {'':24} {'requests':>9} {'errors':>7} {'done':>7} {'failed':>6} {'cancel':>6} {'dead':>5}"
        f" {'p50 ms':>8} {'p95 ms':>8} {'p99 ms':>8} {'MB':>9} {'compute s':>10}"
    )
    for row in rows[:SHOWN]:
        times = " ".join(f"{'-' if row[key] is None else row[key]:>8}" for key in LATENCIES)
        yield (
            f"  {one_line(row['name'])[:24]:24} {row['requests']:9} {row['errors']:7} {row['completed']:7}"
            f" {row['failed']:6} {row['cancelled']:6} {row['dead']:5} {times} {row['bytes'] / 1e6:9.1f}"
            f" {row['compute_seconds']:10.1f}"
        )
    if len(rows) > SHOWN:
        yield f"  (first {SHOWN}; --csv has them all)"


def write_csv(report: Json) -> str:
    """One row per user, group and model; the column `by` tells the three apart."""
    start, end = report["requested_start_utc"] or "", report["requested_end_utc"]
    lines = [csv_row(["window_start_utc", "window_end_utc", "by", *COLUMNS])]
    for by, table in (("user", "users"), ("group", "groups"), ("model", "models")):
        lines += [csv_row([start, end, by, *(row[name] for name in COLUMNS)]) for row in report[table]]
    return "".join(lines)
