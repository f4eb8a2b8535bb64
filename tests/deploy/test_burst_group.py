"""Ray's autoscaler fills the models group before it makes a pod of the burst group."""

from collections.abc import Mapping
from typing import Any

import pytest
import yaml
from containerfile import ROOT
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil

SPEC = yaml.safe_load((ROOT / "rayservice.yaml").read_text("utf-8"))["spec"]
CLUSTER = SPEC["rayClusterConfig"]
GROUPS = {group["groupName"]: group for group in CLUSTER["workerGroupSpecs"]}
MODELS, BURST = GROUPS["models"], GROUPS["burst"]
[MODEL] = yaml.safe_load(SPEC["serveConfigV2"])["applications"][0]["args"]["models"]


def launched(replicas: int) -> Mapping[str, int]:
    """How many pods of each group the autoscaler makes in an empty cluster for so many replicas of the model."""
    metadata = {"name": "cluster", "namespace": "somewhere"}
    config = _derive_autoscaling_config_from_ray_cr({"metadata": metadata, "spec": CLUSTER})
    types = AutoscalingConfig(config, skip_content_hash=True).get_node_type_configs()
    wanted: list[Any] = [
        ResourceRequestUtil.make({"CPU": MODEL["num_cpus"], **MODEL["resources"]}) for _ in range(replicas)
    ]
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=types,
        max_num_nodes=sum(group["maxReplicas"] for group in GROUPS.values()) + 1,
        resource_requests=ResourceRequestUtil.group_by_count(wanted),
    )
    reply = ResourceDemandScheduler().schedule(request)
    assert not reply.infeasible_resource_requests
    return {launch.instance_type: launch.count for launch in reply.to_launch}


@pytest.mark.parametrize("replicas", range(1, MODELS["maxReplicas"] + BURST["maxReplicas"] + 1))
def test_burst_is_filled_last(replicas: int) -> None:
    made = launched(replicas)
    in_models = min(max(replicas, MODELS["minReplicas"]), MODELS["maxReplicas"])
    assert made["models"] == in_models
    assert made.get("burst", 0) == max(replicas - MODELS["maxReplicas"], 0)
