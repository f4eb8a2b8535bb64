"""The report as one JSON object: the keys of the source system's, and the figures and notes that are new."""

from __future__ import annotations

from datetime import UTC, datetime

from serve_app.contracts import Json
from serve_app.usage.report import statements, tables
from serve_app.usage.report.notes import notes
from serve_app.usage.report.sources import Source
from serve_app.usage.report.window import ReportError, Window


def make_report(source: Source, window: Window, *, recent_limit: int = 25, most_names: int = statements.TOP) -> Json:
    """Read and compute everything. `most_names`: lines of a table by user, group or model before `<others>`.

    Raises `ReportError`.
    """
    asked = _statements(window, recent_limit, most_names)
    answers = dict(zip(asked, source.read(list(asked.values())), strict=True))
    if len(answers["time_buckets"]) > statements.MOST_BUCKETS:
        raise ReportError(
            f"by the {window.bucket} this window has more than {statements.MOST_BUCKETS} parts; take a larger --bucket"
        )
    overview = answers.pop("overview")
    everything = answers.pop("all")
    by = {name: answers.pop(name)["rows"] for name in ("users", "groups", "models")}
    gaps = answers.pop("gaps")
    sums = {key: overview[key] for key in ("coverage_start", "coverage_end", "total", "unique_users", "error_count")}
    [line] = everything["rows"] or [None]
    quality = {
        "null_status": overview["null_status"],
        "unknown_users": overview["unknown_users"],
        "requests_counted_not_stored": gaps["missing"],
        "gaps": gaps["spans"],
        "requests_pruned_at_the_edges": overview["pruned_edge"],
        "requests_not_in_the_timeline": overview["total"] - sum(row["n"] for row in answers["time_buckets"]),
        "percentiles": "exact" if everything["is_exact"] else "histogram",
    }
    return {
        "generated_at_utc": _stamp(datetime.now(UTC)),
        "timezone": window.timezone,
        "bucket": window.bucket,
        "requested_start_utc": window.since and _stamp(window.since),
        "requested_end_utc": _stamp(window.until),
        **sums,
        **answers,
        "all": line,
        **by,
        "quality": quality,
        "notes": notes(quality),
    }


def _statements(window: Window, recent_limit: int, most_names: int) -> dict[str, str]:
    top, many = statements.TOP, statements.MANY
    return {
        "overview": statements.overview(window),
        "endpoint_counts": statements.counts(window, "coalesce(NULLIF(endpoint_type, ''), '<unknown>')", many),
        "status_counts": statements.counts(window, "coalesce(status_code::text, '<null>')", many, by_name=True),
        "user_counts": statements.counts(window, "coalesce(NULLIF(username, ''), '<unknown>')", top),
        "path_counts": statements.counts(window, "url_path", top),
        "time_buckets": statements.timeline(window),
        "hour_heatmap": statements.heatmap(window),
        "recent": statements.recent(window, recent_limit),
        "gaps": statements.gaps(window),
        "all": tables.by(tables.ALL, window, 1),
        "users": tables.by(tables.USERS, window, most_names),
        "groups": tables.by(tables.GROUPS, window, most_names),
        "models": tables.by(tables.MODELS, window, most_names),
    }


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
