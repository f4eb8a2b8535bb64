"""Starts a small service in HAProxy mode in the folder it is told, says so, and waits to be killed."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

from large_tokens import large_tokens
from running_service import WORDS, RunningService


def main() -> None:
    model = {"name": WORDS, "implementation": "toy_model:WordStatistics", "num_cpus": 0.1}
    with RunningService(Path(sys.argv[1]), [model], {}, gateways=1, haproxy=True) as service:
        for deployment in ("gateway", WORDS):
            service.wait_until_whole(deployment, replicas=1)
        replicas = sorted(service.replicas("gateway") | service.replicas(WORDS))
        facts = {"ray_folder": str(service.cluster.ray_folder), "replicas": replicas, "url": service.cluster.url}
        print(json.dumps({**facts, "tokens": large_tokens(service.token)}), flush=True)
        signal.pause()


if __name__ == "__main__":
    main()
