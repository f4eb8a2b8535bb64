"""A local service and what can be seen of it from beside: replicas, processes, claimed jobs, counters, rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import httpx2
import psutil
import psycopg
from redis import Redis

from benchmark.local_service import LocalService
from serve_app.contracts import Json
from serve_app.local.state import password

POLL_S = 0.05

T = TypeVar("T")


class ObservedService(LocalService):
    """The looks at a running service that its own API does not give."""

    @property
    def lease_seconds(self) -> float:
        """How long a claimed job stays claimed without a renewal."""
        return float(self._given.get("LEASE_SECONDS", self.stack.settings.lease_seconds))

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """What PostgreSQL answers."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            return connection.execute(query, values).fetchall()

    def redis(self) -> Redis:
        """A client of the job Redis with text replies."""
        return Redis.from_url(self.stack.environment["REDIS_URL"], decode_responses=True)

    def replicas(self, deployment: str) -> set[int]:
        """Process ids of the deployment's replicas that Serve holds for running, and that live; none without Serve."""
        found = self._deployments().get(deployment, {"replicas": []})["replicas"]
        return {one["pid"] for one in found if one["state"] == "RUNNING" and psutil.pid_exists(one["pid"])}

    def processes(self) -> list[psutil.Process]:
        """Every process of ours: servers, Ray, replicas, and the guards around them."""
        guards = [psutil.Process(pid) for pid in self.cluster.pids()]
        ours = [child for child in psutil.Process().children() if child not in guards]
        return [process for one in [*guards, *ours] for process in [one, *one.children(recursive=True)]]

    def leases(self, model: str) -> dict[str, float]:
        """Claimed jobs, and the seconds until their lease ends if nobody renews it."""
        with self.redis() as redis:
            seconds, microseconds = redis.time()
            now = seconds * 1000 + microseconds / 1000
            claimed = redis.zrange(f"lease:{model}", 0, -1, withscores=True)
        return {job: (deadline - now) / 1000 for job, deadline in claimed}

    def ledger(self, model: str) -> dict[str, int]:
        """The model's counters; none is left out."""
        names = ("accepted", "reopened", "completed", "failed", "cancelled", "dead")
        with self.redis() as redis:
            found = redis.hgetall(f"ledger:{model}")
        return {name: int(found.get(name, 0)) for name in names}

    def in_flight(self, model: str) -> int:
        """Jobs accepted and not ended, by the ledger's equation."""
        counters = self.ledger(model)
        begun = counters.pop("accepted") + counters.pop("reopened")
        return begun - sum(counters.values())

    def wait_until_whole(self, deployment: str, replicas: int, seconds: float = 60) -> None:
        """Return when that many replicas run and the service calls itself healthy and ready. Raises TimeoutError."""
        wait_until(lambda: len(self.replicas(deployment)) == replicas and self._answers_well(), seconds)

    def _answers_well(self) -> bool:
        answers = [_get(self.cluster.url + path) for path in ("/health", "/readyz")]
        return all(answer is not None and answer.status_code == 200 for answer in answers)

    def _deployments(self) -> Json:
        answer = _get(
            f"{self.cluster.dashboard_url}/api/serve/applications/",
            headers={"Authorization": f"Bearer {password(self.cluster.token_file)}"},
        )
        applications: Json = answer.json()["applications"] if answer and answer.status_code == 200 else {}
        deployments: Json = applications.get("sem-image-classifier", {"deployments": {}})["deployments"]
        return deployments


def wait_until(look: Callable[[], T], seconds: float) -> T:
    """What `look` gives, once it is true. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"the awaited condition did not come within {seconds:g} s")
        time.sleep(POLL_S)
    return found


@contextmanager
def frozen(pids: set[int]) -> Iterator[list[psutil.Process]]:
    """Processes that do nothing at all meanwhile, and so hold on to what they hold; those killed inside stay dead."""
    processes = [psutil.Process(pid) for pid in pids]
    for process in processes:
        process.suspend()
    try:
        yield processes
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()


def _get(url: str, **options: Any) -> httpx2.Response | None:
    """The answer; None when nobody answers, as while a process is replaced."""
    try:
        return httpx2.get(url, timeout=15, trust_env=False, **options)
    except httpx2.HTTPError:
        return None
