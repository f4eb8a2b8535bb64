"""`serve run CONFIG` with the config's `logging_config` for Serve itself too: `python -m serve_app.local.serving`.

`serve run` (Ray 2.60) hands it to replicas alone: its proxy writes text, and a line of its own for each request. But it
leaves a Serve that runs already as it is.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import ray
import yaml
from ray import serve
from ray.serve.scripts import cli

STARTED_WITH: Final = ("proxy_location", "http_options", "logging_config")


def run(address: str, config: str) -> None:
    """Start Serve on the Ray node at `address`, then do as `serve run` does, until it is ended."""
    options = yaml.safe_load(Path(config).read_text())
    ray.init(address=address, namespace="serve")
    serve.start(**{name: options[name] for name in STARTED_WITH if name in options})
    cli(["run", f"--address={address}", config])


if __name__ == "__main__":
    run(*sys.argv[1:])
