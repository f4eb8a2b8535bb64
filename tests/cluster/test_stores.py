"""The job Redis, Ray's Redis and PostgreSQL are deleted, killed, or out of disk under steady load."""

from __future__ import annotations

import signal
import time

import pytest
from load import Load
from real_cluster import RealCluster, is_ready, restarts, wait
from record import Record

STORES = ("redis", "ray-redis", "postgres")
CLAIMS = {"redis": "data-redis-0", "ray-redis": "data-ray-redis-0", "postgres": "data-postgresql-0"}
BACK_S = 120.0
FULL_S = 20.0
ROOM_MIB = 64
"""Left on a volume that is about to be full: a write-ahead log file of PostgreSQL is 16 MiB."""


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


@pytest.mark.parametrize("store", STORES)
def test_volume_full(cluster: RealCluster, record: Record, store: str) -> None:
    """A file system of its own takes the place of the store's folder, and something else fills it for a while."""
    workload = str(cluster.server(store)["metadata"]["ownerReferences"][0]["name"])
    cluster.scale(workload, 0)
    volume = cluster.limited_volume(CLAIMS[store], ROOM_MIB)
    cluster.scale(workload, 1)
    cluster.wait_until_whole()
    with Load(cluster, f"{store}-full") as load:
        volume.fill()
        try:
            time.sleep(FULL_S)  # the fault itself
        finally:
            volume.empty()
        wait(lambda: is_ready(cluster.server(store)), BACK_S, f"{store} is not back")
    _settled(record, load, FULL_S)


def _settled(record: Record, load: Load, lasted_s: float = 0.0) -> None:
    """Nothing failed for a client that repeats, and rows were written later; `lasted_s` is how long the fault was."""
    account = record.settled(load, slowest="cluster_slowest_store_lost_s")
    record.measured(cluster_away_s=max(0.0, account.away_s - lasted_s))
