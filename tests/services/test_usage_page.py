"""Every section of the HTML report says what the rows say, and says so where there is nothing to say."""

from __future__ import annotations

from datetime import timedelta
from html.parser import HTMLParser

import psycopg
import pytest
from usage_rows import DAY, insert, report

from serve_app.usage.report.page import write_page
from serve_app.usage.report.prune import prune

SECTIONS = [
    *("Traffic Timeline", "Endpoint Mix", "Status Health", "Top Users", "Top Paths"),
    *("Outcomes and Latency by Model", "Outcomes and Latency by Group", "Outcomes and Latency by User"),
    *("Hourly Activity Heatmap", "Recent Requests", "Data Quality Notes"),
]


class Sections(HTMLParser):
    """The words of each section under its heading, those of its drawings' titles apart; what precedes them under ""."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: dict[str, list[str]] = {"": []}
        self.titles: dict[str, list[str]] = {}
        self.shapes: dict[str, list[dict[str, str | None]]] = {}
        self._section, self._tag = "", ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._tag = tag
        found = dict(attrs)
        if tag in ("rect", "i"):
            self.shapes.setdefault(self._section, []).append(found)
        if "title" in found:
            self.titles.setdefault(self._section, []).append(found["title"] or "")

    def handle_data(self, data: str) -> None:
        if not (text := " ".join(data.split())):
            return
        if self._tag == "h2":
            self._section = text
            self.words[text] = []
        elif self._tag == "title":
            self.titles.setdefault(self._section, []).append(text)
        else:
            self.words[self._section].append(text)

    def said(self, section: str) -> str:
        return " ".join(self.words[section])


@pytest.fixture
def page(tables: str) -> Sections:
    """Four requests of ada in one hour, one of them failed, one of Bob six hours later, and what came of their jobs."""
    bob = {"principal_id": "id-bob-0123456789", "username": "Bob", "group_name": None, "model": None}
    bob |= {"timestamp": DAY + timedelta(hours=6), "endpoint_type": "job_status", "url_path": "/api/v1/jobs/{job_id}"}
    bob |= {"status_code": 200, "latency_ms": 2000.0, "request_bytes": 0}
    ada = [{"timestamp": DAY + timedelta(minutes=minute)} for minute in range(3)]
    failed = {"timestamp": DAY + timedelta(minutes=5), "status_code": 500}
    ends = [{}, {"status": "FAILED"}, {"status": "CANCELLED", "started_at": None}, {"status": "FAILED", "dead": True}]
    insert(tables, [*ada, failed, bob], [*ends, {}])
    return Sections(write_page(report(tables)))


@pytest.fixture
def empty(tables: str) -> Sections:
    return Sections(write_page(report(tables)))


def test_all_sections_are_there_in_their_order_with_and_without_rows(page: Sections, database: str) -> None:
    assert [section for section in page.words if section] == SECTIONS


def test_the_head_tells_coverage_sums_and_outcomes(page: Sections) -> None:
    head = page.said("")
    assert "Coverage: 2026-10-15 00:00:00 to 2026-10-15 06:00:00 (UTC)" in head
    assert "Asked for: 2026-10-15T00:00:00Z to 2026-10-16T00:00:00Z." in head
    for shown in (
        *("Total Requests 5", "Unique Users 2", "Errors 1", "Error Rate 20.0%", "Jobs completed 2", "Jobs failed 1"),
        *("Jobs cancelled 1", "Jobs dead 1", "Latency p50 10 ms", "Latency p95 2 s", "Latency p99 2 s"),
        *("Received 4 kB", "Compute time 8 s"),
    ):
        assert shown in head


def test_the_timeline_draws_each_hour_and_its_errors(page: Sections) -> None:
    bars = ["2026-10-15 00:00: 4 requests, 1 errors", "2026-10-15 06:00: 1 requests, 0 errors"]
    assert page.titles["Traffic Timeline"] == bars * 2  # wide and narrow
    classes = [shape.get("class") for shape in page.shapes["Traffic Timeline"]]
    assert classes == ["bar", "error", "bar"] * 2
    assert "requests per hour, time in UTC" in page.said("Traffic Timeline")


@pytest.mark.parametrize(
    ("section", "rows", "widths"),
    [
        ("Endpoint Mix", ["inference 4 80.0", "job_status 1 20.0"], [100, 25]),
        ("Status Health", ["200 1 20.0", "202 3 60.0", "500 1 20.0"], [33.3, 100, 33.3]),
        ("Top Users", ["ada 4 80.0", "Bob 1 20.0"], [100, 25]),
        ("Top Paths", ["/api/v1/jobs 4 80.0", "/api/v1/jobs/{job_id} 1 20.0"], [100, 25]),
    ],
)
def test_a_chart_of_counts_has_every_line_with_its_share(
    page: Sections, section: str, rows: list[str], widths: list[float]
) -> None:
    said = page.said(section).replace("\u00a0", " ")
    assert f"share of all {' % '.join(rows)} %" in said
    bars = page.shapes[section]
    assert [float((bar["style"] or "").removeprefix("width:").removesuffix("%")) for bar in bars] == widths
    assert ["warn" in bar.values() for bar in bars] == [row.startswith("500") for row in rows]


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        (
            "Model",
            ["sem 4 1 2 1 1 1 10 ms 10 ms 10 ms 4 kB 8 s", "<none> 1 0 0 0 0 0 2 s 2 s 2 s 0 B 0 s"],
        ),
        (
            "Group",
            ["microscopy 4 1 2 1 1 1 10 ms 10 ms 10 ms 4 kB 8 s", "<none> 1 0 0 0 0 0 2 s 2 s 2 s 0 B 0 s"],
        ),
        (
            "User",
            [
                "ada id-ada 4 1 2 1 1 1 10 ms 10 ms 10 ms 4 kB 8 s",
                "Bob id-bob-01234 1 0 0 0 0 0 2 s 2 s 2 s 0 B 0 s",
            ],
        ),
    ],
)
def test_a_table_of_outcomes_has_every_figure_and_both_charts(page: Sections, kind: str, rows: list[str]) -> None:
    section = f"Outcomes and Latency by {kind}"
    said = page.said(section)
    heads = "Requests Errors Completed Failed Cancelled Dead p50 p95 p99 Received Compute"
    assert f"{kind} {heads} {' '.join(rows)}" in said
    assert "jobs: completed failed cancelled dead" in said
    first = rows[0].split()[0]
    assert f"{first}: 2 completed, 1 failed, 1 cancelled, 1 dead" in page.titles[section]
    assert f"{first}: p50 10 ms, p95 10 ms, p99 10 ms" in page.titles[section]
    drawn = [shape.get("class") for shape in page.shapes[section]]
    assert drawn == ["completed", "failed", "cancelled", "dead", *["p95", "p50", "p99"] * 2]
    assert "10 ms 100 ms 1 s 10 s" in said


def test_the_heatmap_has_the_week_and_its_busy_hours(page: Sections) -> None:
    titles = page.titles["Hourly Activity Heatmap"]
    assert len(titles) == 2 * 7 * 24
    busy = [title for title in titles[: 7 * 24] if not title.endswith(": 0 requests")]
    assert busy == ["Thu 00:00–00:59: 4 requests", "Thu 06:00–06:59: 1 requests"]
    cells = [shape for shape in page.shapes["Hourly Activity Heatmap"] if shape["class"] == "cell"][: 7 * 24]
    assert [cell["fill-opacity"] for cell in cells if cell["fill-opacity"] not in ("0", "0.0")] == ["1.0", "0.25"]


def test_recent_requests_are_listed_newest_first(page: Sections) -> None:
    said = page.said("Recent Requests")
    assert said.startswith(
        "Time (UTC) User Endpoint Status Path 2026-10-15 06:00:00 Bob job_status 200 /api/v1/jobs/{job_id}"
    )
    assert "2026-10-15 00:05:00 ada inference 500 /api/v1/jobs" in said
    assert said.count("ada") == 4


def test_the_notes_are_those_of_the_data(page: Sections, tables: str) -> None:
    clean = page.said("Data Quality Notes")
    for words in ("Latency percentiles are exact", "asynchronously", "separate stores"):
        assert words in clean
    assert not any(word in clean for word in ("without a status", "without a name", "outbox was full"))
    insert(tables, [{"status_code": None}, {"status_code": None}, {"username": ""}, {"username": "<unknown>"}])
    with psycopg.connect(tables) as connection:
        connection.execute(
            "INSERT INTO usage_gaps (event_id, since, until, missing) VALUES ('g', %s, %s, 1234), ('h', %s, %s, 9)",
            [DAY - timedelta(hours=1), DAY + timedelta(minutes=1), DAY - timedelta(hours=9), DAY - timedelta(hours=8)],
        )
    prune(tables, DAY + timedelta(hours=5))
    said = Sections(write_page(report(tables))).said("Data Quality Notes")
    for words in (
        *("2 requests without a status", "2 requests of users without a name", "1,234 requests in 1 span"),
        "hourly histograms",
    ):
        assert words in said


def test_a_page_without_rows_says_in_each_section_that_there_are_none(empty: Sections) -> None:
    assert [section for section in empty.words if section] == SECTIONS
    assert "Coverage: no data to no data" in empty.said("")
    assert "Total Requests 0 Unique Users 0 Errors 0 Error Rate 0.0%" in empty.said("")
    for section in SECTIONS[:5] + SECTIONS[8:9]:
        assert "No requests in this window." in empty.said(section)
    for section in SECTIONS[5:8]:
        assert empty.said(section) == "No requests and no ended jobs in this window."
    assert empty.said("Recent Requests") == "No recent requests."
    assert "asynchronously" in empty.said("Data Quality Notes")
    assert empty.shapes == {}
