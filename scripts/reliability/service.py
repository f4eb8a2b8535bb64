"""The service that is treated badly: two gateways, two model replicas, the demo weights, nearly all else by default."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmark.local_service import UNHURRIED
from benchmark.observed_service import ObservedService

MODEL = "sem-classifier"
WEIGHTS = {"MODEL_SOURCE": "demo", "ENGINE": "torch"}


class ToughService(ObservedService):
    """In HAProxy mode where there is HAProxy, as in a cluster; with its own servers in `folder`."""

    def __init__(self, folder: Path) -> None:
        model = {
            "name": MODEL,
            "implementation": "reliability.models:ActingClassifier",
            "min_replicas": 2,
            "max_replicas": 2,
            "num_cpus": 0.1,
        }
        environment = {
            **WEIGHTS,
            "INFERENCE_THREADS": "1",  # two replicas share the processors
            # Only how long a hung forward pass is waited for, twice at most, hangs on this.
            "FORWARD_TIMEOUT_S": "20",
            **UNHURRIED,
        }
        super().__init__(
            folder,
            {"gateway_replicas": 2, "gateway_cpus": 0.1, "models": [model]},
            environment,
            options={"logging_config": {"enable_access_log": False}},
            python_path=[Path(__file__).resolve().parents[1]],
            haproxy=sys.platform == "linux",
            progress=lambda step: print(f"# {step}", flush=True),
        )
