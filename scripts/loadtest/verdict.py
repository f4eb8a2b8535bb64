"""The verdict of a chaos run, from its record alone: numbers of each trial, results of all, the table in the docs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from loadtest.faults import FAULTS
from loadtest.results import Result, percentile, results
from serve_app.contracts import Json
from serve_app.jobs.records import Ledger

STRANDING = ("model-replicas", "gateway-replica")
"""Faults whose victim holds claimed jobs while the rest works on: the time to their second start is measured."""
LOSSY = "redis-everysec"
"""The one fault that may lose jobs: those accepted in the two seconds before."""
HANGING = "hang"
"""The fault whose hostile job ends FAILED; the hostile jobs of other faults end dead."""
UNRECORDED = ("redis-always", "redis-everysec")
"""Faults that may kill Redis after it accepted a job and before it took the usage event; the submit is answered 202."""
EXTREMES = ("most_deliveries", "recovered_s")
"""Numbers whose maximum counts; all others are added up."""
SAME = 1e-3
"""Largest difference between a picture's scores alone and in a batch."""
LOSS_WINDOW_S = 2.0
BEGIN, END = "<!-- make chaos: begin -->", "<!-- make chaos: end -->"
COLUMNS = {
    "Jobs": "chaos_jobs",
    "Failed submits": "failed_submits",
    "Answers lost": "unseen",
    "Jobs lost": "jobs_lost",
    "Started again": "redelivered",
    "Most deliveries": "most_deliveries",
}


def measured(trials: Sequence[Json]) -> list[Result]:
    """Every result that these trials can give."""
    totals: dict[str, float] = {}
    for numbers in map(summarise, trials):
        for name, number in numbers.items():
            so_far = totals.get(name, 0)
            totals[name] = max(so_far, number) if name in EXTREMES else so_far + number
    raw = {name: [float(number)] for name, number in totals.items()}  # a run is one repetition
    found = results(raw, "chaos")
    if starts := sorted(start for trial in trials if trial["fault"] in STRANDING for start in second_starts(trial)):
        raw |= {"second_start_p99_s": [percentile(starts, 99)], "second_starts": [float(len(starts))]}
        found += results(raw, "chaos-starts")
    return found + (results(raw, "chaos-everysec") if "lost_everysec" in raw else [])


def summarise(trial: Json) -> dict[str, float]:
    """The numbers of one trial, by the names of targets.toml and of COLUMNS."""
    fault, hostile = trial["fault"], len(trial["hostile"])
    ids = [job_id for job_id, _, _ in trial["accepted"]]
    lost = {job["job_id"] for job in trial["jobs"] if job["status"] not in ("COMPLETED", "FAILED", "CANCELLED")}
    change = {name: count - trial["ledger_before"][name] for name, count in trial["ledger_after"].items()}
    failed_submits = sum(trial["failed"].values())
    # Accepted jobs whose answer was lost: the client has no id of them.
    unseen = change["accepted"] - len(ids) - hostile + (len(lost) if fault == LOSSY else 0)
    used: Counter[str] = Counter(trial["usage"])
    unrecorded = sum(job_id not in used for job_id in ids)
    deliveries = [job["deliveries"] or 0 for job in trial["jobs"]]
    numbers = {
        "chaos_jobs": len(ids),
        "failed_submits": failed_submits,
        "unseen": unseen,
        "jobs_lost": len(lost),
        "redelivered": sum(count > 1 for count in deliveries),
        "most_deliveries": max(deliveries, default=0),
        "recovered_s": _recovered(trial),
        "not_struck": int(fault in STRANDING and not all(_restarted(trial))),
        "lost": 0 if fault == LOSSY else len(lost),
        "wrong_labels": sum(_is_wrong(job) for job in trial["jobs"]),
        "healthy_failed": sum(job["status"] in ("FAILED", "CANCELLED") for job in trial["jobs"]),
        "healthy_dead": _hostile_off(change, hostile, hung=fault == HANGING),
        "outcomes_not_once": _outcomes_off(
            trial, [job_id for job_id in ids if job_id not in lost], None if fault == LOSSY else unseen
        ),
        "usage_twice": sum(count > 1 for count in used.values()),
        "usage_missing": 0 if fault in UNRECORDED else unrecorded,
        "usage_missing_redis": unrecorded if fault in UNRECORDED else 0,
        "ledger_breaks": sum(not _holds(sample) for sample in trial["samples"]),
        "ledger_looks": sum("unavailable" not in sample for sample in trial["samples"]),
        "unseen_off": 0 if fault == LOSSY else max(0, unseen - failed_submits, -unseen),
    }
    if fault == LOSSY:
        struck = trial["strikes"][0]["at"]
        recent = sum(struck - LOSS_WINDOW_S <= at <= struck for _, _, at in trial["accepted"])
        numbers |= {"lost_everysec": len(lost), "accepted_last_2s": recent}
        numbers["lost_everysec_beyond"] = max(0, len(lost) - recent)
    return numbers


def second_starts(trial: Json) -> list[float]:
    """Seconds from a strike to the last start of each job that its victim held."""
    return [seconds for starts in _restarted(trial) for seconds in starts]


def write_page(page: Path, record: Json) -> None:
    """Replace the text between the marks of the page by the table of this run."""
    before, rest = page.read_text().split(BEGIN)
    _, after = rest.split(END)
    day = datetime.fromtimestamp(record["started_at"], UTC).strftime("%d %B %Y")
    found = measured(record["trials"])
    [jobs] = [result.median for result in found if result.name == "chaos_jobs"]
    section = [
        f"{jobs:,.0f} jobs in {record['seconds'] / 60:.0f} minutes on {day}, {record['machine']}, revision "
        f"`{record['revision']}`, `{record['command']}`.",
        "",
        " | ".join(["| Fault", *COLUMNS, "Last job after |"]),
        "|---|" + "---:|" * (len(COLUMNS) + 1),
        *map(_row, record["trials"]),
        "",
        "```",
        *(result.line for result in found),
        "```",
    ]
    page.write_text("\n".join([before + BEGIN, "", *section, "", END]) + after)


def _row(trial: Json) -> str:
    numbers = summarise(trial)
    cells = [f"{numbers[name]:.0f}" for name in COLUMNS.values()]
    return " | ".join([f"| {FAULTS[trial['fault']].title}", *cells, f"{numbers['recovered_s']:.1f} s |"])


def _is_wrong(job: Json) -> bool:
    return job["status"] == "COMPLETED" and bool(job["label"] != job["expected"] or job["difference"] > SAME)


def _holds(sample: Json) -> bool:
    """Whether jobs in flight by the ledger are those waiting or claimed. True too when Redis did not answer."""
    return "unavailable" in sample or bool(Ledger(**sample["ledger"]).in_flight == sample["waiting"] + sample["leased"])


def _hostile_off(change: Json, hostile: int, *, hung: bool) -> int:
    """Difference between dead and hostile jobs; after a hang, between failed and hostile ones, plus all dead ones."""
    if hung:
        return int(abs(change["failed"] - hostile) + change["dead"])
    return int(abs(change["dead"] - hostile))


def _outcomes_off(trial: Json, ids: Sequence[str], unseen: int | None) -> int:
    """Jobs without exactly one right row, and rows of jobs that were not submitted. `unseen` is None when unknown."""
    rows = Counter(job_id for job_id, *_ in trial["outcomes"])
    right = {
        job_id for job_id, run, status, dead, *_ in trial["outcomes"] if (run, status, dead) == (1, "COMPLETED", False)
    }
    hostile = set(trial["hostile"])
    off = sum(count > 1 for count in rows.values()) + sum(job_id not in right for job_id in ids)
    off += sum(job_id not in rows for job_id in hostile) + len(rows.keys() - right - hostile)
    return off if unseen is None else off + abs(len(rows) - len(ids) - len(hostile) - unseen)


def _restarted(trial: Json) -> list[list[float]]:
    """For each strike: seconds until the last start of every job that the victim held and that was started again."""
    rows = {job_id: (deliveries, started) for job_id, _, _, _, deliveries, _, started, _ in trial["outcomes"]}
    return [
        [rows[job_id][1] - strike["at"] for job_id in strike["held"] if job_id in rows and rows[job_id][0] > 1]
        for strike in trial["strikes"]
    ]


def _recovered(trial: Json) -> float:
    """Longest time from a strike to the end of a job accepted before it."""
    strikes = [strike["at"] for strike in trial["strikes"]]
    times = [(submitted, ended) for *_, submitted, _, ended in trial["outcomes"]]
    return max((ended - at for at in strikes for submitted, ended in times if submitted < at < ended), default=0.0)
