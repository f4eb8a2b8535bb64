"""The network policies let through what the table says and refuse everything else, in every cell of every overlay."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_network
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from manifests.documents import Document
from manifests.pods import pods_of
from manifests.reach import NAMESPACE, Cell, Party, reaches, read_table
from manifests.render import environments
from overlays import ROOT, prod_for_a_site

from serve_app.outbound.address import is_public

TABLE = ROOT / "k8s" / "network.yaml"
GATEWAY = next(cell.source for cell in read_table(TABLE, "dev") if cell.source.name == "gateway")


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Document]]:
    """What each overlay gives a cluster, prod with the values of a site."""
    found = environments(ROOT)
    found["prod"] = environments(prod_for_a_site(tmp_path_factory.mktemp("site")))["prod"]
    return {name: read for name, (read, _) in found.items()}


def expected(cell: Cell, overlay: str) -> bool:
    """Where PostgreSQL is a server of the site, nobody has a way to ours, and its backup is not there either."""
    return cell.allowed and not (overlay == "prod" and cell.target.name == "postgres")


@pytest.mark.parametrize("overlay", ["dev", "prod"])
def test_every_cell_is_as_the_table_says(documents: dict[str, list[Document]], overlay: str) -> None:
    cells = [cell for cell in read_table(TABLE, overlay) if "postgres-" not in cell.source.name or overlay == "dev"]
    assert len(cells) > 600
    wrong = [
        str(cell)
        for cell in cells
        if reaches(documents[overlay], cell.source, cell.target, cell.port) != expected(cell, overlay)
    ]
    assert wrong == []


def test_every_policy_serves_a_cell(documents: dict[str, list[Document]]) -> None:
    """A policy that can be left out while every cell stays is no policy of the table."""
    all_documents = documents["dev"]
    cells = read_table(TABLE, "dev")
    idle = []
    for policy in [document for document in all_documents if document.kind == "NetworkPolicy"]:
        others = [document for document in all_documents if document is not policy]
        if all(reaches(others, cell.source, cell.target, cell.port) == cell.allowed for cell in cells):
            idle.append(policy.name)
    assert idle == []


def test_every_pod_is_a_party(documents: dict[str, list[Document]]) -> None:
    key = "app.kubernetes.io/component"
    pods = {pod.labels[key] for pod in pods_of(documents["dev"])}
    parties = {cell.source.name for cell in read_table(TABLE, "dev") if cell.source.is_ours}
    assert parties == pods | {"neighbour"}


def test_the_labels_of_ray_are_those_that_its_pods_get(documents: dict[str, list[Document]]) -> None:
    pods = {pod.labels["app.kubernetes.io/component"]: pod.labels for pod in pods_of(documents["dev"]) if pod.group}
    parties = {cell.source.name: cell.source.labels for cell in read_table(TABLE, "dev")}
    assert set(pods) == {"head", "gateway", "models", "burst"}
    assert all(parties[name].items() <= labels.items() for name, labels in pods.items())


def test_no_template_sets_a_label_that_kuberay_selects_by() -> None:
    """KubeRay lets a template override these labels, but its Services go on selecting by its own values."""
    service = yaml.safe_load((ROOT / "rayservice.yaml").read_text("utf-8"))["spec"]["rayClusterConfig"]
    templates = [group["template"] for group in (service["headGroupSpec"], *service["workerGroupSpecs"])]
    labels = {name for template in templates for name in template["metadata"]["labels"]}
    selected = {"app.kubernetes.io/name", "app.kubernetes.io/created-by"}
    assert [name for name in labels if name in selected or name.startswith("ray.io/")] == []


def gateway_reaches(documents: dict[str, list[Document]], address: str) -> bool:
    return reaches(documents["dev"], GATEWAY, Party("somewhere", "", {}, address), 443)


# Every forbidden network at its edges, and addresses at random below.
EDGES = [
    IPv4Address(int(address) + step)
    for network in ("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16")
    for address, step in (
        (IPv4Network(network)[0], -1),
        (IPv4Network(network)[0], 0),
        (IPv4Network(network)[-1], 0),
        (IPv4Network(network)[-1], 1),
    )
]


@pytest.mark.parametrize("address", EDGES, ids=str)
def test_private_networks_end_where_the_service_says(
    documents: dict[str, list[Document]], address: IPv4Address
) -> None:
    assert gateway_reaches(documents, str(address)) == is_public(str(address))


def test_no_address_is_let_out_that_the_service_refuses(documents: dict[str, list[Document]]) -> None:
    @settings(deadline=None)  # how long an example takes is the machine's matter
    @given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(network=ip_network("2000::/3")), st.ip_addresses(v=6)))
    def holds(address: IPv4Address | IPv6Address) -> None:
        assert not gateway_reaches(documents, str(address)) or is_public(str(address))

    holds()


def policy(name: str, **spec: Any) -> Document:
    return Document("x", {"kind": "NetworkPolicy", "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec})


def test_the_rules_are_those_of_kubernetes() -> None:
    redis, gateway, stranger = (
        Party("redis", labels={"a": "redis"}),
        Party("gateway", labels={"a": "g"}),
        Party("s", "else"),
    )
    assert reaches([], stranger, redis, 6379), "without a policy everything is open"
    closed = [policy("deny", podSelector={}, policyTypes=["Ingress", "Egress"])]
    assert not reaches(closed, gateway, redis, 6379)
    one_end = [
        *closed,
        policy("in", podSelector={"matchLabels": {"a": "redis"}}, ingress=[{"ports": [{"port": 6379}]}]),
    ]
    assert not reaches(one_end, gateway, redis, 6379), "both ends must agree"
    assert reaches(one_end, stranger, redis, 6379), "an end elsewhere is not asked; a rule without peers is for all"
    assert not reaches(one_end, stranger, redis, 6380)
    both = [*one_end, policy("out", podSelector={"matchLabels": {"a": "g"}}, policyTypes=["Egress"], egress=[{}])]
    assert reaches(both, gateway, redis, 6379)
    world = policy(
        "out",
        podSelector={},
        policyTypes=["Egress"],
        egress=[{"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}}]}],
    )
    assert reaches([world], gateway, Party("x", "", {}, "1.1.1.1"), 443)
    assert not reaches([world], gateway, Party("x", "", {}, "10.1.1.1"), 443)
    assert not reaches([world], gateway, redis, 6379), "a block of addresses is not the pods"
