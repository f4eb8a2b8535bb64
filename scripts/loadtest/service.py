"""A whole service on this machine for a load test or a test, and readings of its processes, stores and metrics."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx2
import psutil
import psycopg
import yaml
from redis import Redis

import serve_app
from serve_app.contracts import Json
from serve_app.jobs.records import Ledger, read_ledger
from serve_app.keyspace import LEASE, LEDGER
from serve_app.local.cluster import Cluster
from serve_app.local.stack import LocalStack
from serve_app.local.state import password
from serve_app.settings import Settings
from serve_app.usage.migrations import migrate

SCRIPTS = Path(__file__).resolve().parents[1]
LAPTOP = Path(serve_app.__file__).with_name("serve.yaml")
POLL_S = 0.05
LOOK_S = 0.25
"""Pause between two questions to Serve's dashboard or its metrics: each costs processor time that the service needs."""
EXPORT_DEADLINE_S = 40.0
"""For metrics, which replicas push to Ray's node agent every few seconds."""
HAS_HAPROXY = sys.platform == "linux"
RATES = {
    "RATE_SUBMITS_PER_S": "10000",
    "RATE_READS_PER_S": "10000",
    "RATE_HOUSE_SUBMITS_PER_S": "10000",
    "RATE_HOUSE_READS_PER_S": "10000",
}
"""Limits that the load of one user never reaches. The limiter still counts every request."""

T = TypeVar("T")


def laptop_models() -> list[Json]:
    """The models of `make run`, as its Serve config describes them."""
    models: list[Json] = yaml.safe_load(LAPTOP.read_text())["applications"][0]["args"]["models"]
    return models


class LocalService:
    """Servers, a Ray node and one application of its own, started as `semapi up` starts them. A context manager.

    `models` are the models of the Serve config, `environment` adds variables to the replicas' environment.
    """

    cluster: Cluster

    def __init__(
        self,
        folder: Path,
        models: Sequence[Json],
        environment: Mapping[str, str],
        *,
        gateways: int = 2,
        haproxy: bool = HAS_HAPROXY,
    ) -> None:
        # Settings are not read from the environment, which may name servers of the caller.
        self.folder, self.stack = folder, LocalStack(folder / "state", Settings.model_construct(), issuer_port=0)
        self._args = {"gateway_replicas": gateways, "gateway_cpus": 0.1, "models": list(models)}
        self._haproxy = haproxy
        self._environment = {"ENVIRONMENT": "local", "PYTHONPATH": script_path(), **RATES, **environment}
        self._running = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as starting:
            starting.enter_context(self.stack)
            migrate(self.database_url)
            environment = {**self.stack.environment, **self._environment}
            self.cluster = Cluster(self.folder / "ray", self._config(), environment, haproxy=self._haproxy)
            self.cluster.start(lambda step: print(f"# {step}", file=sys.stderr, flush=True))
            starting.callback(self.cluster.stop)
            self._running = starting.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def _config(self) -> Path:
        """The config of `make run` with other arguments, and with Serve's default HTTP timeouts."""
        config = yaml.safe_load(LAPTOP.read_text())
        del config["http_options"]
        config["applications"][0]["args"] = self._args
        path = self.folder / "serve.yaml"
        path.write_text(yaml.safe_dump(config))
        return path

    @property
    def database_url(self) -> str:
        return self.stack.environment["DATABASE_URL"]

    @property
    def lease_seconds(self) -> float:
        """Time until a claimed job without renewals is claimable again."""
        return float(self._environment.get("LEASE_SECONDS", self.stack.settings.lease_seconds))

    def token(self, user: str, **claims: Any) -> str:
        """A token of the development issuer, with additional claims."""
        return self.stack.issuer.mint(user, **claims)

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """The rows of a PostgreSQL query."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            return connection.execute(query, values).fetchall()

    def redis(self) -> Redis:
        """A client of the job Redis with text replies."""
        return Redis.from_url(self.stack.environment["REDIS_URL"], decode_responses=True)

    def replicas(self, deployment: str) -> set[int]:
        """Process ids of the replicas that Serve lists as running and that exist; none while Serve does not answer."""
        found = self._deployments().get(deployment, {"replicas": []})["replicas"]
        return {one["pid"] for one in found if one["state"] == "RUNNING" and psutil.pid_exists(one["pid"])}

    def processes(self) -> list[psutil.Process]:
        """All processes of the service: servers, Ray, replicas, and the supervisors around them."""
        supervisors = [psutil.Process(pid) for pid in self.cluster.pids()]
        ours = [child for child in psutil.Process().children() if child not in supervisors]
        return [process for one in [*supervisors, *ours] for process in [one, *one.children(recursive=True)]]

    def leases(self, model: str) -> dict[str, float]:
        """Claimed jobs, and the seconds until their lease ends without a renewal."""
        with self.redis() as redis:
            seconds, microseconds = redis.time()
            now = seconds * 1000 + microseconds / 1000
            claimed = redis.zrange(LEASE(model=model), 0, -1, withscores=True)
        return {job: (deadline - now) / 1000 for job, deadline in claimed}

    def held_by_frozen_gateway(self, model: str) -> list[str]:
        """Jobs under a valid lease that missed a renewal: working gateways renew after a third of the lease.

        Empty when there is none after two leases: then the frozen gateway holds no job.
        """
        lease = self.lease_seconds
        with suppress(TimeoutError):
            return wait_until(
                lambda: [job for job, left in self.leases(model).items() if 0 < left < lease / 3], 2 * lease
            )
        return []

    def ledger(self, model: str) -> dict[str, int]:
        """All counters of the model."""
        return asdict(self._ledger(model))

    def in_flight(self, model: str) -> int:
        """Jobs accepted and not ended, by the ledger's equation."""
        return self._ledger(model).in_flight

    def _ledger(self, model: str) -> Ledger:
        with self.redis() as redis:
            return read_ledger(redis.hgetall(LEDGER(model=model)))

    def wait_until_whole(self, deployment: str, replicas: int, seconds: float = 60) -> None:
        """Return when that many replicas run and the service is whole. Raises TimeoutError."""
        wait_until(lambda: len(self.replicas(deployment)) == replicas and self.is_whole(), seconds, LOOK_S)

    def is_whole(self) -> bool:
        """Serve is done with every deployment, and the service calls itself healthy and ready.

        The second alone is not enough: for six seconds `/health` counts a replica that has just ended."""
        deployments = self._deployments()
        done = bool(deployments) and all(one["status"] == "HEALTHY" for one in deployments.values())
        return done and self._answers_well()

    def exported(self) -> list[str]:
        """All lines of the cluster's metrics endpoints."""
        discovery = json.loads((self.cluster.ray_folder / "prom_metrics_service_discovery.json").read_text())
        targets = {target for group in discovery for target in group["targets"]}
        pages = [httpx2.get(f"http://{target}/metrics", timeout=5, trust_env=False).text for target in targets]
        return [line for page in pages for line in page.splitlines()]

    def batches(self, model: str, at_least: float = 0) -> tuple[float, float]:
        """Exported counts of the model's batches and of their items, once these are `at_least`. Raises TimeoutError."""
        # Ray estimates the histogram's sum from its buckets; its count and the counter of items are exact.
        sample = re.compile(rf'^\w*model_(items|batch_size_count)(?:_total)?{{.*deployment="{model}".*}} (\S+)$')

        def look() -> tuple[float, float] | None:
            totals = {"items": 0.0, "batch_size_count": 0.0}
            for found in filter(None, map(sample.match, self.exported())):
                totals[found[1]] += float(found[2])
            return (totals["batch_size_count"], totals["items"]) if totals["items"] >= at_least else None

        return wait_until(look, EXPORT_DEADLINE_S, LOOK_S)

    def _answers_well(self) -> bool:
        answers = [get(self.cluster.url + path) for path in ("/health", "/readyz")]
        return all(answer is not None and answer.status_code == 200 for answer in answers)

    def _deployments(self) -> Json:
        answer = get(
            f"{self.cluster.dashboard_url}/api/serve/applications/",
            headers={"Authorization": f"Bearer {password(self.cluster.token_file)}"},
        )
        applications: Json = answer.json()["applications"] if answer and answer.status_code == 200 else {}
        deployments: Json = applications.get("sem-image-classifier", {"deployments": {}})["deployments"]
        return deployments


def script_path(*folders: Path) -> str:
    """PYTHONPATH for processes that import from these folders and scripts/: both, then the value of this process."""
    return os.pathsep.join([*map(str, folders), str(SCRIPTS), *filter(None, [os.environ.get("PYTHONPATH")])])


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that the servers' account can enter, removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="semapi-loadtest-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


def wait_until(look: Callable[[], T | None], seconds: float, pause_s: float = POLL_S) -> T:
    """Call `look` until its result is true, and return that. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"the condition was not met within {seconds:g} s")
        time.sleep(pause_s)
    return found


@contextmanager
def frozen(pids: set[int]) -> Iterator[list[psutil.Process]]:
    """Suspend these processes inside the block, so that they keep what they hold; killed ones stay dead."""
    processes = [psutil.Process(pid) for pid in pids]
    for process in processes:
        process.suspend()
    try:
        yield processes
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()


def get(url: str, **options: Any) -> httpx2.Response | None:
    """The answer; None without one, as while a process is replaced."""
    try:
        return httpx2.get(url, timeout=15, trust_env=False, **options)
    except httpx2.HTTPError:
        return None
