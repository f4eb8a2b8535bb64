"""The report as one HTML file without scripts or external fonts and pictures; Jinja escapes every value."""

from __future__ import annotations

from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from serve_app.contracts import Json
from serve_app.usage.report import charts
from serve_app.usage.report.statements import OTHERS
from serve_app.usage.report.text import LATENCIES, share

SHOWN: Final = 12
"""Rows of a chart before the rest becomes one row."""

_templates = Environment(
    loader=PackageLoader("serve_app.usage.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.filters.update(
    milliseconds=charts.milliseconds, size=charts.size, duration=charts.duration, compact=charts.compact
)


def write_page(report: Json) -> str:
    """The page, for small and large screens, print and dark mode."""
    total = report["total"]
    counted = {
        "Endpoint Mix": ("endpoint_counts", "endpoint"),
        "Status Health": ("status_counts", "status"),
        "Top Users": ("user_counts", "user"),
        "Top Paths": ("path_counts", "path"),
    }
    return _templates.get_template("report.html").render(
        report=report,
        error_rate=share(report["error_count"], total),
        timelines=_timelines(report),
        counted=[
            {"title": title, "kind": kind, "rows": charts.bars(report[key], total, SHOWN, OTHERS)}
            for title, (key, kind) in counted.items()
        ],
        heatmap_cells=charts.heatmap(report["hour_heatmap"]),
        days=charts.DAYS,
        tables=[
            {"kind": kind, **_table(report[key])}
            for kind, key in (("model", "models"), ("group", "groups"), ("user", "users"))
        ],
    )


def _timelines(report: Json) -> dict[str, charts.Timeline]:
    """Drawn twice, for wide and narrow pages: labels that shrink with the drawing would be unreadable."""
    if not report["time_buckets"]:
        return {}
    arguments = (report["time_buckets"], report["bucket"])
    return {
        "wide": charts.timeline(*arguments, width=1060, most=120, ticks=8, timezone=report["timezone"]),
        "narrow": charts.timeline(*arguments, width=340, most=40, ticks=3, timezone=report["timezone"]),
    }


def _table(rows: list[Json]) -> dict[str, Any]:
    """The first rows of a table, the rest as one row, and the scales of its charts."""
    shown = [*rows[:SHOWN], *_others(rows[SHOWN:])]
    times = [row[key] for row in shown for key in LATENCIES if row[key] is not None]
    runs = [sum(row[end] for end in ("completed", "failed", "cancelled", "dead")) for row in shown]
    scale = charts.LatencyScale(times)
    return {"rows": shown, "scale": scale, "has_latency": bool(times), "most_runs": max(runs, default=0)}


def _others(rows: list[Json]) -> list[Json]:
    if not rows:
        return []
    summed = {
        key: sum(row[key] for row in rows)
        for key in ("requests", "errors", "completed", "failed", "cancelled", "dead", "bytes", "compute_seconds")
    }
    return [{"name": OTHERS, "id": None, **dict.fromkeys(LATENCIES), **summed}]
