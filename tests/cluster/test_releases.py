"""A release takes over under steady load."""

from __future__ import annotations

import pytest
from load import Load
from real_cluster import RealCluster
from record import Record

ACTIVE = """
import json, os
from redis import Redis
with Redis.from_url(os.environ["REDIS_URL"], socket_timeout=30) as redis:
    print(json.dumps(redis.hget("active", "cluster").decode()))
"""
"""The cluster whose models may claim jobs."""


def _settled(record: Record, cluster: RealCluster, load: Load) -> None:
    account = record.settled(load, slowest="cluster_slowest_release_s")
    record.measured(cluster_broken_in_order=account.broken)
    cluster.wait_until_whole()


@pytest.mark.short
def test_changed_setting(cluster: RealCluster, record: Record) -> None:
    before = cluster.active()
    cluster.set(JOB_TTL="3599")
    with Load(cluster, "changed-setting") as load:
        cluster.run("deploy")
        claims_for = cluster.in_redis(ACTIVE)
        cluster.wait_until_alone()
    assert claims_for == cluster.active() != before
    _settled(record, cluster, load)
