"""The shipped PodMonitors on a real cluster. The alerts are played with made-up figures: tests/unit/test_alerts.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from observed import Observed, observed
from real_cluster import RealCluster, wait

SCRAPED_S = 90.0


@pytest.fixture(scope="module")
def prometheus(service: RealCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    with observed(service, tmp_path_factory.mktemp("prometheus")) as found:
        wait(
            lambda: {"semapi_jobs_waiting", "ray_gateway_breaker_open"} <= found.names(),
            SCRAPED_S,
            "nothing is scraped",
        )
        yield found


def test_the_shipped_monitors_find_every_pod(prometheus: Observed, service: RealCluster) -> None:
    def all_well() -> bool:
        return bool(prometheus.targets()) and all(one["health"] == "up" for one in prometheus.targets())

    wait(all_well, SCRAPED_S, "not every target answers")
    scraped = {one["labels"].get("pod") for one in prometheus.targets()}
    ray = service.objects("pods", "--selector", "ray.io/is-ray-node=yes", "--field-selector", "status.phase=Running")
    assert {pod["metadata"]["name"] for pod in ray} <= scraped
