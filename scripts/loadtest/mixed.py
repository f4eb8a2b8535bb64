"""`make bench-mixed`: jobs for every model of `make run` from two users, while a replica is killed.

All models sleep at first. Each kind of job is done once alone: that is its right result. Then both users submit
everything at once, and one replica of the text reader is killed while it works. Nothing may be lost or wrong, the usage
records must show every submit by model, and all models must be asleep again at the end. Writes build/bench-mixed.json,
prints `name value target ok|short` for each result, and exits with 1 when one is short.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import httpx2
import psutil

from loadtest.results import report, results, write_record
from loadtest.service import LocalService, laptop_models, temporary_folder, wait_until
from loadtest.source_rows import coins, page, png

SHARES: Final = {"document": 3, "table": 4, "layout": 6, "ocr": 6}
"""Jobs of a hundred for the models that take seconds; the others share the rest."""
VICTIM: Final = "ocr"
USERS: Final = ("ada", "grace")
DEADLINE_S: Final = 1800.0
ASLEEP_S: Final = 120.0
RATED: Final = 2e-2
"""Largest difference allowed between a number alone and in a batch: scores of a network depend on the batch's order of
sums, boxes are rounded."""
VOLATILE: Final = ("request_id", "latency_ms")
SUBMITS: Final = """
    SELECT username, model, count(DISTINCT job_id) FROM api_usage
    WHERE endpoint_type = 'inference' AND status_code = 202 GROUP BY username, model
"""


@dataclass(frozen=True)
class Work:
    """One kind of job."""

    model: str
    picture: bytes


@dataclass
class User:
    """Submits until accepted, and reads until ended, whatever happens to the service."""

    name: str
    client: httpx2.Client

    def submit(self, work: Work) -> str:
        key = uuid.uuid4().hex
        files = {"image": ("picture.png", work.picture)}
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            with suppress(httpx2.TransportError):
                answer = self.client.post(
                    "/api/v1/jobs", files=files, data={"model": work.model}, headers={"Idempotency-Key": key}
                )
                if answer.status_code == 202:
                    return str(answer.json()["job_id"])
                if answer.status_code not in (429, 502, 503, 504):
                    raise RuntimeError(answer.text)
            time.sleep(0.5)
        raise TimeoutError(f"{self.name} could not submit")

    def ended(self, job_id: str) -> dict[str, Any]:
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            with suppress(httpx2.TransportError):
                answer = self.client.get(f"/api/v1/jobs/{job_id}", headers={"Prefer": "wait=30"})
                if answer.status_code == 200 and answer.json()["status"] not in ("PENDING", "PROCESSING"):
                    return dict(answer.json())
            time.sleep(0.1)
        return {"job_id": job_id, "status": "LOST"}


def main() -> int:
    """Run, write, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000, help="jobs of both users together")
    parser.add_argument("--seed", type=int, default=1, help="of the order of the jobs")
    options = parser.parse_args()
    started = time.time()
    models = [{**model, "downscale_delay_s": 5} for model in laptop_models()]
    with (
        temporary_folder() as folder,
        LocalService(folder, models, {"MODEL_SOURCE": "demo"}, haproxy=False) as service,
        _peak_memory(service) as peak,
    ):
        users = [_user(service, name) for name in USERS]
        listed = users[0].client.get("/api/v1/models").json()["models"]
        served = [one["name"] for one in listed if one.get("state") != "refused"]
        raw, details = _run(service, users, served, options.jobs, options.seed)
        raw["mixed_peak_gib"] = [max(peak) / 2**30]
    record = write_record(
        "bench-mixed",
        units="counts, unless the name ends in a unit",
        options=vars(options),
        started_at=started,
        seconds=time.time() - started,
        models=served,
        results=raw,
        details=details,
    )
    return report(results(record["results"], "bench-mixed"))


def _user(service: LocalService, name: str) -> User:
    headers = {"Authorization": f"Bearer {service.token(name)}"}
    return User(name, httpx2.Client(base_url=service.cluster.url, headers=headers, timeout=60, trust_env=False))


def _run(
    service: LocalService, users: list[User], served: list[str], jobs: int, seed: int
) -> tuple[dict[str, list[float]], dict[str, object]]:
    kinds = [
        Work(model, png(page()[0]) if model in SHARES else png(coins(number)[0]))
        for model in served
        for number in (1, 2)
    ]
    right = {}
    for work in kinds:
        job = users[0].ended(users[0].submit(work))
        if job["status"] != "COMPLETED":
            raise RuntimeError(f"{work.model} alone: {json.dumps(job)[:500]}")
        right[work] = _comparable(job["result"])
        print(f"# {work.model} alone: done", flush=True)
    wait_until(lambda: _total(_submits(service)) == len(kinds), ASLEEP_S)  # rows come about a second late
    before = _submits(service)
    work_list = _plan(kinds, served, jobs, seed)
    begun = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        striking = pool.submit(_kill_one, service)
        accepted = list(pool.map(lambda at: (users[at % 2].submit(work_list[at]), at), range(len(work_list))))
        print(f"# {len(accepted)} accepted after {time.monotonic() - begun:.0f} s; {striking.result()}", flush=True)
        ended = list(pool.map(lambda one: users[one[1] % 2].ended(one[0]), accepted))
    seconds = time.monotonic() - begun
    with suppress(TimeoutError):  # `mixed_usage_off` says how many are missing
        wait_until(lambda: _total(_submits(service)) - _total(before) >= len(accepted), ASLEEP_S)
    sleeping = [name for name in served if name != "sem-classifier"]
    began = time.monotonic()
    wait_until(lambda: not any(service.replicas(name) for name in sleeping), ASLEEP_S)
    wrong = [
        job["job_id"]
        for job, (_, at) in zip(ended, accepted, strict=True)
        if job["status"] == "COMPLETED" and not _same(_comparable(job["result"]), right[work_list[at]])
    ]
    wanted = Counter((users[at % 2].name, work_list[at].model) for _, at in accepted)
    counted = _submits(service)
    counted.subtract(before)
    usage_off = sum(abs(counted[key] - wanted[key]) for key in counted.keys() | wanted.keys())
    raw = {
        "mixed_jobs": [float(len({job_id for job_id, _ in accepted}))],
        "mixed_lost": [float(sum(job["status"] != "COMPLETED" for job in ended))],
        "mixed_wrong": [float(len(wrong))],
        "mixed_usage_off": [float(usage_off)],
        "mixed_models": [float(len(served))],
        "mixed_jobs_per_s": [len(accepted) / seconds],
    }
    details = {
        "by_model": Counter(work_list[at].model for _, at in accepted),
        "statuses": Counter(job["status"] for job in ended),
        "failures": [job for job in ended if job["status"] != "COMPLETED"][:5],
        "wrong": wrong[:5],
        "asleep_after_s": time.monotonic() - began,
        "killed": striking.result(),
    }
    return raw, details


def _plan(kinds: list[Work], served: list[str], jobs: int, seed: int) -> list[Work]:
    slow = {name: jobs * share // 100 for name, share in SHARES.items() if name in served}
    quick = [name for name in served if name not in slow]
    each = {**slow, **{name: (jobs - sum(slow.values())) // len(quick) for name in quick}}
    each[quick[0]] += jobs - sum(each.values())
    source, of = random.Random(seed), {name: [work for work in kinds if work.model == name] for name in served}
    plan = [source.choice(of[name]) for name, count in each.items() for _ in range(count)]
    source.shuffle(plan)
    return plan


def _kill_one(service: LocalService) -> str:
    """Kill a replica of VICTIM while it holds claimed jobs."""
    wait_until(lambda: service.replicas(VICTIM) and service.leases(VICTIM), DEADLINE_S)
    [victim, *_], held = service.replicas(VICTIM), len(service.leases(VICTIM))
    os.kill(victim, signal.SIGKILL)
    return f"a replica of {VICTIM} was killed while {held} jobs were claimed"


def _submits(service: LocalService) -> Counter[tuple[str, str]]:
    return Counter({(user, model): count for user, model, count in service.rows(SUBMITS)})


def _total(counted: Counter[tuple[str, str]]) -> int:
    return sum(counted.values())


def _comparable(value: Any) -> Any:
    """A result without what differs from run to run: ids of requests, durations, sizes of compressed files."""
    if isinstance(value, dict):
        return {name: _comparable(one) for name, one in value.items() if name not in VOLATILE}
    return [_comparable(one) for one in value] if isinstance(value, list) else value


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, int | float) and isinstance(other, int | float):
        return abs(one - other) <= RATED * max(1.0, abs(other))
    return bool(one == other)


@contextmanager
def _peak_memory(service: LocalService) -> Iterator[list[int]]:
    """Samples of the proportional memory of all the service's processes, once a second."""
    samples, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(1):
            total = 0
            for process in service.processes():
                with suppress(psutil.Error):
                    total += process.memory_full_info().pss
            samples.append(total)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()


if __name__ == "__main__":
    sys.exit(main())
