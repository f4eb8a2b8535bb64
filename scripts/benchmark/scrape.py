"""Metrics as Ray's node agent exports them."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass

import httpx2

from serve_app.local.cluster import Cluster

EXPORT_DEADLINE_S = 40.0
# The histogram's own sum is made up by Ray from the middles of its buckets; its count and a counter are exact.
SAMPLE = re.compile(r"^\w*model_(items|batch_size_count)(?:_total)?\{(.*)\} ([0-9.e+]+)$")


@dataclass(frozen=True)
class Batches:
    """Batches a model ran since its start, and the items in them."""

    count: float
    items: float


async def batches(cluster: Cluster, model: str, at_least: float = 0) -> Batches:
    """What the agent has exported, once that covers `at_least` items: replicas push every few seconds."""
    async with asyncio.timeout(EXPORT_DEADLINE_S):
        while True:
            found = await _read(cluster, model)
            if found.items >= at_least:
                return found
            await asyncio.sleep(0.5)


async def exported(cluster: Cluster) -> list[str]:
    """Every line that the metrics endpoints of the cluster show now."""
    discovery = json.loads((cluster.ray_folder / "prom_metrics_service_discovery.json").read_text())
    targets = {target for group in discovery for target in group["targets"]}
    async with httpx2.AsyncClient(trust_env=False, timeout=5) as client:
        pages = [(await client.get(f"http://{target}/metrics")).text for target in targets]
    return [line for page in pages for line in page.splitlines()]


async def _read(cluster: Cluster, model: str) -> Batches:
    totals = {"items": 0.0, "batch_size_count": 0.0}
    for line in await exported(cluster):
        if (sample := SAMPLE.match(line)) and f'deployment="{model}"' in sample[2]:
            totals[sample[1]] += float(sample[3])
    return Batches(totals["batch_size_count"], totals["items"])
