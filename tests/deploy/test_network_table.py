"""The table of who may reach whom, the network policies and the mesh say the same in every overlay, and close all else.

Whether a connection is let through is asked of a real network: tests/cluster/test_network.py.
"""

from __future__ import annotations

from fnmatch import fnmatch
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manifests.documents import Document, matches, of_kind, pods_of, service_of
from manifests.network import NAMESPACE, Cell, names_port, read_table, rules
from overlays import ROOT, around, built, prod_for_a_site

from serve_app.outbound.url import is_public

TABLE = ROOT / "k8s" / "network.yaml"
NO_INTERNET = ("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16")
"""Private, shared, loopback and link-local addresses, clouds' metadata among them."""
COMPONENT: Final = "app.kubernetes.io/component"
HEADS_ACCOUNT: Final = f"{NAMESPACE}-x7k2p"
"""KubeRay's, named after the cluster."""
PROBES: Final = ("169.254.7.127/32", "fd16:9254:7127:1337:ffff:ffff:ffff:ffff/128")
"""From where Istio's node agent has the kubelet's probes come in ambient mode."""


def names(peer: dict[str, Any], cell: Cell) -> bool:
    """Whether a peer of a policy's rule is the caller of the cell, a pod."""
    if cell.source.is_ours:
        return (
            "podSelector" in peer
            and "namespaceSelector" not in peer
            and matches(peer["podSelector"], cell.source.labels)
        )
    namespace = {"kubernetes.io/metadata.name": cell.source.namespace}
    return "namespaceSelector" in peer and matches(peer["namespaceSelector"], namespace)


def test_who_is_let_in_is_who_stands_in_the_table(filled_in: dict[str, list[Document]]) -> None:
    """In prod, whose PostgreSQL is a server of the site; dev's are the connections on a real network."""
    cells = [cell for cell in read_table(TABLE, "prod") if cell.target.is_ours and not cell.source.address]
    cells = [cell for cell in cells if cell.target.name != "postgres"]
    assert len(cells) > 400
    wrong = []
    for cell in cells:
        opened = [
            rule for rule in rules(filled_in["prod"], "ingress", cell.target.labels) if names_port(rule, cell.port)
        ]
        if cell.allowed != any(names(peer, cell) for rule in opened for peer in rule["from"]):
            wrong.append(str(cell))
    assert wrong == []


@pytest.mark.parametrize("overlay", ["dev", "stage", "prod"])
def test_every_port_that_a_policy_opens_is_in_the_table(filled_in: dict[str, list[Document]], overlay: str) -> None:
    cells = [cell for cell in read_table(TABLE, overlay) if cell.target.is_ours and cell.allowed]
    for pod in pods_of(filled_in[overlay]):
        ports = {cell.port for cell in cells if cell.target.labels.items() <= pod.labels.items()}
        for rule in rules(filled_in[overlay], "ingress", pod.labels):
            opened = [one["port"] for one in rule.get("ports", [])]
            assert [
                port for port in opened if not any(names_port({"ports": rule["ports"]}, one) for one in ports)
            ] == []


def test_every_pod_is_a_party(filled_in: dict[str, list[Document]]) -> None:
    pods = {pod.labels[COMPONENT] for pod in pods_of(filled_in["dev"])}
    parties = {cell.source.name for cell in read_table(TABLE, "dev") if cell.source.is_ours}
    assert parties == pods | {"neighbour"}


@pytest.mark.parametrize("overlay", ["dev", "stage", "prod"])
def test_what_no_policy_opens_is_closed(filled_in: dict[str, list[Document]], overlay: str) -> None:
    closed = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert closed in [one.at("spec") for one in of_kind(filled_in[overlay], "NetworkPolicy")]


def test_no_address_is_let_out_that_the_service_refuses(filled_in: dict[str, list[Document]]) -> None:
    gateway = next(pod.labels for pod in pods_of(filled_in["dev"]) if pod.group == "gateway")
    peers = [peer for rule in rules(filled_in["dev"], "egress", gateway) for peer in rule["to"]]
    blocks = [block for peer in peers if (block := peer.get("ipBlock")) and block.get("except")]
    assert {block["cidr"] for block in blocks} == {"0.0.0.0/0", "2000::/3"}
    without = [ip_network(text) for block in blocks for text in block["except"]]
    private = [ip_network(text) for text in NO_INTERNET]
    edges = [IPv4Address(int(end) + step) for one in private for end, step in ((one[0], -1), (one[-1], 1))]
    edges += [end for one in private for end in (one[0], one[-1])]

    def is_let_out(address: IPv4Address | IPv6Address) -> bool:
        inside = any(address in ip_network(block["cidr"]) for block in blocks)
        return inside and not any(address in one for one in without)

    assert [address for address in edges if is_let_out(address) != is_public(str(address))] == []

    @settings(deadline=None)  # how long an example takes is the machine's matter
    @given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(network=ip_network("2000::/3")), st.ip_addresses(v=6)))
    def holds(address: IPv4Address | IPv6Address) -> None:
        assert not is_let_out(address) or is_public(str(address))

    holds()


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
    cells = [cell for cell in read_table(TABLE, "stage") if cell.target.is_ours]
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
