"""NetworkPolicies as nftables rules for one pod's own network namespace. Pure.

Both directions are held where the pod is, as most network plugins do it. What comes from the node itself (kubelet,
port-forward) always gets in, as on most of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from manifests.reach import NAME_LABEL
from manifests.references import matches

from serve_app.contracts import Json

TABLE = """\
table inet policies
delete table inet policies
table inet policies {{
  chain input {{
    type filter hook input priority 0; policy accept;
    ct state established,related accept
    iif lo accept
    ip saddr {node} accept
{input}
  }}
  chain output {{
    type filter hook output priority 0; policy accept;
    ct state established,related accept
    oif lo accept
{output}
  }}
}}
"""
EVERYWHERE = ("0.0.0.0/0", "::/0")
Direction = Literal["Ingress", "Egress"]
SIDES: dict[Direction, tuple[str, str, str]] = {
    "Ingress": ("ingress", "from", "saddr"),
    "Egress": ("egress", "to", "daddr"),
}


@dataclass(frozen=True)
class Place:
    """A pod as a policy sees it. `namespace` are the labels of its namespace."""

    name: str
    namespace: dict[str, str]
    labels: dict[str, str]
    address: str
    ports: dict[str, int]


@dataclass(frozen=True)
class Cluster:
    """Policies and everybody whom they may name."""

    policies: Sequence[Json]
    places: Sequence[Place]
    node: str


def rules(place: Place, cluster: Cluster) -> str:
    """The whole ruleset of this pod; it replaces the one before."""
    lines = {direction: "\n".join(f"    {line}" for line in _chain(place, cluster, direction)) for direction in SIDES}
    return TABLE.format(node=cluster.node, input=lines["Ingress"], output=lines["Egress"])


def _chain(place: Place, cluster: Cluster, direction: Direction) -> list[str]:
    mine = [one for one in cluster.policies if _selects(one, place) and direction in _types(one)]
    if not mine:
        return []
    field, side, word = SIDES[direction]
    found = [
        " ".join(filter(None, (*peer, port, "accept")))
        for policy in mine
        for rule in policy["spec"].get(field, [])
        for peer in _peers(rule.get(side), policy, cluster, word)
        for port in _ports(rule.get("ports"), place if direction == "Ingress" else None)
    ]
    return [*dict.fromkeys(found), "drop"]


def _selects(policy: Json, place: Place) -> bool:
    here = place.namespace[NAME_LABEL] == policy["metadata"]["namespace"]
    return here and matches(policy["spec"].get("podSelector", {}), place.labels)


def _types(policy: Json) -> list[str]:
    default = ["Ingress", "Egress"] if "egress" in policy["spec"] else ["Ingress"]
    return list(policy["spec"].get("policyTypes", default))


def _peers(peers: list[Json] | None, policy: Json, cluster: Cluster, word: str) -> Iterable[list[str]]:
    """What an address must be, as nftables matches that all hold; none when everybody is meant."""
    if not peers:
        yield []
        return
    for peer in peers:
        if block := peer.get("ipBlock"):
            yield _within(block, word)
        elif addresses := sorted(one.address for one in cluster.places if _is_peer(one, peer, policy)):
            yield [f"ip {word} {{ {', '.join(addresses)} }}"]


def _within(block: Json, word: str) -> list[str]:
    family, excepted = ("ip6" if ":" in block["cidr"] else "ip"), block.get("except")
    whole = f"meta nfproto ipv{6 if family == 'ip6' else 4}"
    inside = whole if block["cidr"] in EVERYWHERE else f"{family} {word} {block['cidr']}"
    return [inside, f"{family} {word} != {{ {', '.join(excepted)} }}"] if excepted else [inside]


def _is_peer(place: Place, peer: Json, policy: Json) -> bool:
    if "namespaceSelector" in peer:
        if not matches(peer["namespaceSelector"], place.namespace):
            return False
    elif place.namespace[NAME_LABEL] != policy["metadata"]["namespace"]:
        return False
    return matches(peer.get("podSelector", {}), place.labels)


def _ports(ports: list[Json] | None, place: Place | None) -> Iterable[str]:
    """One match per port; names are those of the pod that is connected to, known where that is the pod itself."""
    if not ports:
        yield ""
    for port in ports or []:
        protocol = port.get("protocol", "TCP").lower()
        number = port.get("port")
        if isinstance(number, str):
            number = place.ports[number] if place else None
        if number is None:
            yield f"meta l4proto {protocol}"
        else:
            yield f"{protocol} dport {number}" + (f"-{port['endPort']}" if "endPort" in port else "")
