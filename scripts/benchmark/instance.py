"""The instance under measurement: HAProxy mode on Linux, the model of the benchmark, and one that sleeps."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil

from benchmark.corpus import MODEL_ID
from benchmark.local_service import UNHURRIED, LocalService
from serve_app.contracts import Json

BATCH = 8
MODEL = "vit-b32"
SLEEPER = "sleeper"
USER = "bench"
GATEWAY = "ServeReplica:sem-image-classifier:gateway"
HAPROXY = sys.platform == "linux"
MODE = "HAProxy and throughput switches" if HAPROXY else "plain proxy (HAProxy needs Linux)"


class Instance(LocalService):
    """The service in `folder`, with the snapshot in `models`."""

    def __init__(self, folder: Path, models: Path) -> None:
        environment = {
            "ENGINE": "torch",  # what the bare pipeline runs, whatever the caller has set
            "MODEL_SOURCE": "private",
            "MODEL_ID": MODEL_ID,
            "MODEL_CACHE_DIR": str(models.absolute()),
            "QUEUE_MAX_JOBS": "100000",
            "FORWARD_TIMEOUT_S": "900",
            **UNHURRIED,
        }
        super().__init__(
            folder,
            _arguments(),
            environment,
            options={"logging_config": {"enable_access_log": False}, "http_options": {"keep_alive_timeout_s": 75}},
            python_path=[Path(__file__).resolve().parents[1]],
            haproxy=HAPROXY,
            progress=lambda step: print(f"# {step}", flush=True),
        )

    @property
    def port(self) -> int:
        return self.cluster.api_port

    def gateway_pss_mb(self) -> list[float]:
        """Proportional memory of each gateway replica, in MB (10^6 bytes)."""
        sizes = []
        for guard in self.cluster.pids():
            for process in psutil.Process(guard).children(recursive=True):
                if GATEWAY in " ".join(process.cmdline()):
                    sizes.append(process.memory_full_info().pss / 1e6)
        return sizes


def _arguments() -> Json:
    implementation = "serve_app.models.sem_classifier:SemClassifier"
    model = {"name": MODEL, "implementation": implementation, "max_batch_size": BATCH, "num_cpus": 1}
    sleeper = {"name": SLEEPER, "implementation": "benchmark.models:Sleeper", "num_cpus": 0.1}
    return {"gateway_replicas": 2, "gateway_cpus": 0.1, "models": [model, sleeper]}
