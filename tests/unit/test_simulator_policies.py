"""NetworkPolicies become rules that let in what they name, and nothing else once one selects the pod."""

from __future__ import annotations

from typing import Any

from simulator.manifest.policies import Cluster, Place, rules

HERE = {"kubernetes.io/metadata.name": "here"}
THERE = {"kubernetes.io/metadata.name": "there", "kind": "edge"}
SERVER = Place("server", HERE, {"app": "server"}, "10.77.0.2", {"web": 8000})
CLIENT = Place("client", HERE, {"app": "client"}, "10.77.0.3", {})
OTHER = Place("other", HERE, {"app": "other"}, "10.77.0.4", {})
EDGE = Place("edge", THERE, {"app": "client"}, "10.77.0.5", {})


def policy(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "p", "namespace": "here"}, "spec": spec}


def chain(direction: str, place: Place, *policies: dict[str, Any]) -> list[str]:
    """The rules of one direction behind those that every pod has."""
    text = rules(place, Cluster(policies, [SERVER, CLIENT, OTHER, EDGE], "10.77.0.1"))
    part = text.split(f"chain {direction} {{")[1].split("}\n  chain")[0].rsplit("\n  }", 1)[0]
    lines = [line.strip() for line in part.splitlines() if line.strip()]
    return [line for line in lines if "hook" not in line and "ct state" not in line and " lo " not in line]


NODE_FIRST = ["ip saddr 10.77.0.1 accept"]


def test_a_pod_that_no_policy_selects_is_open() -> None:
    assert chain("input", SERVER) == NODE_FIRST
    assert chain("input", SERVER, policy(podSelector={"matchLabels": {"app": "other"}})) == NODE_FIRST


def test_default_deny_closes_both_directions() -> None:
    closed = policy(podSelector={}, policyTypes=["Ingress", "Egress"])
    assert chain("input", SERVER, closed) == [*NODE_FIRST, "drop"]
    assert chain("output", SERVER, closed) == ["drop"]


def test_policies_of_another_namespace_do_not_count() -> None:
    assert chain("input", EDGE, policy(podSelector={})) == NODE_FIRST


def test_without_types_egress_is_closed_only_where_it_is_written() -> None:
    assert chain("output", SERVER, policy(podSelector={})) == []
    assert chain("output", SERVER, policy(podSelector={}, egress=[])) == ["drop"]


def test_peers_by_pod_are_those_of_this_namespace() -> None:
    rule = {"from": [{"podSelector": {"matchLabels": {"app": "client"}}}], "ports": [{"port": 8000}]}
    found = chain("input", SERVER, policy(podSelector={}, ingress=[rule]))
    assert found == [*NODE_FIRST, "ip saddr { 10.77.0.3 } tcp dport 8000 accept", "drop"]


def test_peers_by_namespace_and_pod_must_be_both() -> None:
    peer = {"namespaceSelector": {"matchLabels": {"kind": "edge"}}, "podSelector": {"matchLabels": {"app": "client"}}}
    found = chain("input", SERVER, policy(podSelector={}, ingress=[{"from": [peer]}]))
    assert found == [*NODE_FIRST, "ip saddr { 10.77.0.5 } accept", "drop"]
    peer["podSelector"] = {"matchLabels": {"app": "other"}}
    assert chain("input", SERVER, policy(podSelector={}, ingress=[{"from": [peer]}])) == [*NODE_FIRST, "drop"]


def test_rules_of_several_policies_add_up() -> None:
    closed = policy(podSelector={}, policyTypes=["Ingress"])
    opening = policy(podSelector={}, ingress=[{"ports": [{"port": 1}, {"port": 2, "protocol": "UDP"}]}])
    assert chain("input", SERVER, closed, opening) == [*NODE_FIRST, "tcp dport 1 accept", "udp dport 2 accept", "drop"]


def test_ports_have_names_and_ranges() -> None:
    ports = [{"port": "web"}, {"port": 30000, "endPort": 31000}, {"protocol": "UDP"}]
    found = chain("input", SERVER, policy(podSelector={}, ingress=[{"ports": ports}]))
    expected = ["tcp dport 8000 accept", "tcp dport 30000-31000 accept", "meta l4proto udp accept"]
    assert found == [*NODE_FIRST, *expected, "drop"]


def test_networks_leave_out_what_they_except() -> None:
    blocks = [
        {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8", "169.254.0.0/16"]}},
        {"ipBlock": {"cidr": "172.16.0.0/12"}},
        {"ipBlock": {"cidr": "2000::/3", "except": ["2001:db8::/32"]}},
    ]
    found = chain("output", CLIENT, policy(podSelector={}, egress=[{"to": blocks, "ports": [{"port": 443}]}]))
    assert found == [
        "meta nfproto ipv4 ip daddr != { 10.0.0.0/8, 169.254.0.0/16 } tcp dport 443 accept",
        "ip daddr 172.16.0.0/12 tcp dport 443 accept",
        "ip6 daddr 2000::/3 ip6 daddr != { 2001:db8::/32 } tcp dport 443 accept",
        "drop",
    ]


def test_a_whole_family_is_no_condition_on_addresses() -> None:
    found = chain("output", CLIENT, policy(podSelector={}, egress=[{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}]))
    assert found == ["meta nfproto ipv4 accept", "drop"]
