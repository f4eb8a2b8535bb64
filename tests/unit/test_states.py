"""The table of allowed changes: a failed job may run again, what ended otherwise stays, and every other job can end."""

import re
from pathlib import Path

import pytest

from serve_app.contracts import ENDED, JobStatus
from serve_app.jobs.states import ALLOWED

ROOT = Path(__file__).parents[2]


def test_every_status_has_its_row() -> None:
    assert set(ALLOWED) == set(JobStatus)


@pytest.mark.parametrize("status", [JobStatus.COMPLETED, JobStatus.CANCELLED])
def test_a_completed_or_cancelled_job_never_changes(status: JobStatus) -> None:
    assert ALLOWED[status] == frozenset()


def test_a_failed_job_may_run_again_and_nothing_else() -> None:
    assert ALLOWED[JobStatus.FAILED] == {JobStatus.PENDING}


@pytest.mark.parametrize("status", sorted(set(JobStatus) - ENDED))
def test_a_job_not_ended_can_be_completed_or_cancelled(status: JobStatus) -> None:
    assert {JobStatus.COMPLETED, JobStatus.CANCELLED} <= ALLOWED[status]


def test_a_job_fails_only_after_it_ran() -> None:
    assert {status for status in JobStatus if JobStatus.FAILED in ALLOWED[status]} == {JobStatus.PROCESSING}


def test_only_running_and_failed_jobs_go_back_to_wait() -> None:
    back = {status for status in JobStatus if JobStatus.PENDING in ALLOWED[status]}
    assert back == {JobStatus.PROCESSING, JobStatus.FAILED}


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
