"""The mesh says by account what the table says by address, closes all else, and lets the kubelet's probes in."""

from __future__ import annotations

from fnmatch import fnmatch
from typing import Any, Final

import pytest
from manifests.documents import Document, matches, of_kind, pods_of, service_of
from manifests.network import NAMESPACE, read_table, rules
from overlays import ROOT, around, built, prod_for_a_site

COMPONENT: Final = "app.kubernetes.io/component"
HEADS_ACCOUNT: Final = f"{NAMESPACE}-x7k2p"
"""KubeRay's, named after the cluster."""
PROBES: Final = ("169.254.7.127/32", "fd16:9254:7127:1337:ffff:ffff:ffff:ffff/128")
"""From where Istio's node agent has the kubelet's probes come in ambient mode."""


@pytest.fixture(scope="module")
def meshed(tmp_path_factory: pytest.TempPathFactory) -> list[Document]:
    """An overlay with the mesh, and its RayService."""
    root = prod_for_a_site(tmp_path_factory.mktemp("mesh"))
    return built(root, "overlays/trial", around("service-mesh")) + service_of(root, "stage")[0]


def lets_in(policy: Document, account: str, namespace: str, port: int) -> bool:
    """Whether one rule of an ALLOW policy fits the caller and the port."""
    return any(
        any(_is(source["source"], account, namespace) for source in rule["from"])
        and (not rule.get("to") or any(str(port) in one["operation"]["ports"] for one in rule["to"]))
        for rule in policy.items("spec", "rules")
    )


def _is(source: dict[str, Any], account: str, namespace: str) -> bool:
    principal = f"cluster.local/ns/{namespace}/sa/{account}"
    return namespace in source.get("namespaces", []) or any(
        fnmatch(principal, one) for one in source.get("principals", [])
    )


def test_accounts_may_what_the_table_lets_their_pods(meshed: list[Document]) -> None:
    accounts = {pod.labels[COMPONENT]: str(pod.spec.get("serviceAccountName", "")) for pod in pods_of(meshed)}
    accounts["head"] = HEADS_ACCOUNT
    policies = list(of_kind(meshed, "AuthorizationPolicy"))
    cells = [cell for cell in read_table(ROOT / "k8s" / "network.yaml", "stage") if cell.target.is_ours]
    may: dict[tuple[str, str, str, int], bool] = {}
    told: dict[tuple[str, str, str, int], bool] = {}
    for cell in cells:
        if cell.source.address:
            continue  # no party of the mesh: STRICT refuses it
        account = accounts.get(cell.source.name, "default") if cell.source.is_ours else "default"
        key = (account, cell.source.namespace, cell.target.name, cell.port)
        selecting = [one for one in policies if matches(one.mapping("spec", "selector"), cell.target.labels)]
        may[key] = any(lets_in(one, account, cell.source.namespace, cell.port) for one in selecting)
        told[key] = told.get(key, False) or cell.allowed  # a restore has the account of its backup
    assert len(told) > 300
    assert [key for key in told if told[key] != may[key]] == []


def test_what_no_policy_selects_is_closed(meshed: list[Document]) -> None:
    """A policy that allows and has no rule closes; without a selector it is for the whole namespace."""
    [closed] = [one for one in of_kind(meshed, "AuthorizationPolicy") if not one.mapping("spec", "selector")]
    assert closed.at("spec") == {}
    [identity] = of_kind(meshed, "PeerAuthentication")
    assert identity.at("spec") == {"mtls": {"mode": "STRICT"}}


def test_the_kubelets_probes_come_in(meshed: list[Document]) -> None:
    for pod in pods_of(meshed):
        peers = [
            peer for rule in rules(meshed, "ingress", pod.labels) if not rule.get("ports") for peer in rule["from"]
        ]
        assert {peer["ipBlock"]["cidr"] for peer in peers if "ipBlock" in peer} == set(PROBES), pod.labels


def test_the_limit_lies_with_the_edge_and_counts_for_this_host_alone(meshed: list[Document]) -> None:
    headers, limit = of_kind(meshed, "EnvoyFilter")
    assert {one.at("metadata", "namespace") for one in (limit, headers)} == {"ingress-nginx"}
    listener, host = limit.items("spec", "configPatches")
    assert "token_bucket" not in listener["patch"]["value"]["typed_config"]
    assert host["match"]["routeConfiguration"]["vhost"]["name"] == "sem.facility.org:443"
    [bound] = host["patch"]["value"]["typed_per_filter_config"].values()
    assert bound["token_bucket"]["max_tokens"] > 0
