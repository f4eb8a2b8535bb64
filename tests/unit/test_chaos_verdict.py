"""The results of `make chaos` from a made-up record: a good record passes, and every fault in one is found."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from loadtest.verdict import BEGIN, END, measured, summarise, write_page

from serve_app.contracts import Json

KILL = 1000.0
LEDGER = {"accepted": 0, "reopened": 0, "completed": 0, "failed": 0, "cancelled": 0, "dead": 0}


def good(fault: str = "model-replicas") -> Json:
    """Three jobs, the first held by the victim; one hostile image; one submit whose answer got lost."""
    ids = ["a", "b", "c"]
    rows: list[list[object]] = [[job, 1, "COMPLETED", False, 1, 990.0, 991.0, 992.0] for job in ("b", "c", "unseen")]
    rows += [["a", 1, "COMPLETED", False, 2, 998.0, 1004.0, 1005.0], ["hostile", 1, "FAILED", True, 5, 999.0, 1.0, 2.0]]
    return {
        "fault": fault,
        "user": "ada",
        "strikes": [{"at": KILL, "held": ["a"], "evidence": "seen"}],
        "accepted": [[job, 0, KILL - 1] for job in ids],
        "failed": {"503": 2},
        "hostile": ["hostile"],
        "jobs": [
            {
                "job_id": job,
                "status": "COMPLETED",
                "deliveries": 1,
                "label": "Tips",
                "expected": "Tips",
                "difference": 0,
            }
            for job in ids
        ],
        "ledger_before": LEDGER,
        "ledger_after": {**LEDGER, "accepted": 5, "completed": 4, "dead": 1},
        "samples": [
            {"at": KILL, "waiting": 1, "leased": 2, "ledger": {**LEDGER, "accepted": 3}},
            {"at": KILL, "unavailable": "gone"},
        ],
        "outcomes": rows,
        "usage": [*ids, "hostile", "unseen"],
    }


def short(trial: Json) -> list[str]:
    return [result.name for result in measured([trial]) if result.is_short]


def test_a_good_record_is_good() -> None:
    assert short(good()) == []
    numbers = summarise(good())
    seen = {name: numbers[name] for name in ("chaos_jobs", "failed_submits", "unseen", "ledger_looks", "recovered_s")}
    assert seen == {"chaos_jobs": 3, "failed_submits": 2, "unseen": 1, "ledger_looks": 1, "recovered_s": 5.0}
    medians = {result.name: result.median for result in measured([good()])}
    assert (medians["second_starts"], medians["second_start_p99_s"]) == (1, 4.0)


FAULTS: dict[str, tuple[str, Callable[[Json], object]]] = {
    "a job is gone": ("lost", lambda trial: trial["jobs"][0].update(status="NOT_FOUND")),
    "a job never ended": ("lost", lambda trial: trial["jobs"][0].update(status="PENDING")),
    "a wrong label": ("wrong_labels", lambda trial: trial["jobs"][0].update(label="Powder")),
    "another picture's scores": ("wrong_labels", lambda trial: trial["jobs"][0].update(difference=0.01)),
    "a healthy job failed": ("healthy_failed", lambda trial: trial["jobs"][0].update(status="FAILED")),
    "a healthy job is dead": ("healthy_dead", lambda trial: trial["ledger_after"].update(dead=2)),
    "a hostile job lives": ("healthy_dead", lambda trial: trial["ledger_after"].update(dead=0)),
    "an outcome is missing": ("outcomes_not_once", lambda trial: trial["outcomes"].pop()),
    "an outcome is there twice": ("outcomes_not_once", lambda trial: trial["outcomes"].append(trial["outcomes"][0])),
    "an outcome of nobody's job": (
        "outcomes_not_once",
        lambda trial: trial["outcomes"].append(["x", *trial["outcomes"][0][1:]]),
    ),
    "an outcome says FAILED": ("outcomes_not_once", lambda trial: trial["outcomes"][0].__setitem__(2, "FAILED")),
    "a usage row is missing": ("usage_missing", lambda trial: trial["usage"].remove("a")),
    "a usage row is there twice": ("usage_twice", lambda trial: trial["usage"].append("a")),
    "the equation broke": ("ledger_breaks", lambda trial: trial["samples"][0].update(waiting=2)),
    "nobody looked": ("ledger_looks", lambda trial: trial["samples"].pop(0)),
    "more unseen than failed": ("unseen_off", lambda trial: trial["failed"].clear()),
    "fewer accepted than held": ("unseen_off", lambda trial: trial["ledger_after"].update(accepted=3)),
    "the victim held nothing": ("not_struck", lambda trial: trial["strikes"][0].update(held=[])),
    "the held job never started again": ("not_struck", lambda trial: trial["outcomes"][3].__setitem__(4, 1)),
    "it started late": ("second_start_p99_s", lambda trial: trial["outcomes"][3].__setitem__(6, KILL + 15.1)),
}


@pytest.mark.parametrize("case", FAULTS)
def test_what_went_wrong_is_seen(case: str) -> None:
    name, spoil = FAULTS[case]
    trial = copy.deepcopy(good())
    spoil(trial)
    assert name in short(trial)


def test_under_everysec_the_last_two_seconds_may_be_lost_and_no_more() -> None:
    trial = good("redis-everysec")
    trial["jobs"][0]["status"] = "NOT_FOUND"
    trial["ledger_after"] |= {"accepted": 4, "completed": 3}
    assert short(trial) == []
    assert {result.name: result.median for result in measured([trial])}["lost_everysec"] == 1
    trial["accepted"] = [[job, 0, KILL - 2.5] for job, *_ in trial["accepted"]]
    assert short(trial) == ["lost_everysec_beyond"]


def test_the_page_gets_one_row_for_each_trial(tmp_path: Path) -> None:
    text = tmp_path / "reliability.md"
    text.write_text(f"before\n{BEGIN}\nan earlier table\n{END}\nafter\n")
    about = {"started_at": 0.0, "seconds": 120.0, "machine": "a machine", "revision": "r", "command": "make chaos"}
    trials = json.loads(json.dumps([good(), good("controller")]))
    for _ in range(2):  # writing again replaces what was there
        write_page(text, {**about, "trials": trials})
    written = text.read_text()
    assert written.startswith("before\n")
    assert written.endswith("after\n")
    assert "an earlier table" not in written
    assert "| kill -9 of the Serve controller | 3 | 2 | 1 | 0 | 0 | 1 | 5.0 s |" in written
    assert "second_start_p99_s 4 <=15 ok" in written
