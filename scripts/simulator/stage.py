"""Where a scenario happens: the simulated cluster with the service in it, and everything that can be seen of it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import httpx2
from benchmark.observed_service import wait_until

from serve_app.contracts import Json
from simulator.around.edge import Edge
from simulator.around.operator import Operator, Running
from simulator.around.servers import ISSUER_URL, redis_client
from simulator.load import Load
from simulator.pods.house import House
from simulator.pods.image import ROOT
from simulator.pods.kubelet import Kubelet

PICTURES = sorted((ROOT / "serve_app" / "samples").glob("*.jpg"))
MODEL = "sem-classifier"
STEADY_S = 3.0
"""Load before and after each blow."""
PATIENCE_S = 240.0
ENDED = ("COMPLETED", "FAILED", "CANCELLED")
COUNTERS = ("accepted", "reopened", "completed", "failed", "cancelled", "dead")

T = TypeVar("T")


@dataclass
class Stage:
    """What a scenario gets, and the record that it adds to."""

    house: House
    edge: Edge
    operator: Operator
    progress: Callable[[str], None]
    notes: list[Json] = field(default_factory=list)
    """What happened, and when; a fresh list for each scenario."""
    piled: list[str] = field(default_factory=list)
    """Ids of the jobs that were put in front of it; fresh too."""
    extra: list[Json] = field(default_factory=list)
    """Requests that were asked beside the load; fresh too."""

    @property
    def running(self) -> Running:
        assert self.operator.active is not None
        return self.operator.active

    def note(self, what: str, **facts: object) -> None:
        """Keep what happened now."""
        self.notes.append({"at": time.time(), "what": what, **facts})
        self.progress(f"  {what} {facts or ''}")

    def wait(self, look: Callable[[], T], seconds: float = PATIENCE_S) -> T:
        """What `look` gives, once it is true."""
        return wait_until(look, seconds)

    def load(self, user: str) -> Load:
        """The traffic of one user."""
        return Load(self.edge, self.token(user), PICTURES)

    def pile_up(self, jobs: int, token: str = "") -> list[str]:
        """Have so many jobs accepted at once, and go on while they wait; their ids. Without a token by a new user."""
        headers = {"Authorization": f"Bearer {token or self.token('pile-' + uuid.uuid4().hex[:8])}"}
        files = [{"image": ("picture.jpg", PICTURES[number % len(PICTURES)].read_bytes())} for number in range(jobs)]
        with httpx2.Client(headers=headers, trust_env=False, timeout=30) as http:

            def submit(picture: Json) -> str:
                answer = http.post(f"{self.edge.repeating}/api/v1/jobs", files=picture)
                return str(answer.raise_for_status().json()["job_id"])

            with ThreadPoolExecutor(8) as threads:
                ids = list(threads.map(submit, files))
        self.piled += ids
        return ids

    def token(self, user: str) -> str:
        """A token of the development issuer."""
        issuer = self.house.kubelets["dev-issuer"].pod.address
        url = ISSUER_URL.replace("dev-issuer", issuer)
        form = {"grant_type": "client_credentials", "client_id": user}
        answer = httpx2.post(f"{url}/token", data=form, trust_env=False, timeout=10).raise_for_status()
        return str(answer.json()["access_token"])

    def wait_until_whole(self, seconds: float = PATIENCE_S) -> float:
        """Return when every pod is there and ready and every application runs; the seconds it took."""
        began = time.monotonic()
        wait_until(self.is_whole, seconds)
        return time.monotonic() - began

    def is_whole(self) -> bool:
        """Every group Ready at its minimum, every application RUNNING, the service ready by its own account.

        A worker beyond the minimum is not Ready while no replica is on it; KubeRay means it so.
        """
        groups = self.running.resource["spec"]["workerGroupSpecs"]
        wanted = {"headgroup": 1, **{group["groupName"]: group.get("minReplicas", 0) for group in groups}}
        if any(sum(one.ready for one in self.running.group(name)) < count for name, count in wanted.items()):
            return False
        return self.operator.runs(self.running) and self._is_ready()

    def _is_ready(self) -> bool:
        try:
            return httpx2.get(f"{self.edge.plain}/readyz", trust_env=False, timeout=5).status_code == 200
        except httpx2.HTTPError:
            return False

    def pods(self, group: str) -> list[Kubelet]:
        """Living pods of the active cluster's group."""
        return self.running.group(group)

    def ledger(self) -> dict[str, int]:
        """The model's counters."""
        with redis_client(self.house) as redis:
            found = redis.hgetall(f"ledger:{MODEL}")
        return {name: int(found.get(name, 0)) for name in COUNTERS}

    def jobs(self, ids: list[str]) -> list[Json]:
        """The record of each job as Redis has it; without a status where there is none."""
        names = ("status", "deliveries", "strikes")
        with redis_client(self.house) as redis:
            rows = [redis.hmget(f"job:{job_id}", names) for job_id in ids]
        return [{"job_id": job_id, **dict(zip(names, row, strict=True))} for job_id, row in zip(ids, rows, strict=True)]

    def settle(self, ids: list[str], seconds: float = 120.0) -> list[Json]:
        """The records once every job has ended, or when it took too long: the verdict will tell."""
        try:
            wait_until(lambda: all(job["status"] in ENDED for job in self.jobs(ids)), seconds)
        except TimeoutError:
            self.note("some jobs did not end")
        return self.jobs(ids)
