"""The table of allowed changes: an ended job never changes, and every other job can end."""

import pytest

from serve_app.contracts import ENDED, JobStatus
from serve_app.jobs.states import ALLOWED


def test_every_status_has_its_row() -> None:
    assert set(ALLOWED) == set(JobStatus)


@pytest.mark.parametrize("status", sorted(ENDED))
def test_an_ended_job_never_changes(status: JobStatus) -> None:
    assert ALLOWED[status] == frozenset()


@pytest.mark.parametrize("status", sorted(set(JobStatus) - ENDED))
def test_a_job_not_ended_can_be_completed_or_cancelled(status: JobStatus) -> None:
    assert {JobStatus.COMPLETED, JobStatus.CANCELLED} <= ALLOWED[status]


def test_a_job_fails_only_after_it_ran() -> None:
    assert {status for status in JobStatus if JobStatus.FAILED in ALLOWED[status]} == {JobStatus.PROCESSING}


def test_only_running_jobs_go_back_to_wait() -> None:
    assert {status for status in JobStatus if JobStatus.PENDING in ALLOWED[status]} == {JobStatus.PROCESSING}
