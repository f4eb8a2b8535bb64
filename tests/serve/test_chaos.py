"""The short form of `make chaos`: three kills under load on the service of these tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from loadtest.chaos import Picture, Plan, run_trial
from loadtest.verdict import measured, summarise
from running_service import MODEL, RunningService

from serve_app.contracts import Json

PLAN = Plan(jobs=150, seconds=6, seed=1)
FAULTS = ("model-replicas", "controller", "redis-always")
TIMED = {"second_start_p99_s"}
"""Of `make chaos` alone: how long Serve takes to miss a replica depends on what else the machine does."""


@pytest.mark.fault(reason="three faults under load")
@pytest.mark.timeout(1500)
def test_three_kills_under_load_leave_nothing_lost_wrong_or_twice(
    service: RunningService, picture_files: list[Path], references: list[Json]
) -> None:
    sent = [*map(Picture, picture_files, references)]
    trials = [run_trial(service, MODEL, sent, PLAN, fault) for fault in FAULTS]
    found = measured(trials)
    assert [result.line for result in found if result.is_short and result.name not in TIMED] == []
    names = {result.name: result.median for result in found}
    assert names["chaos_jobs"] >= len(FAULTS) * PLAN.jobs
    assert names["second_starts"] >= 2
    [killed, *_] = map(summarise, trials)
    assert killed["redelivered"] >= names["second_starts"]
