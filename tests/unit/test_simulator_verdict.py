"""The figures of `make cluster-sim` from a made-up record: a good one is good, and what can go wrong is seen."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from simulator.scenarios.order import SCENARIOS, UNDER_LOAD
from simulator.verdict import measured, summarise, table

MAY = {"uid": 1000, "capabilities": 0, "no_new_privileges": 1, "root_written": False}


def asked(through: str, answer: str = "200") -> dict[str, Any]:
    return {"at": 10.0, "what": "job", "through": through, "answer": answer, "seconds": 0.01, "attempts": 1}


def loaded(name: str = "gateway-lost") -> dict[str, Any]:
    """A trial under load in which nothing went wrong, though one read had to be repeated."""
    requests = [asked("repeating") for _ in range(300)] + [asked("plain") for _ in range(300)] + [asked("plain", "500")]
    ids = [f"j{number}" for number in range(20)]
    return {
        "scenario": name,
        "error": "",
        "notes": [{"at": 5.0, "what": "killed"}, {"at": 30.0, "what": "whole again"}],
        "asked": requests,
        "held": [[job_id, 9.0] for job_id in ids],
        "ids": ids,
        "jobs": [{"job_id": job_id, "status": "COMPLETED", "deliveries": "1", "strikes": None} for job_id in ids],
        "ledger": {"accepted": 20, "dead": 0},
    }


def still(name: str, notes: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"scenario": name, "error": "", "notes": notes, "ids": [], "jobs": [], "ledger": {}, **more}


def good() -> list[dict[str, Any]]:
    """One trial of every kind."""
    cells = [{"what": "cell", "allowed": True, "answer": 0}, {"what": "cell", "allowed": True, "answer": 111}] * 300
    cells += [{"what": "cell", "allowed": False, "answer": 110}] * 100
    sizes = [{"at": float(at), "what": "burst", "pods": pods} for at, pods in ((1, 0), (40, 2), (100, 0))]
    marks = [("backlog", 5), ("burst serves", 45), ("no jobs left", 60), ("burst gone", 95)]
    return [
        still("probes", [{"what": "pod", "ready": True}] * 5),
        still(
            "ray-token",
            [{"what": "without the token", "status": 401 + 2 * (number % 2)} for number in range(8)]
            + [{"what": "with the token", "status": 200}],
        ),
        still("hardened", [{"what": "may", "said": json.dumps(MAY)}] * 6),
        still("network-table", cells),
        loaded(),
        {
            **loaded("model-stopped"),
            "notes": [
                {"at": 60.0, "what": "ended", "seconds": 52.0, "killed": ["autoscaler"]},
                {"at": 60.0, "what": "given back", "jobs": 12, "seconds": 31.0},
            ],
        },
        {**loaded("upgraded"), "notes": [{"at": 60.0, "what": "never served", "ran": False}]},
        still("burst", [*sizes, *({"at": float(at), "what": what} for what, at in marks)]),
    ]


def record(trials: list[dict[str, Any]], **more: float) -> dict[str, Any]:
    whole: dict[str, Any] = json.loads(json.dumps({"trials": trials, "peak_gib": 9.0, "seconds": 600.0, **more}))
    return whole


def short(trials: list[dict[str, Any]], **more: float) -> set[str]:
    return {figure.name for figure in measured(record(trials, **more)) if figure.is_short}


def test_a_good_record_is_good() -> None:
    figures = {figure.name: figure.median for figure in measured(record(good()))}
    assert short(good()) == set()
    assert (figures["sim_failed"], figures["sim_failed_without_repeats"]) == (0, 3)
    assert (figures["sim_whole_again_s"], figures["sim_burst_up_s"], figures["sim_burst_down_s"]) == (25, 40, 35)


PLACE = {trial["scenario"]: number for number, trial in enumerate(good())}


def spoil(scenario: str, **change: Any) -> list[dict[str, Any]]:
    trials = copy.deepcopy(good())
    trials[PLACE[scenario]] |= change
    return trials


def jobs(**change: Any) -> list[dict[str, Any]]:
    return [{**loaded()["jobs"][0], **change}, *loaded()["jobs"][1:]]


@pytest.mark.parametrize(
    ("trials", "expected"),
    [
        (spoil("gateway-lost", error="TimeoutError"), "sim_broken_off"),
        (spoil("gateway-lost", asked=loaded()["asked"][1:]), "sim_requests_least"),
        (spoil("gateway-lost", asked=[*loaded()["asked"], asked("repeating", "500")]), "sim_failed"),
        (spoil("gateway-lost", asked=[*loaded()["asked"], asked("client", "ReadError")]), "sim_failed"),
        (spoil("gateway-lost", jobs=jobs(status="PENDING")), "sim_lost"),
        (spoil("gateway-lost", jobs=jobs(status=None, deliveries=None)), "sim_lost"),
        (spoil("gateway-lost", jobs=jobs(strikes="1")), "sim_strikes"),
        (spoil("gateway-lost", ledger={"accepted": 20, "dead": 1}), "sim_strikes"),
        (spoil("gateway-lost", ledger={"accepted": 21, "dead": 0}), "sim_unseen"),
        (spoil("probes", notes=[{"what": "pod", "ready": True}] * 4), "sim_pods"),
        (spoil("probes", notes=[{"what": "pod", "ready": False}] * 5), "sim_pods_not_ready"),
        (spoil("ray-token", notes=[{"what": "without the token", "status": 200}] * 8), "sim_calls_answered_wrongly"),
        (
            spoil("network-table", notes=[{"what": "cell", "allowed": False, "answer": 111}] * 700),
            "sim_network_cells_wrong",
        ),
        (
            spoil("network-table", notes=[{"what": "cell", "allowed": True, "answer": 110}] * 700),
            "sim_network_cells_wrong",
        ),
        (spoil("model-stopped", jobs=jobs(deliveries="2")), "sim_stop_redelivered"),
        (
            spoil("model-stopped", notes=[{"what": "ended", "seconds": 120, "killed": ["ray-worker"]}]),
            "sim_stopped_by_force",
        ),
        (spoil("upgraded", notes=[{"what": "never served", "ran": True}]), "sim_broken_served"),
        (spoil("burst", notes=[{"at": 1.0, "what": "burst", "pods": 0}]), "sim_burst_peak"),
        (spoil("burst", notes=[{"at": 1.0, "what": "burst", "pods": 1}]), "sim_burst_left"),
        (spoil("burst", ids=["j"]), "sim_burst_jobs_lost"),
    ],
)
def test_what_went_wrong_is_seen(trials: list[dict[str, Any]], expected: str) -> None:
    assert expected in short(trials)


@pytest.mark.parametrize(
    "change", [{"uid": 0}, {"capabilities": 1}, {"no_new_privileges": 0}, {"root_written": True}], ids=str
)
def test_a_container_that_may_too_much_is_seen(change: dict[str, Any]) -> None:
    notes = [{"what": "may", "said": json.dumps({**MAY, **change})}] * 6
    assert short(spoil("hardened", notes=notes)) == {"sim_containers_not_hardened"}


def test_a_container_that_does_not_answer_is_not_hardened() -> None:
    assert short(spoil("hardened", notes=[{"what": "may", "said": "no python here"}] * 6)) == {
        "sim_containers_not_hardened"
    }


def test_time_counts_where_everything_was_played() -> None:
    assert short(good(), seconds=7200.0) == set()
    everything = [*good(), *(loaded(name) for name in UNDER_LOAD)]
    assert short(everything, seconds=7200.0, peak_gib=17.0) == {"sim_minutes", "sim_peak_gib"}


def test_each_trial_under_load_has_a_line() -> None:
    line, *others = table(good())
    assert len(others) == 2
    assert line.startswith("gateway-lost: 300 requests, 0 failed (each once: 1 of 301); 20 jobs, 0 lost")
    assert summarise(loaded()).most_deliveries == 1


def test_every_scenario_says_what_it_is() -> None:
    assert UNDER_LOAD.keys() < SCENARIOS.keys()
    assert all(scenario.__doc__ for scenario in SCENARIOS.values())
