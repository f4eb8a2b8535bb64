"""The job Redis, Ray's Redis and PostgreSQL are deleted or killed under steady load."""

from __future__ import annotations

import signal

import pytest
from load import Load
from real_cluster import RealCluster, is_ready, restarts, wait
from record import Record

STORES = ("redis", "ray-redis", "postgres")
BACK_S = 120.0


@pytest.mark.parametrize("store", STORES)
def test_deleted(cluster: RealCluster, record: Record, store: str) -> None:
    with Load(cluster, f"{store}-deleted") as load:
        victim = cluster.server(store)
        cluster.delete(victim)
        wait(lambda: cluster.server(store)["metadata"]["uid"] != victim["metadata"]["uid"], BACK_S, f"no new {store}")
        wait(lambda: is_ready(cluster.server(store)), BACK_S, f"{store} is not back")
    _settled(record, load)


@pytest.mark.parametrize("store", STORES)
def test_killed(cluster: RealCluster, record: Record, store: str) -> None:
    with Load(cluster, f"{store}-killed") as load:
        victim = cluster.server(store)
        cluster.signal(victim, signal.SIGKILL)
        wait(lambda: restarts(cluster.server(store)) > restarts(victim), BACK_S, f"{store} was not started again")
        wait(lambda: is_ready(cluster.server(store)), BACK_S, f"{store} is not back")
    _settled(record, load)


def _settled(record: Record, load: Load) -> None:
    """Nothing failed for a client that repeats, and rows were written later."""
    account = record.settled(load, slowest="cluster_slowest_store_lost_s")
    record.measured(cluster_away_s=account.away_s)
