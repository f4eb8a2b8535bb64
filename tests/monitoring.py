"""What the shipped dashboard and alert rules ask Prometheus for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).resolve().parents[1] / "k8s" / "monitoring"
METRIC = re.compile(r"\b(?:ray|semapi)_\w+")


def dashboard_expressions() -> Iterator[str]:
    for panel in json.loads((FOLDER / "dashboard.json").read_text("utf-8"))["panels"]:
        for target in panel["targets"]:
            yield target["expr"]


def of_the_cluster() -> dict[str, Any]:
    """The rules about what only a cluster can tell, as Prometheus wants them."""
    return dict(yaml.safe_load((FOLDER / "cluster.yaml").read_text("utf-8"))["spec"])


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / "alerts.yaml").read_text("utf-8"))["groups"]
    return [rule for group in [*groups, *of_the_cluster()["groups"]] for rule in group["rules"]]


def family(sample: str) -> str:
    """The metric that a sample belongs to: a histogram's and a counter's samples have its name and an ending."""
    return re.sub(r"_(count|bucket|sum|total)$", "", sample)
