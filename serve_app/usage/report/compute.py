"""The report as one JSON object: the keys of the source system's report, and those that are new."""

from __future__ import annotations

from datetime import UTC, datetime

from serve_app.contracts import Json
from serve_app.usage.report import statements
from serve_app.usage.report.source import Source
from serve_app.usage.report.statements import EXACT_BELOW, Scope
from serve_app.usage.report.window import BUCKETS, Clock, ReportError, Window

PERCENTILE_ERROR = "5 %"
"""Largest error of a percentile from a histogram: buckets are 10 % wide, and their middle is shown."""


def make_report(
    source: Source,
    window: Window,
    *,
    principal_id: str | None = None,
    recent_limit: int = 25,
    most_names: int = statements.TOP,
) -> Json:
    """Read and compute the report: everyone's usage, or one principal's without any data of others.

    `most_names`: rows of a table by user, group or model before `<others>`. Raises `ReportError`.
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
        # It is not known whose requests they were.
        "requests_counted_not_stored": gaps["missing"] if principal_id is None else None,
        "gaps": gaps["spans"],
        "requests_pruned_at_the_edges": overview["pruned_edge"],
        "requests_not_in_the_timeline": overview["total"] - sum(row["n"] for row in answers["time_buckets"]),
        "percentiles": "exact" if everything["is_exact"] else "histogram",
    }
    report = {**_head(window), **sums, **answers, "all": line, **by, "quality": quality}
    return report | {"notes": notes(quality)}


def _name_times(answers: Json, window: Window) -> None:
    """Write every time in the answers as the window's clock shows it."""
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
        "user_counts": statements.users(scope, top),
        "path_counts": statements.counts(scope, "url_path", top),
        "time_buckets": statements.timeline(scope),
        "hour_heatmap": statements.heatmap(scope),
        "recent": statements.recent(scope, recent_limit),
        "gaps": statements.gaps(scope),
        "all": statements.table_by(statements.ALL, scope, 1),
        "users": statements.table_by(statements.USERS, scope, most_names),
        "groups": statements.table_by(statements.GROUPS, scope, most_names),
        "models": statements.table_by(statements.MODELS, scope, most_names),
    }


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def notes(quality: Json) -> list[str]:
    """Data-quality notes: the general ones first, then those that apply to this report."""
    said = [
        "Rows come from the gateway: one for each authenticated request to a tracked route. A request without a valid "
        "token leaves none.",
        "Rows are written asynchronously: a response can precede its row by about a second, longer while PostgreSQL "
        "cannot be reached.",
        "Job state in Redis and usage in PostgreSQL are separate stores; outcomes are of jobs that ended in the "
        "window, requests of answers given in it.",
    ]
    if quality["gaps"]:
        said.append(_gaps(quality["gaps"], quality["requests_counted_not_stored"]))
    if nulls := quality["null_status"]:
        said.append(f"{_count(nulls, 'request')} without a status; they count as no error.")
    if unknown := quality["unknown_users"]:
        said.append(f"{_count(unknown, 'request')} of users without a name, shown as <unknown>.")
    if pruned := quality["requests_pruned_at_the_edges"]:
        said.append(
            f"The window begins or ends inside an hour whose rows were pruned: none of its {_count(pruned, 'request')} "
            "are counted. Whole hours have them all."
        )
    if absent := quality["requests_not_in_the_timeline"]:
        said.append(
            f"Timeline and heatmap may lack {_count(absent, 'request')} whose rows were pruned: minutes, and clocks "
            "that are not whole hours from UTC, are counted from rows."
        )
    if quality["percentiles"] == "histogram":
        said.append(
            f"Latency percentiles come from hourly histograms, with an error of at most {PERCENTILE_ERROR}: the window "
            f"has {EXACT_BELOW:,} requests or more, or some of its rows were pruned."
        )
    else:
        said.append("Latency percentiles are exact: they come from the rows.")
    return said


def _gaps(spans: int, missing: int | None) -> str:
    """`missing`: of everyone's requests; None in the report of one user, whose share is not known."""
    number = "Requests" if missing is None else _count(missing, "request")
    rest = "how many of them were this user's is not known" if missing is None else "no other number includes them"
    return (
        f"{number} in {_count(spans, 'span')} that touch this window were counted, not stored one by one, because the "
        f"outbox was full, or Redis could not be reached for longer than a gateway keeps events; {rest}."
    )


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"
