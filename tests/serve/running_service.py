"""The whole service under test: own servers, own Ray node, own Serve config; started once, as `make run` starts it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import psutil
import psycopg
import yaml
from benchmark.local_service import UNHURRIED, LocalService
from leaks import log_files
from redis import Redis

import serve_app
from serve_app.contracts import Json
from serve_app.local.state import password

TESTS = Path(__file__).resolve().parents[1]
LAPTOP = Path(serve_app.__file__).with_name("serve.yaml")
MODEL = "sem-classifier"
WORDS = "words"
PACED = "paced-words"
BATCH = 8
GATEWAYS = 3
LEASE_S = 6.0
METRICS_TOKEN = "a-scraper-of-the-tests"
POLL_S = 0.05
ENVIRONMENT = {
    "OIDC_AUDIENCE": "sem-image-classifier",
    "METRICS_TOKEN": METRICS_TOKEN,
    "LEASE_SECONDS": str(LEASE_S),
    "DECODE_TIMEOUT_S": "60",  # a decode worker that a test freezes must not be replaced meanwhile
    **UNHURRIED,
    "RAY_metrics_report_interval_ms": "2000",
}


class RunningService(LocalService):
    """A context manager; `models` are the blocks of its Serve config, `environment` what its replicas see beside."""

    def __init__(
        self,
        folder: Path,
        models: Sequence[Json],
        environment: Json,
        *,
        gateways: int = GATEWAYS,
        haproxy: bool = False,
    ) -> None:
        super().__init__(
            folder,
            {"gateway_replicas": gateways, "gateway_cpus": 0.1, "models": list(models)},
            {**ENVIRONMENT, **environment},
            options={"logging_config": yaml.safe_load(LAPTOP.read_text())["logging_config"]},
            python_path=[TESTS, TESTS / "serve"],
            haproxy=haproxy,
        )
        self.tokens: list[str] = []
        """Every token that was made for a test: no log may hold one."""

    def token(self, user: str, **claims: Any) -> str:
        self.tokens.append(super().token(user, **claims))
        return self.tokens[-1]

    def request_lines(self) -> dict[str, list[Json]]:
        """The lines of answered requests, by the file of the gateway replica that answered."""
        files = [path for path in log_files([self.cluster.ray_folder]) if path.name.endswith("_requests.log")]
        return {path.name: [json.loads(line) for line in path.read_text().splitlines()] for path in files}

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """What PostgreSQL answers."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
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

    def claims(self, model: str) -> dict[str, str]:
        """Claimed jobs, and the token of the lease that holds each."""
        with self.redis() as redis:
            claimed = redis.zrange(f"lease:{model}", 0, -1)
            tokens = [redis.hget(f"job:{job}", "token") for job in claimed]
        return {job: token for job, token in zip(claimed, tokens, strict=True) if token}

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
