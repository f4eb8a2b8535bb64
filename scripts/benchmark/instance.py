"""The instance under measurement: own servers, own Ray node, HAProxy mode on Linux."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
import yaml
from pydantic import SecretStr

from benchmark.corpus import MODEL_ID
from serve_app.local.cluster import Cluster
from serve_app.local.server import free_port
from serve_app.local.stack import LocalStack
from serve_app.settings import Settings
from serve_app.usage.migrations import migrate

BATCH = 8
MODEL = "vit-b32"
SLEEPER = "sleeper"
USER = "bench"
GATEWAY = "ServeReplica:sem-image-classifier:gateway"


class Instance:
    """One application with the model of the benchmark and one that sleeps. A context manager."""

    def __init__(self, folder: Path, models: Path) -> None:
        haproxy = sys.platform == "linux"
        self.mode = "HAProxy and throughput switches" if haproxy else "plain proxy (HAProxy needs Linux)"
        self.stack = LocalStack(
            folder / "state", Settings(redis_url=SecretStr(""), database_url=SecretStr("")), issuer_port=free_port()
        )
        self._folder, self._models, self._haproxy = folder, models, haproxy

    def __enter__(self) -> Self:
        self.stack.__enter__()
        try:
            migrate(self.database_url)
            config = self._folder / "serve.yaml"
            config.write_text(yaml.safe_dump(_config()))
            self.cluster = Cluster(self._folder / "ray", config, self._environment(), haproxy=self._haproxy)
            self.cluster.start(lambda step: print(f"# {step}", flush=True))
        except BaseException:
            self.stack.__exit__(None, None, None)
            raise
        self.token = self.stack.authority.mint(USER)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cluster.stop()
        self.stack.__exit__(kind, error, trace)

    @property
    def port(self) -> int:
        return self.cluster.api_port

    @property
    def database_url(self) -> str:
        return self.stack.environment["DATABASE_URL"]

    def gateway_pss_mb(self) -> list[float]:
        """Proportional memory of each gateway replica, in MB (10^6 bytes)."""
        sizes = []
        for guard in self.cluster.pids():
            for process in psutil.Process(guard).children(recursive=True):
                if GATEWAY in " ".join(process.cmdline()):
                    sizes.append(process.memory_full_info().pss / 1e6)
        return sizes

    def _environment(self) -> dict[str, str]:
        scripts = str(Path(__file__).resolve().parents[1])
        return self.stack.environment | {
            "PYTHONPATH": os.pathsep.join(filter(None, [scripts, os.environ.get("PYTHONPATH", "")])),
            "ENVIRONMENT": "local",
            "ENGINE": "torch",  # what the bare pipeline runs, whatever the caller has set
            "MODEL_SOURCE": "private",
            "MODEL_ID": MODEL_ID,
            "MODEL_CACHE_DIR": str(self._models.absolute()),
            "QUEUE_MAX_JOBS": "100000",
            "FORWARD_TIMEOUT_S": "900",
        }


def _config() -> dict[str, object]:
    implementation = "serve_app.models.sem_classifier:SemClassifier"
    model = {"name": MODEL, "implementation": implementation, "max_batch_size": BATCH, "num_cpus": 1}
    sleeper = {"name": SLEEPER, "implementation": "benchmark.models:Sleeper", "num_cpus": 0.1}
    application = {
        "name": "sem-image-classifier",
        "route_prefix": "/",
        "import_path": "serve_app.app:build",
        "args": {"gateway_replicas": 2, "gateway_cpus": 0.1, "models": [model, sleeper]},
    }
    return {
        "proxy_location": "HeadOnly",
        "logging_config": {"enable_access_log": False},
        "http_options": {"keep_alive_timeout_s": 75},
        "applications": [application],
    }
