"""The table of docs/reliability.md, written from the raw record."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmark.figures import Figure

from reliability.faults import FAULTS
from reliability.verdict import Summary, measured, summarise
from serve_app.contracts import Json

BEGIN, END = "<!-- make chaos: begin -->", "<!-- make chaos: end -->"
HEAD = "| Fault | Jobs | Failed submits | Answers lost | Jobs lost | Started again | Most deliveries | Last job after |"


def write(page: Path, record: Json) -> None:
    """Put the table of this run between the marks of the page."""
    text = page.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    page.write_text(f"{before}{BEGIN}\n\n{_section(record)}\n\n{END}{after}")


def _section(record: Json) -> str:
    summaries = [summarise(trial) for trial in record["trials"]]
    day = datetime.fromtimestamp(record["started_at"], UTC).strftime("%d %B %Y")
    jobs = sum(each.jobs for each in summaries)
    about = (
        f"{jobs:,} jobs in {record['seconds'] / 60:.0f} minutes on {day}, {record['machine']}, revision "
        f"`{record['revision']}`, `{record['command']}`."
    )
    rows = [HEAD, "|---|" + "---:|" * 7, *map(_row, summaries)]
    return "\n".join([about, "", *rows, "", *_figures(measured(record["trials"]))])


def _row(each: Summary) -> str:
    what = (FAULTS[each.fault].__doc__ or "").rstrip(".")
    numbers = (each.jobs, each.failed_submits, each.unseen, each.lost, each.redelivered, each.most_deliveries)
    return " | ".join([f"| {what}", *map(str, numbers), f"{each.recovered_s:.1f} s |"])


def _figures(found: Sequence[Figure]) -> list[str]:
    return ["```", *(figure.line for figure in found), "```"]
