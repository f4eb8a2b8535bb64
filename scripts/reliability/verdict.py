"""What the raw record of the trials says: one summary per trial, and the figures of all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmark.figures import Figure, figures
from load.tally import percentile

from reliability.faults import HANGING, LOSSY, STRANDING, UNRECORDED
from reliability.watcher import holds
from serve_app.contracts import Json

SAME = 1e-3
"""Scores of a picture alone and in a batch differ by less."""
LOSS_WINDOW_S = 2.0


@dataclass(frozen=True)
class Summary:
    """One trial in numbers; each must be 0 unless its name says otherwise."""

    fault: str
    jobs: int
    failed_submits: int
    unseen: int
    """Accepted, but the client holds no id: its answer was lost."""
    lost: int
    """Ids that the client holds whose job did not end COMPLETED, FAILED or CANCELLED."""
    accepted_last: int
    """Accepted in the last two seconds before the blow."""
    wrong: int
    failed: int
    """Healthy jobs that ended otherwise than COMPLETED."""
    dead_off: int
    """Dead jobs more or fewer than the hostile ones; after a hang, which ends FAILED, every dead one and every other
    number of failed ones."""
    outcomes_off: int
    usage_twice: int
    usage_missing: int
    ledger_breaks: int
    looks: int
    not_struck: int
    redelivered: int
    most_deliveries: int
    second_starts: tuple[float, ...]
    """Seconds from the blow to the last start of each job that the victim held."""
    recovered_s: float
    """From the blow to the end of the last job accepted before it."""


def summarise(trial: Json) -> Summary:
    """The numbers of one trial, from its record alone."""
    lossy, hung = trial["fault"] == LOSSY, trial["fault"] == HANGING
    ids = [job_id for job_id, _, _ in trial["accepted"]]
    lost = {job["job_id"] for job in trial["jobs"] if job["status"] not in ("COMPLETED", "FAILED", "CANCELLED")}
    change = {name: count - trial["ledger_before"][name] for name, count in trial["ledger_after"].items()}
    unseen = change["accepted"] - len(ids) - len(trial["hostile"]) + (len(lost) if lossy else 0)
    used: Counter[str] = Counter(trial["usage"])
    first = trial["strikes"][0]["at"]
    return Summary(
        fault=trial["fault"],
        jobs=len(ids),
        failed_submits=sum(trial["failed"].values()),
        unseen=unseen,
        lost=len(lost),
        accepted_last=sum(first - LOSS_WINDOW_S <= at <= first for _, _, at in trial["accepted"]),
        wrong=sum(job["label"] != job["expected"] or job["difference"] > SAME for job in _completed(trial)),
        failed=sum(job["status"] in ("FAILED", "CANCELLED") for job in trial["jobs"]),
        dead_off=abs(change["failed" if hung else "dead"] - len(trial["hostile"])) + (change["dead"] if hung else 0),
        outcomes_off=_outcomes_off(trial, [job_id for job_id in ids if job_id not in lost], None if lossy else unseen),
        usage_twice=sum(count > 1 for count in used.values()),
        usage_missing=sum(job_id not in used for job_id in ids),
        ledger_breaks=sum(not holds(sample) for sample in trial["samples"]),
        looks=sum("away" not in sample for sample in trial["samples"]),
        not_struck=int(trial["fault"] in STRANDING and not all(_restarted(trial))),
        redelivered=sum((job["deliveries"] or 0) > 1 for job in trial["jobs"]),
        most_deliveries=max((job["deliveries"] or 0 for job in trial["jobs"]), default=0),
        second_starts=tuple(seconds for starts in _restarted(trial) for seconds in starts),
        recovered_s=_recovered(trial),
    )


def measured(trials: Sequence[Json]) -> list[Figure]:
    """Every figure that these trials can give, held against the table of targets."""
    summaries = [summarise(trial) for trial in trials]
    found = figures(_sums(summaries), bench="chaos")
    if starts := sorted(one for each in summaries if each.fault in STRANDING for one in each.second_starts):
        values = {"second_start_p99_s": percentile(starts, 99), "second_starts": len(starts)}
        found += figures(_as_figures(values), bench="chaos-starts")
    for each in summaries:
        if each.fault == LOSSY:
            beyond = max(0, each.lost - each.accepted_last)
            values = {
                "lost_everysec": each.lost,
                "accepted_last_2s": each.accepted_last,
                "lost_everysec_beyond": beyond,
            }
            found += figures(_as_figures(values), bench="chaos-everysec")
    return found


def _sums(summaries: Sequence[Summary]) -> Mapping[str, Sequence[float]]:
    strict = [each for each in summaries if each.fault != LOSSY]
    recorded = [each for each in summaries if each.fault not in UNRECORDED]
    return _as_figures(
        {
            "chaos_jobs": sum(each.jobs for each in summaries),
            "not_struck": sum(each.not_struck for each in summaries),
            "lost": sum(each.lost for each in strict),
            "wrong_labels": sum(each.wrong for each in summaries),
            "healthy_failed": sum(each.failed for each in summaries),
            "healthy_dead": sum(each.dead_off for each in summaries),
            "outcomes_not_once": sum(each.outcomes_off for each in summaries),
            "usage_twice": sum(each.usage_twice for each in summaries),
            "usage_missing": sum(each.usage_missing for each in recorded),
            "usage_missing_redis": sum(each.usage_missing for each in summaries if each.fault in UNRECORDED),
            "ledger_breaks": sum(each.ledger_breaks for each in summaries),
            "ledger_looks": sum(each.looks for each in summaries),
            "unseen_off": sum(max(0, each.unseen - each.failed_submits, -each.unseen) for each in strict),
            "most_deliveries": max((each.most_deliveries for each in summaries), default=0),
            "recovered_s": max((each.recovered_s for each in summaries), default=0.0),
        }
    )


def _as_figures(values: Mapping[str, float]) -> dict[str, list[float]]:
    """A run is one repetition, and a sum or an extreme over its trials one value."""
    return {name: [float(value)] for name, value in values.items()}


def _completed(trial: Json) -> Iterable[Json]:
    return (job for job in trial["jobs"] if job["status"] == "COMPLETED")


def _outcomes_off(trial: Json, ids: Sequence[str], unseen: int | None) -> int:
    """Jobs without their one row, rows that say something else, and rows of jobs nobody sent."""
    rows = Counter(job_id for job_id, *_ in trial["outcomes"])
    right = {
        job_id for job_id, run, status, dead, *_ in trial["outcomes"] if (run, status, dead) == (1, "COMPLETED", False)
    }
    hostile = set(trial["hostile"])
    off = sum(count > 1 for count in rows.values()) + sum(job_id not in right for job_id in ids)
    off += sum(job_id not in rows for job_id in hostile) + len(rows.keys() - right - hostile)
    return off if unseen is None else off + abs(len(rows) - len(ids) - len(hostile) - unseen)


def _restarted(trial: Json) -> list[list[float]]:
    """For each blow: seconds until the last start of every job that the victim held and that had to start again."""
    rows = {job_id: (deliveries, started) for job_id, _, _, _, deliveries, _, started, _ in trial["outcomes"]}
    return [
        [rows[job_id][1] - strike["at"] for job_id in strike["held"] if job_id in rows and rows[job_id][0] > 1]
        for strike in trial["strikes"]
    ]


def _recovered(trial: Json) -> float:
    blows = [strike["at"] for strike in trial["strikes"]]
    times = [(submitted, ended) for *_, submitted, _, ended in trial["outcomes"]]
    return max((ended - at for at in blows for submitted, ended in times if submitted < at < ended), default=0.0)
