"""The table of allowed changes: a failed job may run again, what ended otherwise stays, and every other job can end."""

import re
from pathlib import Path

from serve_app.contracts import JobStatus
from serve_app.jobs.states import ALLOWED

ROOT = Path(__file__).parents[2]


def test_the_table_allows_these_changes_and_no_other() -> None:
    ended = {JobStatus.COMPLETED, JobStatus.CANCELLED}
    assert {status: set(ALLOWED[status]) for status in ALLOWED} == {
        JobStatus.PENDING: ended | {JobStatus.PROCESSING},
        JobStatus.PROCESSING: ended | {JobStatus.PENDING, JobStatus.FAILED},
        JobStatus.FAILED: {JobStatus.PENDING},
        JobStatus.COMPLETED: set(),
        JobStatus.CANCELLED: set(),
    }
    assert set(ALLOWED) == set(JobStatus)


def test_the_picture_in_the_docs_shows_just_the_allowed_changes() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawn = re.findall(r"^ +([A-Z]+) --> ([A-Z]+)", text, re.MULTILINE)
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == {(before.value, after.value) for before, rows in ALLOWED.items() for after in rows}


def test_a_status_is_written_where_a_job_is_accepted_and_where_the_table_is_asked() -> None:
    """Any other script that wrote one could make a change that the table does not allow."""
    writes = re.compile(r"'HSET', job_key\([^)]*\)(?:[^()]|\([^()]*\))*?'status'")
    folder = ROOT / "serve_app" / "jobs" / "lua"
    found = {script.name: len(writes.findall(script.read_text(encoding="utf-8"))) for script in folder.glob("*.lua")}
    assert {name: count for name, count in found.items() if count} == {"accept.lua": 1, "common.lua": 1}
