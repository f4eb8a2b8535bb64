"""The edges of k8s/ repeat the same reads, no submit, and cut off nothing that is well."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from overlays import ROOT

from serve_app.gateway.auth import TOKEN_MAX_BYTES
from serve_app.gateway.live import PING_S, WAIT_MAX_S
from serve_app.gateway.routes.table import ROUTES
from serve_app.gateway.uploads import GRACE_S
from serve_app.local.cluster import Cluster
from serve_app.settings import Settings

K8S: Final = ROOT / "k8s"
NGINX: Final = "nginx.ingress.kubernetes.io"
READS: Final = {"/api/v1/jobs/status", "/api/v1/jobs/results"}
"""The two POST routes that only read."""
OBEYED: Final = {
    "x-request-timeout-seconds",
    "x-request-disconnect-disabled",
    "serve_multiplexed_model_id",
    "x-session-id",
}
"""Headers that Ray Serve obeys from clients, so no edge passes them on."""
SETTINGS: Final = Settings()


def load(path: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all((K8S / Path(path)).read_text()) if one]


def ingresses() -> dict[str, tuple[dict[str, str], set[str]]]:
    """By name of the Ingress what its annotations say, and its paths."""
    return {
        one["metadata"]["name"]: (
            {key.removeprefix(f"{NGINX}/"): value for key, value in one["metadata"]["annotations"].items()},
            {path["path"] for path in one["spec"]["rules"][0]["http"]["paths"]},
        )
        for one in load("base/edge/ingress.yaml")
    }


def rules(path: str, kind: str, key: str) -> dict[str, dict[str, Any]]:
    """The named rules of the one route that has some."""
    [found] = [one for one in load(path) if one["kind"] == kind and one["metadata"]["name"] != "to-https"]
    return {rule["name"]: rule for rule in found["spec"][key]}


GATEWAY: Final = rules("components/gateway-api/routes.yaml", "HTTPRoute", "rules")
MESH: Final = rules("components/service-mesh/edge.yaml", "VirtualService", "http")


def seconds(text: str) -> float:
    found = re.fullmatch(r"([\d.]+)(m?s)?", text)
    assert found, text
    return float(found[1]) / (1000 if found[2] == "ms" else 1)


def test_every_ingress_leads_to_those_who_serve() -> None:
    rules = [rule for one in load("base/edge/ingress.yaml") for rule in one["spec"]["rules"]]
    services = {path["backend"]["service"]["name"] for rule in rules for path in rule["http"]["paths"]}
    assert services == {"sem-image-classifier-serve-svc"}, "the head's dashboard runs code for whoever reaches it"


def test_the_posts_that_are_repeated_are_the_two_reads() -> None:
    assert {(route.method, route.path) for route in ROUTES if route.path in READS} == {("POST", path) for path in READS}
    nginx = {
        path
        for noted, paths in ingresses().values()
        if "non_idempotent" in noted["proxy-next-upstream"].split()
        for path in paths
    }
    gateway = {
        match["path"]["value"]
        for rule in GATEWAY.values()
        if "retry" in rule
        for match in rule["matches"]
        if match.get("method") != "GET"
    }
    mesh = {
        match["uri"]["exact"]
        for rule in MESH.values()
        if rule["retries"]["attempts"]
        for match in rule["match"]
        if match.get("method") != {"exact": "GET"}
    }
    assert nginx == gateway == mesh == READS


def test_nginx_repeats_once_and_also_what_hangs() -> None:
    """nginx repeats only while less than next-upstream-timeout has passed since it began with the first server."""
    for noted, _ in ingresses().values():
        first = sum(int(noted[f"proxy-{word}-timeout"]) for word in ("connect", "read"))
        assert int(noted["proxy-next-upstream-timeout"]) > first
        assert {"error", "timeout"} <= set(noted["proxy-next-upstream"].split())
        assert noted["proxy-next-upstream-tries"] == "2"


def test_envoy_repeats_what_broke_or_hung_where_it_is_told_so() -> None:
    for rule in MESH.values():
        if rule["retries"]["attempts"]:
            assert {"reset", "connect-failure"} <= set(rule["retries"]["retryOn"].split(","))
            assert seconds(rule["timeout"]) > seconds(rule["retries"]["perTryTimeout"])


def test_the_two_reads_by_post_hang_equally_long_at_every_edge() -> None:
    noted, _ = ingresses()["sem-image-classifier-reads"]
    found = {
        seconds(noted["proxy-read-timeout"]),
        seconds(GATEWAY["reads-by-post"]["timeouts"]["backendRequest"]),
        seconds(MESH["reads-by-post"]["retries"]["perTryTimeout"]),
    }
    assert len(found) == 1
    assert found.pop() > SETTINGS.read_timeout_s


@pytest.mark.parametrize(
    "limit",
    [GATEWAY["reads"]["timeouts"]["backendRequest"], MESH["reads"]["retries"]["perTryTimeout"]],
    ids=["gateway-api", "service-mesh"],
)
def test_a_read_may_wait_for_its_job(limit: str) -> None:
    assert seconds(limit) > SETTINGS.read_timeout_s + WAIT_MAX_S


def test_a_submit_may_wait_and_a_stream_be_silent() -> None:
    limit = int(ingresses()["sem-image-classifier"][0]["proxy-read-timeout"])
    assert limit > SETTINGS.submit_timeout_s + WAIT_MAX_S
    assert limit > PING_S
    for rule in (GATEWAY["reads"]["timeouts"]["request"], MESH["reads"]["timeout"]):
        assert seconds(rule) > SETTINGS.stream_max_s


def test_a_slow_upload_is_cut_off_by_no_edge() -> None:
    """nginx counts between two bytes alone; what counts from the first one has to be longer than the whole."""
    longest = SETTINGS.upload_timeout_s + SETTINGS.submit_timeout_s + WAIT_MAX_S
    for limit in (GATEWAY["all-else"]["timeouts"]["request"], MESH["all-else"]["timeout"]):
        assert seconds(limit) > longest
    least_s = 65_536 / SETTINGS.upload_min_bytes_per_s  # between two pieces of one that is just fast enough
    assert int(ingresses()["sem-image-classifier"][0]["proxy-send-timeout"]) > GRACE_S + least_s


def test_every_proxy_on_the_way_lets_the_longest_token_through() -> None:
    """ingress-nginx and Envoy Gateway are told by their operator: docs/manifests.md."""
    others = 32 * 1024
    """Bytes of the headers beside it, and what a proxy keeps free to change them."""
    resource = (ROOT / "rayservice.yaml").read_text()
    of_cluster = re.findall(r'RAY_SERVE_HAPROXY_TUNE_BUFSIZE, value: "(\d+)"', resource)
    of_machine = Cluster(Path("/nowhere"), Path("serve.yaml"), {}, haproxy=True).environment
    [of_mesh] = [one for one in load("components/service-mesh/limit.yaml") if "headers" in one["metadata"]["name"]]
    [patch] = of_mesh["spec"]["configPatches"]
    limits = [*of_cluster, of_machine["RAY_SERVE_HAPROXY_TUNE_BUFSIZE"]]
    limits += [patch["patch"]["value"]["typed_config"]["max_request_headers_kb"] * 1024]
    assert len(limits) == 3
    assert min(map(int, limits)) >= TOKEN_MAX_BYTES + others


def test_every_edge_repeats_on_the_same_answers() -> None:
    [codes] = {frozenset(re.findall(r"http_(\d+)", noted["proxy-next-upstream"])) for noted, _ in ingresses().values()}
    assert codes == {"500", "502", "503", "504"}
    for name in ("reads", "reads-by-post"):
        assert codes == {str(code) for code in GATEWAY[name]["retry"]["codes"]}
        assert codes == {word for word in MESH[name]["retries"]["retryOn"].split(",") if word.isdigit()}


def test_headers_that_bend_serve_are_stripped_alike() -> None:
    """Not by an Ingress of nginx: that would take snippets (docs/manifests.md)."""
    for rule in GATEWAY.values():
        assert [set(one["requestHeaderModifier"]["remove"]) for one in rule["filters"]] == [OBEYED]
    for rule in MESH.values():
        assert set(rule["headers"]["request"]["remove"]) == OBEYED
