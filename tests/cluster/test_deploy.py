"""`scripts/cluster all`: from an empty node to a passing smoke test, and again without a change."""

from __future__ import annotations

from typing import Any

import pytest
from real_cluster import NAME, RealCluster, restarts
from record import Record

pytestmark = pytest.mark.short


def test_all_from_nothing_takes_two_minutes(deployed: RealCluster, record: Record) -> None:
    record.measured(cluster_all_s=record.all_s)


def test_all_again_changes_nothing(deployed: RealCluster) -> None:
    before = _identities(deployed)
    deployed.run("all")
    assert _identities(deployed) == before


def test_every_service_has_endpoints(deployed: RealCluster) -> None:
    services = {one["metadata"]["name"] for one in deployed.objects("services")}
    served = {
        each["metadata"]["labels"]["kubernetes.io/service-name"]
        for each in deployed.objects("endpointslices")
        if any(endpoint["conditions"].get("ready") for endpoint in each.get("endpoints") or [])
    }
    assert services - served == set()


def _identities(cluster: RealCluster) -> dict[str, object]:
    """Which pods there are, what they restarted, and what was asked of the service."""
    pods = [pod for pod in cluster.objects("pods") if pod["status"]["phase"] == "Running"]
    found: dict[str, object] = {pod["metadata"]["uid"]: restarts(pod) for pod in pods}
    service = cluster.object("rayservice", NAME)
    return found | {"asked": _without_empty(service["spec"]), "active": cluster.active()}


def _without_empty(value: Any) -> Any:
    """KubeRay writes `scaleStrategy: {}` into the groups, and an apply takes it away again."""
    if isinstance(value, list):
        return [_without_empty(one) for one in value]
    if isinstance(value, dict):
        return {name: _without_empty(one) for name, one in value.items() if one != {}}
    return value
