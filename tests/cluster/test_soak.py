"""Half an hour of steady load with a change every five minutes: nothing fails, grows or starts again."""

from __future__ import annotations

import itertools
import json
import statistics
import threading
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
from load import Load
from real_cluster import RealCluster, restarts
from record import Record

PERIOD_S = 300.0
LOOK_S = 10.0
WARM_S = 60.0
"""After a pod is first seen: what it takes until its caches are full is no growth."""
WINDOW_S = 60.0
"""Memory is compared as the median of one such window at either end of a pod's life."""
STORE = "redis-0"
"""Keeps every job's record for an hour, so it grows with the jobs of the run: its memory for each of them is held."""
MIB = 2**20


@dataclass
class Usage:
    """What the kubelets say of each pod while `watched`: resident memory, and disk without volumes."""

    cluster: RealCluster
    memory: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    disk: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def look(self) -> None:
        """Take one sample of every pod of the service."""
        for node in self.cluster.objects("nodes"):
            path = f"/api/v1/nodes/{node['metadata']['name']}/proxy/stats/summary"
            for pod in json.loads(self.cluster.kubectl("get", "--raw", path))["pods"]:
                if pod["podRef"]["namespace"] == self.cluster.namespace and "rssBytes" in pod.get("memory", {}):
                    self.memory[pod["podRef"]["name"]].append(pod["memory"]["rssBytes"] / MIB)
                    self.disk[pod["podRef"]["name"]].append(pod["ephemeral-storage"]["usedBytes"] / MIB)

    def growth(self) -> dict[str, float]:
        """Memory at the end of a pod's life to that after its start, for every pod that lived long enough to tell."""
        warm, window = round(WARM_S / LOOK_S), round(WINDOW_S / LOOK_S)
        lives = {name: values[warm:] for name, values in self.memory.items() if len(values) >= warm + 3 * window}
        return {
            name: statistics.median(values[-window:]) / statistics.median(values[:window])
            for name, values in lives.items()
        }

    def gained_mib(self, pod: str) -> float:
        """What a pod has gained from its first window to its last."""
        values, window = self.memory[pod], round(WINDOW_S / LOOK_S)
        return statistics.median(values[-window:]) - statistics.median(values[:window])


@pytest.mark.soak
def test_half_an_hour_with_a_change_every_five_minutes(cluster: RealCluster, record: Record) -> None:
    changes: tuple[Callable[[], object], ...] = (
        lambda: cluster.delete(cluster.pods("gateway")[0]),
        lambda: _changed_setting(cluster),
        lambda: cluster.delete(cluster.pods("models")[0]),
        lambda: cluster.run("rollback"),
        lambda: cluster.delete(cluster.pods("headgroup")[0]),
        lambda: cluster.run("restart", "service"),
    )
    usage, over = Usage(cluster), threading.Event()
    with Load(cluster, "soak") as load:
        timer = threading.Thread(target=_look_until, args=(usage, over))
        timer.start()
        try:
            for change in changes:
                change()
                over.wait(PERIOD_S)
        finally:
            over.set()
            timer.join()
        cluster.wait_until_whole()
        cluster.wait_until_alone()
    growth = usage.growth()
    del growth[STORE]
    assert sum(restarts(pod) for pod in cluster.objects("pods")) == 0
    record.settled(
        load,
        slowest="cluster_slowest_soak_s",
        seen={"memory_mib": usage.memory, "disk_mib": usage.disk, "memory_growth": growth},
        cluster_memory_growth=max(growth.values()),
        cluster_record_kib=usage.gained_mib(STORE) * 1024 / load.submitted(),
        cluster_disk_mib=max(itertools.chain(*usage.disk.values())),
    )


def _changed_setting(cluster: RealCluster) -> None:
    cluster.set(JOB_TTL="3598")
    cluster.run("deploy")


def _look_until(usage: Usage, over: threading.Event) -> None:
    """A look that a kubelet does not answer is left out."""
    while not over.wait(LOOK_S):
        with suppress(AssertionError):
            usage.look()
