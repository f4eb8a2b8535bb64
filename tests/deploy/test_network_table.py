"""The table of who may reach whom and the network policies have the same ports and pods, in every overlay.

Whether a connection is let through is asked of a real network: tests/cluster/test_network.py.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manifests.documents import Document, matches, of_kind, pods_of
from manifests.network import Cell, names_port, read_table, rules
from overlays import ROOT, as_filled_in

from serve_app.outbound.url import is_public

TABLE = ROOT / "k8s" / "network.yaml"
NO_INTERNET = ("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16")
"""Private, shared, loopback and link-local addresses, clouds' metadata among them."""


@pytest.fixture(scope="module")
def documents() -> dict[str, list[Document]]:
    """What each overlay gives a cluster, prod with the values of a site."""
    return {name: read for name, (read, _) in as_filled_in().items()}


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


def test_who_is_let_in_is_who_stands_in_the_table(documents: dict[str, list[Document]]) -> None:
    """In prod, whose PostgreSQL is a server of the site; dev's are the connections on a real network."""
    cells = [cell for cell in read_table(TABLE, "prod") if cell.target.is_ours and not cell.source.address]
    cells = [cell for cell in cells if cell.target.name != "postgres"]
    assert len(cells) > 400
    wrong = []
    for cell in cells:
        opened = [
            rule for rule in rules(documents["prod"], "ingress", cell.target.labels) if names_port(rule, cell.port)
        ]
        if cell.allowed != any(names(peer, cell) for rule in opened for peer in rule["from"]):
            wrong.append(str(cell))
    assert wrong == []


@pytest.mark.parametrize("overlay", ["dev", "stage", "prod"])
def test_every_port_that_a_policy_opens_is_in_the_table(documents: dict[str, list[Document]], overlay: str) -> None:
    cells = [cell for cell in read_table(TABLE, overlay) if cell.target.is_ours and cell.allowed]
    for pod in pods_of(documents[overlay]):
        ports = {cell.port for cell in cells if cell.target.labels.items() <= pod.labels.items()}
        for rule in rules(documents[overlay], "ingress", pod.labels):
            opened = [one["port"] for one in rule.get("ports", [])]
            assert [
                port for port in opened if not any(names_port({"ports": rule["ports"]}, one) for one in ports)
            ] == []


def test_every_pod_is_a_party(documents: dict[str, list[Document]]) -> None:
    key = "app.kubernetes.io/component"
    pods = {pod.labels[key] for pod in pods_of(documents["dev"])}
    parties = {cell.source.name for cell in read_table(TABLE, "dev") if cell.source.is_ours}
    assert parties == pods | {"neighbour"}


@pytest.mark.parametrize("overlay", ["dev", "stage", "prod"])
def test_what_no_policy_opens_is_closed(documents: dict[str, list[Document]], overlay: str) -> None:
    closed = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert closed in [one.at("spec") for one in of_kind(documents[overlay], "NetworkPolicy")]


def test_no_address_is_let_out_that_the_service_refuses(documents: dict[str, list[Document]]) -> None:
    gateway = next(pod.labels for pod in pods_of(documents["dev"]) if pod.group == "gateway")
    peers = [peer for rule in rules(documents["dev"], "egress", gateway) for peer in rule["to"]]
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
