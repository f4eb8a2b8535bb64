"""The record and the ledger, as they are read from Redis."""

import pytest

from serve_app.contracts import JobStatus
from serve_app.errors import TrackerUnavailable
from serve_app.jobs.records import Ledger, read_job, read_ledger

RECORD = {
    "v": "1",
    "owner": "o",
    "model": "m",
    "priority": "normal",
    "status": "PENDING",
    "params": "{}",
    "reference": "",
    "bytes": "0",
    "pixels": "0",
    "media_type": "",
    "submitted_at": "1700000000000",
    "run": "1",
    "deliveries": "0",
    "strikes": "0",
    "traceparent": "",
}


def test_a_record_of_newer_release_is_not_misread() -> None:
    assert {read_job("id", {**RECORD, "v": v}).status for v in ("1", "2")} == {JobStatus.PENDING}
    with pytest.raises(TrackerUnavailable):
        read_job("id", {**RECORD, "v": "3"})


def test_a_ledger_knows_what_is_in_flight() -> None:
    ledger = read_ledger(
        {"accepted": "10", "reopened": "2", "completed": "5", "failed": "1", "dead": "1", "turn": "44"}
    )
    assert ledger == Ledger(accepted=10, reopened=2, completed=5, failed=1, dead=1)
    assert ledger.in_flight == 5
