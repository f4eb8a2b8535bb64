"""A long backlog brings a pod of the group `burst`, which goes when it has nothing left to do."""

from __future__ import annotations

import json
import time

import pytest
from load import Load
from real_cluster import RealCluster, is_ready, wait
from record import Record

pytestmark = pytest.mark.pairs
JOBS = 300
"""More than 64 for each of the two models."""
RATE = 15.0
"""Below the limit of one user."""
IDLE_S = 20
"""In the place of the group's two minutes."""
UP_S = 180.0
DOWN_S = 240.0


def test_a_backlog_brings_a_pod_and_an_idle_one_goes(cluster: RealCluster, record: Record) -> None:
    for pod in cluster.pods("burst"):  # one that took the place of a lost model stays
        cluster.delete(pod)
    wait(lambda: not cluster.pods("burst"), DOWN_S, "there is a burst pod already")
    cluster.wait_until_whole()
    models = {pod["metadata"]["uid"] for pod in cluster.pods("models")}
    path = "/spec/workerGroupSpecs/2"
    patch = [
        {"op": "test", "path": f"{path}/groupName", "value": "burst"},
        {"op": "replace", "path": f"{path}/idleTimeoutSeconds", "value": IDLE_S},
    ]
    cluster.kubectl("patch", "raycluster", cluster.active(), "--type", "json", "--patch", json.dumps(patch))
    with cluster.work_stopped():
        load = Load(cluster, "burst", rate=RATE, jobs=JOBS, warm=False)
        threshold = 64 * cluster.replicas
        wait(lambda: load.submitted() > threshold, 60, "there is no backlog")
        began = time.monotonic()
        wait(lambda: cluster.pods("burst"), UP_S, "there is no burst pod")
        up_s = time.monotonic() - began
        wait(lambda: any(map(is_ready, cluster.pods("burst"))), UP_S, "no burst pod is ready")
    with load:
        pass
    wait(lambda: not cluster.pods("burst"), DOWN_S, "the burst pod stays although it idles")
    assert {pod["metadata"]["uid"] for pod in cluster.pods("models")} == models, "burst is emptied first"
    record.settled(load, slowest="cluster_slowest_burst_s", cluster_burst_up_s=up_s)
