"""The node that holds no store is drained, and dies, under steady load."""

from __future__ import annotations

import pytest
from load import Load
from real_cluster import WORKERS, Json, RealCluster, is_ready, wait
from record import Record

pytestmark = pytest.mark.pairs
DRAIN_S = 300.0
NOTICED_S = 120.0
HEALED_S = 600.0
"""A node that does not answer keeps its pods for five minutes."""


@pytest.fixture
def second(cluster: RealCluster) -> Json:
    """The node without stores. Each node has a gateway and a model, because a new pod goes where its group has none."""
    stores = {pod["spec"]["nodeName"] for pod in map(cluster.server, ("redis", "ray-redis", "postgres"))}
    [spare] = [node for node in cluster.objects("nodes") if node["metadata"]["name"] not in stores]
    for group in WORKERS:
        if len(_nodes_of(cluster, group)) == 1:  # since the other node was away
            victim = cluster.pods(group)[0]
            cluster.delete(victim)
            cluster.wait_until_healed(victim, group)
        assert len(_nodes_of(cluster, group)) > 1, f"{group}: one node has them all"
    return spare


def test_drained(cluster: RealCluster, record: Record, second: Json) -> None:
    name = second["metadata"]["name"]
    with Load(cluster, "node-drained") as load:
        drain = ("drain", name, "--ignore-daemonsets", "--delete-emptydir-data", f"--timeout={DRAIN_S:g}s")
        cluster.kubectl(*drain, timeout_s=DRAIN_S + 30)
        cluster.wait_until_whole()
    assert not any(name in _nodes_of(cluster, group) for group in WORKERS)
    cluster.kubectl("uncordon", name)
    account = record.settled(load, slowest="cluster_slowest_pod_lost_s")
    record.measured(cluster_broken_in_order=account.broken)


def test_dead(cluster: RealCluster, record: Record, second: Json) -> None:
    name = second["metadata"]["name"]
    try:
        with Load(cluster, "node-dead") as load:
            cluster.kill_node(2)
            wait(lambda: not is_ready(cluster.object("node", name)), NOTICED_S, f"{name} is not missed")
        record.settled(load, slowest="cluster_slowest_node_dead_s")
    finally:
        cluster.up(2)
        wait(lambda: is_ready(cluster.object("node", name)), HEALED_S, f"{name} is not back")
        cluster.wait_until_whole(HEALED_S)


def _nodes_of(cluster: RealCluster, group: str) -> set[str]:
    """The names of the nodes that have pods of a group."""
    return {pod["spec"].get("nodeName", "") for pod in cluster.pods(group)}
