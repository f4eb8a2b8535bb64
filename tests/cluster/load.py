"""A steady load around a scenario, and the account of it afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from real_cluster import ROOT, Json, RealCluster, wait

HERE = Path(__file__).resolve().parent
PICTURES = ROOT / "serve_app" / "samples"
RATE = 1.0
"""Submits a second: what two processors do beside five pods that start."""
STEADY_S = 4.0
ENDING_S = 300.0
ROWS_S = 60.0
ROWS = """
SELECT (SELECT count(*) FROM job_outcomes WHERE job_id IN ({ids}) AND status = 'COMPLETED'),
       (SELECT count(*) FROM api_usage
        WHERE username = '{user}' AND endpoint_type = 'inference' AND status_code = 202)
"""
STRAYS = """
import json, os
from redis import Redis
from stray_keys import strays
with Redis.from_url(os.environ["REDIS_URL"], socket_timeout=30) as redis:
    print(json.dumps(strays(redis)))
"""
"""Keys of the job Redis that no table has, or that have no end against their row."""


@dataclass(frozen=True)
class Account:
    """What came of the requests and jobs of one load."""

    requests: int
    failed: int
    """Requests without a good answer although they were repeated."""
    repeated: int
    """Requests that needed more than one attempt."""
    broken: int
    """Attempts that ended without an answer: a connection that could not be made, or was closed under its request."""
    answers: dict[str, int]
    """Attempts by their answer."""
    accepted: int
    lost: int
    """Accepted jobs that did not end COMPLETED, or that the service does not list."""
    doubled: int
    """Jobs that the service holds for the user and that were never asked for."""
    redelivered: int
    slowest_s: float
    """Of a job, from its first submit attempt to its end by the service's clock; polls that hang do not show."""
    away_s: float
    """Longest time from a first attempt that was turned away to the next good answer of any request."""
    slowest_answer_s: float
    """Of a request, its repeats included: a read that hung shows here, not among the jobs."""
    strays: list[str]
    """Keys in the job Redis without an owner or an end."""
    rows_missing: int
    """Jobs without their row in job_outcomes, and accepted submits without their row in api_usage."""


class Load:
    """A context manager: one new user submits and polls inside the node as long as it is open.

    `account` afterwards. It needs the stores, so they must be back when it is asked for.
    """

    def __init__(
        self, cluster: RealCluster, name: str, *, rate: float = RATE, jobs: int = 0, warm: bool = True
    ) -> None:
        self.name = name
        self._cluster = cluster
        self.user = f"{name}-{uuid.uuid4().hex[:6]}"
        self._file = cluster.folder / f"{self.user}.jsonl"
        url, environment = cluster.service_url(), {**os.environ, "SEMAPI_TOKEN": cluster.token(self.user)}
        options = ["--rate", str(rate), "--jobs", str(jobs), "--pictures", str(PICTURES)]
        program = [sys.executable, str(HERE / "steady_load.py"), url, str(self._file), *options]
        self._process = subprocess.Popen(cluster.inside(*program), stdin=subprocess.PIPE, env=environment)
        if warm:
            wait(lambda: self._of("job"), 60, "no job of the steady load ended")

    def __enter__(self) -> Self:
        time.sleep(STEADY_S)  # the load itself
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        if kind is None:
            time.sleep(STEADY_S)  # the load itself
        self._process.stdin.close()
        try:
            status = self._process.wait(ENDING_S if kind is None else STEADY_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        assert kind is not None or status == 0, f"the load client ended with {status}"

    def submitted(self) -> int:
        """How many jobs were accepted so far."""
        return sum(one["what"] == "submit" and one["well"] for one in self._of("request"))

    def records(self) -> list[Json]:
        """Everything that was written down so far."""
        whole = self._file.read_text().rpartition("\n")[0] if self._file.exists() else ""
        return [json.loads(line) for line in whole.splitlines()]

    def account(self) -> Account:
        """What came of everything; rows are waited for, because they are written behind the answers."""
        requests, attempts, jobs = self._of("request"), self._of("attempt"), self._of("job")
        completed = {job["job_id"] for job in jobs if job["status"] == "COMPLETED"}
        accepted = {job["job_id"] for job in jobs}
        listed = [job_id for record in self._of("listed") for job_id in record["ids"]]
        outcomes_missing, submits_missing = self._held(accepted)
        return Account(
            requests=len(requests),
            failed=sum(not one["well"] for one in requests),
            repeated=sum(one["attempts"] > 1 for one in requests),
            broken=sum(not one["answer"].isdigit() for one in attempts),
            answers=dict(Counter(one["answer"] for one in attempts)),
            accepted=len(accepted),
            lost=len(accepted - completed) + len(completed - set(listed)),
            doubled=len(listed) - len(accepted.intersection(listed)),
            redelivered=sum((job["deliveries"] or 0) > 1 for job in jobs),
            slowest_s=max((job["seconds"] for job in jobs), default=0.0),
            away_s=_away(attempts),
            slowest_answer_s=max((one["seconds"] for one in requests), default=0.0),
            strays=self._cluster.in_redis(STRAYS),
            rows_missing=outcomes_missing + submits_missing,
        )

    def _of(self, kind: str) -> list[Json]:
        return [record for record in self.records() if record["kind"] == kind]

    def _held(self, accepted: set[str]) -> tuple[int, int]:
        """Completed jobs and accepted submits that have no row; rows are written behind the answers."""
        deadline = time.monotonic() + ROWS_S
        ids = ",".join(f"'{job_id}'" for job_id in accepted)
        rows = ROWS.format(ids=ids, user=self.user)
        while True:
            outcomes, submits = map(int, self._cluster.sql(rows).split("|"))
            missing = abs(len(accepted) - outcomes), max(0, len(accepted) - submits)
            if not any(missing) or time.monotonic() > deadline:
                return missing
            time.sleep(1)  # the writer's pace


def _away(attempts: list[Json]) -> float:
    """From the first attempt of a row of bad ones to the end of the good one that follows it."""
    longest, began = 0.0, None
    for one in sorted(attempts, key=lambda attempt: attempt["at"] + attempt["seconds"]):
        if one["answer"].startswith("2"):
            longest, began = max(longest, one["at"] + one["seconds"] - began if began else 0.0), None
        elif one["answer"] != "429":
            began = began or one["at"]
    return longest


def as_record(account: Account) -> Json:
    """The account in plain JSON."""
    return asdict(account)
