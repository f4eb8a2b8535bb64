"""The whole service under test: own servers, own Ray node, own Serve config; started once, as `make run` starts it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2
import psutil
import psycopg
import yaml
from pydantic import SecretStr
from redis import Redis

from serve_app.contracts import Json
from serve_app.local.cluster import Cluster
from serve_app.local.server import free_port
from serve_app.local.stack import LocalStack
from serve_app.local.state import password
from serve_app.settings import Settings
from serve_app.usage.migrations import migrate

TESTS = Path(__file__).resolve().parents[1]
MODEL = "sem-classifier"
WORDS = "words"
PACED = "paced-words"
BATCH = 8
LEASE_S = 6.0
POLL_S = 0.05


class RunningService:
    """A context manager; `models` are the blocks of its Serve config, `environment` what its replicas see beside."""

    def __init__(
        self, folder: Path, models: Sequence[Json], environment: Json, *, gateways: int = 2, haproxy: bool = False
    ) -> None:
        self.folder = folder
        own = Settings(redis_url=SecretStr(""), database_url=SecretStr(""))
        self.stack = LocalStack(folder / "state", own, issuer_port=free_port())
        self._models, self._gateways, self._haproxy = list(models), gateways, haproxy
        self._given = environment

    def __enter__(self) -> Self:
        self.stack.__enter__()
        try:
            migrate(self.stack.environment["DATABASE_URL"])
            self.cluster = Cluster(self.folder / "ray", self._config(), self._environment(), haproxy=self._haproxy)
            self.cluster.start()
        except BaseException:
            self.stack.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cluster.stop()
        self.stack.__exit__(kind, error, trace)

    def token(self, user: str) -> str:
        return self.stack.authority.mint(user)

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """What PostgreSQL answers."""
        with psycopg.connect(self.stack.environment["DATABASE_URL"], autocommit=True) as connection:
            return connection.execute(query, values).fetchall()

    def redis(self) -> Redis:
        """A client of the job Redis with text replies."""
        return Redis.from_url(self.stack.environment["REDIS_URL"], decode_responses=True)

    def replicas(self, deployment: str) -> set[int]:
        """Process ids of the deployment's replicas that Serve holds for running, and that live."""
        found = self._application()["deployments"].get(deployment, {"replicas": []})["replicas"]
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
        """Return when that many replicas run and the service calls itself healthy and ready."""
        deadline = time.monotonic() + seconds
        while not (len(self.replicas(deployment)) == replicas and self._answers_well()):
            assert time.monotonic() < deadline, f"{deployment} is not whole again"
            time.sleep(POLL_S)

    def _answers_well(self) -> bool:
        return all(
            httpx2.get(self.cluster.url + path, timeout=15, trust_env=False).status_code == 200
            for path in ("/health", "/readyz")
        )

    def _application(self) -> Json:
        answer = httpx2.get(
            f"{self.cluster.dashboard_url}/api/serve/applications/",
            headers={"Authorization": f"Bearer {password(self.cluster.token_file)}"},
            timeout=15,
            trust_env=False,
        )
        return answer.json()["applications"]["sem-image-classifier"]

    def _config(self) -> Path:
        arguments = {"gateway_replicas": self._gateways, "gateway_cpus": 0.1, "models": self._models}
        application = {
            "name": "sem-image-classifier",
            "route_prefix": "/",
            "import_path": "serve_app.app:build",
            "args": arguments,
        }
        path = self.folder / "serve.yaml"
        path.write_text(yaml.safe_dump({"proxy_location": "HeadOnly", "applications": [application]}))
        return path

    def _environment(self) -> dict[str, str]:
        folders = [str(TESTS), str(TESTS / "serve"), os.environ.get("PYTHONPATH", "")]
        return {
            **self.stack.environment,
            "PYTHONPATH": os.pathsep.join(filter(None, folders)),
            "ENVIRONMENT": "local",
            "OIDC_AUDIENCE": "sem-image-classifier",
            "LEASE_SECONDS": str(LEASE_S),
            "DECODE_TIMEOUT_S": "60",  # a decode worker that a test freezes must not be replaced meanwhile
            "RAY_metrics_report_interval_ms": "2000",
            **self._given,
        }


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
