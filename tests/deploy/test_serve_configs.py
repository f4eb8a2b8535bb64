"""Serve and Ray know every word of the laptop's Serve config and of the RayService; their limits fit the service's, and
the autoscaler fills the models group before it makes a pod of the burst group."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from manifests.application import built, faults
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil

from serve_app.app import GRACEFUL_SHUTDOWN_S, Gateway
from serve_app.gateway.live import STREAMS_MAX, WAIT_MAX_S, WAITS_MAX
from serve_app.gateway.uploads import SLOW_MAX
from serve_app.proxy import CONNECTION_MAX_AGE_S
from serve_app.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


def laptop() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "serve_app" / "serve.yaml").read_text()))


def ray_service() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "rayservice.yaml").read_text())["spec"])


def cluster() -> dict[str, Any]:
    return dict(yaml.safe_load(ray_service()["serveConfigV2"]))


RAY_CLUSTER = ray_service()["rayClusterConfig"]
GROUPS = {group["groupName"]: group for group in RAY_CLUSTER["workerGroupSpecs"]}
MODELS, BURST = GROUPS["models"], GROUPS["burst"]
MODEL, *SLEEPING = cluster()["applications"][0]["args"]["models"]


@pytest.mark.parametrize("config", [laptop(), cluster()], ids=["laptop", "cluster"])
def test_serve_knows_every_key_and_takes_the_arguments(config: dict[str, Any]) -> None:
    assert list(faults(config)) == []
    [application] = config["applications"]
    assert {one.name for one in built(application)} == {
        "gateway",
        MODEL["name"],
        *(model["name"] for model in SLEEPING),
    }


def test_ray_knows_every_variable_of_its_own() -> None:
    """It ignores others without a word. Names in capitals are in its Python code, the others in its binary."""
    variable = re.compile(r"\bRAY_\w+")
    folder = Path(ray.__file__).parent
    known = {name for path in folder.rglob("*.py") for name in variable.findall(path.read_text("utf-8", "replace"))}
    binary = (folder / "_raylet.so").read_bytes()
    files = [ROOT / "rayservice.yaml", *(ROOT / "k8s").rglob("*.yaml"), *(ROOT / "serve_app" / "local").glob("*.py")]
    names = {name for path in files for name in variable.findall(path.read_text("utf-8"))}
    assert len(names) > 15
    assert [name for name in names - known if b"\0%s\0" % name.removeprefix("RAY_").encode() not in binary] == []


def test_replicas_are_at_home_in_the_group_that_is_always_there() -> None:
    [application] = cluster()["applications"]
    options = {one.name: one.ray_actor_options for one in built(application)}["sem-classifier"]
    assert options["label_selector"] == {"ray.io/node-group": "models"}
    assert options["fallback_strategy"] == [{"label_selector": {}}], "where it is full they go elsewhere"


def test_a_misspelt_key_is_found() -> None:
    config = laptop()
    config["applications"][0]["route_prefixx"] = "/"
    config["http_options"]["prot"] = 1
    assert [path for path, _ in faults(config)] == [("http_options", "prot"), ("applications", 0, "route_prefixx")]


@pytest.mark.parametrize("config", [laptop(), cluster()], ids=["laptop", "cluster"])
def test_a_stream_and_a_slow_upload_end_before_serve_would_cut_them(config: dict[str, Any]) -> None:
    settings = Settings()
    upload_s = settings.upload_timeout_s + settings.submit_timeout_s + WAIT_MAX_S
    assert max(settings.stream_max_s, upload_s) + 10 <= config["http_options"]["request_timeout_s"]


def test_waits_streams_and_slow_uploads_leave_room_for_other_requests() -> None:
    assert 0.82 * Gateway.max_ongoing_requests > STREAMS_MAX + WAITS_MAX + SLOW_MAX
    assert 0.7 * Gateway.max_ongoing_requests > STREAMS_MAX + WAITS_MAX


def test_requests_do_not_queue_without_bound() -> None:
    assert 0 < Gateway.max_queued_requests <= 4096


def test_the_version_that_kuberay_reads_is_the_locked_one() -> None:
    assert RAY_CLUSTER["rayVersion"] == version("ray")


def test_an_old_cluster_outlives_a_connection_and_then_a_submit_with_its_wait() -> None:
    longest = CONNECTION_MAX_AGE_S + Settings().submit_timeout_s + WAIT_MAX_S
    assert ray_service()["rayClusterDeletionDelaySeconds"] >= longest


def test_a_worker_ends_after_its_connections_and_tells_its_replicas_at_once() -> None:
    """Serve tells them so long before the node's end as they may take."""
    for group in GROUPS.values():
        [container] = group["template"]["spec"]["containers"]
        seconds = {one["name"]: one.get("value") for one in container["env"]}
        assert float(seconds["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]) == GRACEFUL_SHUTDOWN_S
        leaves_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert leaves_s + float(seconds["RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S"]) > CONNECTION_MAX_AGE_S


def launched(replicas: int) -> Mapping[str, int]:
    """How many pods of each group the autoscaler makes in an empty cluster for so many replicas of the model."""
    metadata = {"name": "cluster", "namespace": "somewhere"}
    config = _derive_autoscaling_config_from_ray_cr({"metadata": metadata, "spec": RAY_CLUSTER})
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
