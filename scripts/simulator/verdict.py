"""What the raw record of the trials says: a line for each, and the figures of all of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmark.figures import Figure, figures

from serve_app.contracts import Json
from simulator.scenarios.network_table import LET_IN
from simulator.scenarios.order import STOPS, WHOLE


@dataclass(frozen=True)
class Summary:
    """One trial under load in numbers."""

    scenario: str
    requests: int
    """Reads through the edge that repeats, and submits with their client's repeats."""
    failed: int
    once: int
    """The same requests without any repeat."""
    failed_once: int
    jobs: int
    lost: int
    """Ids that the client holds whose job did not end COMPLETED."""
    unseen: int
    """Accepted jobs more or fewer than ids that the client holds."""
    strikes: int
    dead: int
    most_deliveries: int
    slowest_s: float
    whole_s: float
    """From the first blow until everything was Ready again."""


def summarise(trial: Json) -> Summary:
    """The numbers of one trial, from its record alone."""
    asked = trial["asked"]
    repeated, once = [[one for one in asked if (one["through"] == "plain") is plain] for plain in (False, True)]
    jobs, notes = trial["jobs"], trial["notes"]
    blows = [note["at"] for note in notes if note["what"] in BLOWS]
    whole = [note["at"] for note in notes if note["what"] == "whole again"]
    return Summary(
        scenario=trial["scenario"],
        requests=len(repeated),
        failed=sum(map(_failed, repeated)),
        once=len(once),
        failed_once=sum(map(_failed, once)),
        jobs=len(jobs),
        lost=len(trial["ids"]) - sum(job["status"] == "COMPLETED" for job in jobs),
        unseen=abs(trial["ledger"]["accepted"] - len(trial["ids"])),
        strikes=sum(int(job["strikes"] or 0) for job in jobs),
        dead=trial["ledger"]["dead"],
        most_deliveries=max((int(job["deliveries"] or 0) for job in jobs), default=0),
        slowest_s=max((one["seconds"] for one in repeated), default=0.0),
        whole_s=whole[-1] - blows[0] if blows and whole else 0.0,
    )


BLOWS = ("killed", "silent", "deleted", "changed", "new version")


def table(trials: Sequence[Json]) -> list[str]:
    """A line of words for each trial under load."""
    return [
        f"{one.scenario}: {one.requests} requests, {one.failed} failed (each once: {one.failed_once} of {one.once}); "
        f"{one.jobs} jobs, {one.lost} lost, at most {one.most_deliveries} deliveries, {one.strikes} strikes; slowest "
        f"{one.slowest_s:.1f} s, whole again after {one.whole_s:.0f} s"
        for one in map(summarise, filter(_is_loaded, trials))
    ]


def measured(record: Json) -> list[Figure]:
    """Every figure that the record of a run can give, held against the table of targets."""
    trials = record["trials"]
    broken_off = sum(bool(trial["error"]) for trial in trials)
    found = _figures("", {"sim_broken_off": broken_off, "sim_peak_gib": record["peak_gib"]})
    if {trial["scenario"] for trial in trials} >= set(WHOLE):
        found += _figures("-whole", {"sim_minutes": record["seconds"] / 60})
    if loaded := [summarise(trial) for trial in trials if _is_loaded(trial)]:
        values: Mapping[str, float] = {
            "sim_requests_least": min(one.requests for one in loaded),
            "sim_failed": sum(one.failed for one in loaded),
            "sim_failed_without_repeats": sum(one.failed_once for one in loaded),
            "sim_jobs": sum(one.jobs for one in loaded),
            "sim_lost": sum(one.lost for one in loaded),
            "sim_unseen": sum(one.unseen for one in loaded),
            "sim_strikes": sum(one.strikes + one.dead for one in loaded),
            "sim_most_deliveries": max(one.most_deliveries for one in loaded),
            "sim_whole_again_s": max(one.whole_s for one in loaded),
        }
        found += _figures("-load", values)
    if ended := [note for trial in trials for note in _notes(trial, "ended")]:
        found += _figures("-stops", _stops(ended, trials))
    if broken := [note for trial in trials for note in _notes(trial, "never served")]:
        values = {"sim_broken_versions": len(broken), "sim_broken_served": sum(note["ran"] for note in broken)}
        found += _figures("-broken", values)
    for name, count in COUNTS.items():
        if trial := next((one for one in trials if one["scenario"] == name), None):
            found += _figures(f"-{name}", count(trial))
    return found


def _figures(part: str, values: Mapping[str, float]) -> list[Figure]:
    return figures({name: [float(value)] for name, value in values.items()}, bench=f"cluster-sim{part}")


AUTOSCALER = "autoscaler"
"""It is the first process of its container and has no handler for SIGTERM, so the kernel drops the signal: nothing that
waits for its end is lost by its being killed."""


def _stops(ended: Sequence[Json], trials: Sequence[Json]) -> Mapping[str, float]:
    """A job given back loses the delivery that it had; one whose lease ran out keeps it, and then has two."""
    jobs = [job for trial in trials if trial["scenario"] in STOPS for job in trial["jobs"]]
    given_back = [note for trial in trials for note in _notes(trial, "given back")]
    return {
        "sim_stopped_pods": len(ended),
        "sim_stopped_by_force": sum(bool(set(note["killed"]) - {AUTOSCALER}) for note in ended),
        "sim_stop_s": max(note["seconds"] for note in ended),
        "sim_stop_redelivered": sum(int(job["deliveries"] or 0) > 1 for job in jobs),
        "sim_given_back": sum(note["jobs"] for note in given_back),
        "sim_given_back_s": max((note["seconds"] for note in given_back), default=0.0),
    }


def _probes(trial: Json) -> Mapping[str, float]:
    pods = list(_notes(trial, "pod"))
    return {"sim_pods": len(pods), "sim_pods_not_ready": sum(not pod["ready"] for pod in pods)}


def _ray_token(trial: Json) -> Mapping[str, float]:
    refused = [note["status"] for note in _notes(trial, "without the token")]
    let_in = [note["status"] for note in _notes(trial, "with the token")]
    return {
        "sim_calls_without_token": len(refused),
        "sim_calls_answered_wrongly": sum(one not in (401, 403) for one in refused) + sum(one != 200 for one in let_in),
    }


def _hardened(trial: Json) -> Mapping[str, float]:
    found = [_may(note["said"]) for note in _notes(trial, "may")]
    return {"sim_containers": len(found), "sim_containers_not_hardened": sum(not one for one in found)}


def _network_table(trial: Json) -> Mapping[str, float]:
    cells = list(_notes(trial, "cell"))
    wrong = sum(cell["allowed"] is not (cell["answer"] in LET_IN) for cell in cells)
    return {"sim_network_cells": len(cells), "sim_network_cells_wrong": wrong}


def _burst(trial: Json) -> Mapping[str, float]:
    sizes = [note["pods"] for note in _notes(trial, "burst")]
    at = {note["what"]: note["at"] for note in trial["notes"]}
    completed = sum(job["status"] == "COMPLETED" for job in trial["jobs"])
    return {
        "sim_burst_first": sizes[0] if sizes else 1,
        "sim_burst_peak": max(sizes, default=0),
        "sim_burst_left": sizes[-1] if sizes else 1,
        "sim_burst_jobs_lost": len(trial["ids"]) - completed,
        "sim_burst_up_s": at.get("burst serves", 0.0) - at.get("backlog", 0.0),
        "sim_burst_down_s": at.get("burst gone", 0.0) - at.get("no jobs left", 0.0),
    }


def _may(said: str) -> bool:
    try:
        seen = json.loads(said)
    except ValueError:
        return False
    safe: bool = seen["uid"] != 0 and seen["capabilities"] == 0 and seen["no_new_privileges"] == 1
    return safe and not seen["root_written"]


COUNTS: Mapping[str, Callable[[Json], Mapping[str, float]]] = {
    "probes": _probes,
    "ray-token": _ray_token,
    "hardened": _hardened,
    "network-table": _network_table,
    "burst": _burst,
}
"""Figures of single scenarios."""


def _notes(trial: Json, what: str) -> Iterable[Json]:
    return (note for note in trial["notes"] if note["what"] == what)


def _is_loaded(trial: Json) -> bool:
    return "asked" in trial


def _failed(one: Json) -> bool:
    return not one["answer"].startswith("2")
