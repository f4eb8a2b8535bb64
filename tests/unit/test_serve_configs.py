"""The laptop's Serve config and the RayService carry the same application, and Serve knows every key of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from manifests.serve import built, faults

from serve_app.app import LEAVING_S, ApplicationArgs, Gateway
from serve_app.gateway.live.places import STREAMS_MAX, WAITS_MAX
from serve_app.gateway.live.prefer import WAIT_MAX_S
from serve_app.gateway.uploads import SLOW_MAX
from serve_app.proxy import CONNECTION_MAX_AGE_S
from serve_app.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
SIZES = {"gateway_cpus", "home_group", "gateway_resources", "num_cpus", "resources", "min_replicas", "max_replicas"}
"""What may differ: how large the house is, and which rooms it has."""


def laptop() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "serve_app" / "serve.yaml").read_text()))


def cluster() -> dict[str, Any]:
    resource = yaml.safe_load((ROOT / "rayservice.yaml").read_text())
    return dict(yaml.safe_load(resource["spec"]["serveConfigV2"]))


def without_sizes(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_sizes(item) for name, item in value.items() if name not in SIZES}
    return [without_sizes(item) for item in value] if isinstance(value, list) else value


def test_both_describe_the_same_applications() -> None:
    assert without_sizes(laptop()["applications"]) == without_sizes(cluster()["applications"])


@pytest.mark.parametrize("config", [laptop(), cluster()], ids=["laptop", "cluster"])
def test_serve_knows_every_key(config: dict[str, Any]) -> None:
    assert list(faults(config)) == []


@pytest.mark.parametrize("config", [laptop(), cluster()], ids=["laptop", "cluster"])
def test_arguments_are_valid(config: dict[str, Any]) -> None:
    [application] = config["applications"]
    assert ApplicationArgs.model_validate(application["args"]).models[0].name == "sem-classifier"


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


def test_a_misspelt_argument_is_refused() -> None:
    [application] = laptop()["applications"]
    application["args"]["models"][0]["max_batchsize"] = 4
    with pytest.raises(ValueError, match="max_batchsize"):
        ApplicationArgs.model_validate(application["args"])


@pytest.mark.parametrize("config", [laptop(), cluster()], ids=["laptop", "cluster"])
def test_a_stream_ends_itself_before_serve_would_cut_it(config: dict[str, Any]) -> None:
    assert Settings().stream_max_s + 10 <= config["http_options"]["request_timeout_s"]


@pytest.mark.parametrize("config", [laptop(), cluster()], ids=["laptop", "cluster"])
def test_a_slow_upload_ends_before_serve_would_cut_it(config: dict[str, Any]) -> None:
    settings = Settings()
    longest = settings.upload_timeout_s + settings.submit_timeout_s + WAIT_MAX_S
    assert longest + 10 <= config["http_options"]["request_timeout_s"]


def test_waits_streams_and_slow_uploads_leave_room_for_other_requests() -> None:
    assert 0.82 * Gateway.max_ongoing_requests > STREAMS_MAX + WAITS_MAX + SLOW_MAX


def test_waits_and_streams_leave_room_for_other_requests() -> None:
    assert 0.7 * Gateway.max_ongoing_requests > STREAMS_MAX + WAITS_MAX


def test_requests_do_not_queue_without_bound() -> None:
    assert 0 < Gateway.max_queued_requests <= 4096


def test_replicas_are_told_at_once_that_their_node_ends() -> None:
    """Serve tells them so long before the node's end as they may take."""
    for group in worker_groups():
        [container] = group["template"]["spec"]["containers"]
        [drain] = [one for one in container["env"] if one["name"] == "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]
        assert float(drain["value"]) == LEAVING_S


def test_a_connection_ends_before_its_pod_does() -> None:
    for group in worker_groups():
        [container] = group["template"]["spec"]["containers"]
        assert container["lifecycle"]["preStop"]["sleep"]["seconds"] >= 2 * CONNECTION_MAX_AGE_S


def worker_groups() -> list[dict[str, Any]]:
    resource = yaml.safe_load((ROOT / "rayservice.yaml").read_text())
    groups: list[dict[str, Any]] = resource["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    return groups
