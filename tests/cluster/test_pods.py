"""A pod of each kind is deleted, killed or frozen under steady load."""

from __future__ import annotations

import signal
import time

import pytest
from load import Load
from real_cluster import RealCluster, wait
from record import Record

pytestmark = pytest.mark.pairs
GROUPS = ("headgroup", "gateway", "models")
FROZEN_S = 60.0
GONE_S = 120.0


@pytest.mark.parametrize("group", [pytest.param("headgroup", marks=pytest.mark.short), *GROUPS[1:]])
def test_deleted(cluster: RealCluster, record: Record, group: str) -> None:
    with Load(cluster, f"{group}-deleted") as load:
        victim = cluster.pods(group)[0]
        cluster.delete(victim)
        cluster.wait_until_healed(victim, group)
    account = record.settled(load, slowest="cluster_slowest_pod_lost_s")
    record.measured(cluster_broken_in_order=account.broken)


@pytest.mark.parametrize("group", GROUPS)
def test_killed(cluster: RealCluster, record: Record, group: str) -> None:
    with Load(cluster, f"{group}-killed") as load:
        victim = cluster.pods(group)[0]
        cluster.signal(victim, signal.SIGKILL)
        cluster.wait_until_healed(victim, group)
    record.settled(load, slowest="cluster_slowest_pod_lost_s")


@pytest.mark.parametrize("group", GROUPS)
def test_frozen_for_a_minute(cluster: RealCluster, record: Record, group: str) -> None:
    with Load(cluster, f"{group}-frozen") as load:
        victim = cluster.pods(group)[0]
        cluster.signal(victim, signal.SIGSTOP)
        try:
            time.sleep(FROZEN_S)  # the fault itself
        finally:
            cluster.signal(victim, signal.SIGCONT)
        cluster.wait_until_whole()
    record.settled(load, slowest="cluster_slowest_frozen_s")


def test_an_idle_model_goes_at_once(cluster: RealCluster, record: Record) -> None:
    """Nothing is asked of it, so nothing is waited for."""
    victim = cluster.pods("models")[0]
    cluster.delete(victim)
    began = time.monotonic()
    name = victim["metadata"]["name"]
    wait(lambda: name not in {pod["metadata"]["name"] for pod in cluster.objects("pods")}, GONE_S, f"{name} is there")
    record.measured(cluster_idle_gone_s=time.monotonic() - began)
