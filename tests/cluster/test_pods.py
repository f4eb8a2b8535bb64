"""A pod of each kind is deleted under steady load."""

from __future__ import annotations

import pytest
from load import Load
from real_cluster import RealCluster
from record import Record

GROUPS = ("headgroup", "gateway", "models")


@pytest.mark.parametrize("group", [pytest.param("headgroup", marks=pytest.mark.short), *GROUPS[1:]])
def test_deleted(cluster: RealCluster, record: Record, group: str) -> None:
    with Load(cluster, f"{group}-deleted") as load:
        victim = cluster.pods(group)[0]
        cluster.delete(victim)
        cluster.wait_until_healed(victim, group)
    account = record.settled(load, slowest="cluster_slowest_pod_lost_s")
    record.measured(cluster_broken_in_order=account.broken)
