"""Data-quality notes: what a reader must know of the figures, said only as far as the data bear it out."""

from __future__ import annotations

from serve_app.contracts import Json
from serve_app.usage.report.statements import EXACT_BELOW

PERCENTILE_ERROR = "5 %"
"""Largest error of a percentile from a histogram: its buckets are 10 % wide, and the middle is shown."""


def notes(quality: Json) -> list[str]:
    """Sentences for people, the lasting ones first."""
    said = [
        "Rows come from the gateway: one for each authenticated request to a tracked route. A request without a valid "
        "token leaves none.",
        "Rows are written asynchronously: a response can precede its row by about a second, longer while PostgreSQL "
        "is away.",
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
    """`missing`: of everyone's requests; None in the report of one user, of whom nobody knows how many they were."""
    number = "Requests" if missing is None else _count(missing, "request")
    rest = "how many of them were this user's is not known" if missing is None else "no other figure holds them"
    return (
        f"{number} in {_count(spans, 'span')} that touch this window were counted, not stored one by one, because the "
        f"outbox was full, or Redis was away for longer than a gateway keeps events; {rest}."
    )


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"
