"""The report as one JSON object: the keys of the source system's, and the figures and notes that are new."""

from __future__ import annotations

from datetime import UTC, datetime

from serve_app.contracts import Json
from serve_app.usage.report import statements, tables
from serve_app.usage.report.clock import BUCKETS, Clock
from serve_app.usage.report.notes import notes
from serve_app.usage.report.sources import Source
from serve_app.usage.report.statements import Scope
from serve_app.usage.report.window import ReportError, Window


def make_report(
    source: Source,
    window: Window,
    *,
    principal_id: str | None = None,
    recent_limit: int = 25,
    most_names: int = statements.TOP,
) -> Json:
    """Read and compute everything: everyone's usage, or one principal's with nothing of others in it.

    `most_names`: lines of a table by user, group or model before `<others>`. Raises `ReportError`.
    """
    asked = _statements(Scope(window, principal_id), recent_limit, most_names)
    answers = dict(zip(asked, source.read(list(asked.values())), strict=True))
    if len(answers["time_buckets"]) > statements.MOST_BUCKETS:
        raise ReportError(
            f"by the {window.bucket} this window has more than {statements.MOST_BUCKETS} parts; take a larger bucket"
        )
    _name_times(answers, window)
    overview, gaps, everything = (answers.pop(name) for name in ("overview", "gaps", "all"))
    by = {name: answers.pop(name)["rows"] for name in ("users", "groups", "models")}
    sums = {key: overview[key] for key in ("coverage_start", "coverage_end", "total", "unique_users", "error_count")}
    [line] = everything["rows"] or [None]
    quality = {
        "null_status": overview["null_status"],
        "unknown_users": overview["unknown_users"],
        # Whose they were is not known.
        "requests_counted_not_stored": gaps["missing"] if principal_id is None else None,
        "gaps": gaps["spans"],
        "requests_pruned_at_the_edges": overview["pruned_edge"],
        "requests_not_in_the_timeline": overview["total"] - sum(row["n"] for row in answers["time_buckets"]),
        "percentiles": "exact" if everything["is_exact"] else "histogram",
    }
    report = {**_head(window), **sums, **answers, "all": line, **by, "quality": quality}
    return report | {"notes": notes(quality)}


def _name_times(answers: Json, window: Window) -> None:
    """Every time in the answers as the window's clock shows it."""
    clock, overview = Clock(window.timezone), answers["overview"]
    for bucket in answers["time_buckets"]:
        bucket["bucket"] = clock.shown(bucket["bucket"], BUCKETS[window.bucket])
    for row in answers["recent"]:
        row["timestamp"] = clock.shown(row["timestamp"])
    for name in ("coverage_start", "coverage_end"):
        overview[name] = clock.shown(overview[name])


def _head(window: Window) -> Json:
    return {
        "generated_at_utc": _stamp(datetime.now(UTC)),
        "timezone": window.timezone,
        "bucket": window.bucket,
        "requested_start_utc": window.since and _stamp(window.since),
        "requested_end_utc": _stamp(window.until),
    }


def _statements(scope: Scope, recent_limit: int, most_names: int) -> dict[str, str]:
    top, many = statements.TOP, statements.MANY
    return {
        "overview": statements.overview(scope),
        "endpoint_counts": statements.counts(scope, "coalesce(NULLIF(endpoint_type, ''), '<unknown>')", many),
        "status_counts": statements.counts(scope, "coalesce(status_code::text, '<null>')", many, by_name=True),
        "user_counts": statements.people(scope, top),
        "path_counts": statements.counts(scope, "url_path", top),
        "time_buckets": statements.timeline(scope),
        "hour_heatmap": statements.heatmap(scope),
        "recent": statements.recent(scope, recent_limit),
        "gaps": statements.gaps(scope),
        "all": tables.by(tables.ALL, scope, 1),
        "users": tables.by(tables.USERS, scope, most_names),
        "groups": tables.by(tables.GROUPS, scope, most_names),
        "models": tables.by(tables.MODELS, scope, most_names),
    }


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
