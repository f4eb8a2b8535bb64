"""Who may reach whom: every cell of k8s/network.yaml, tried with a real connection from a real pod.

A party that runs is the pod itself. The others (Jobs, the burst group, pods of other namespaces) are pods that do
nothing and have their labels. Where nobody listens on a port of the table, the test listens in the pod's own network,
so that what is not answered was refused by a policy and by nothing else. A host of the world outside is an address of
the node.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from manifests.network import Cell, Party, read_table
from real_cluster import ROOT, Json, RealCluster, is_ready

pytestmark = pytest.mark.short

PROGRAM: Final = Path(__file__).with_name("connections.py")
TABLE: Final = ROOT / "k8s" / "network.yaml"
MARK: Final = "stands-in-for"
"""The label of a pod that stands in for a party."""
SETTLED_S: Final = 30.0
"""A policy for a new pod is in force a moment after the pod runs."""
READY_S: Final = 90
DNS_PORT: Final = 53
API_SERVER: Final = "kube-apiserver"
Attempt = tuple[str, str, int]


@dataclass(frozen=True)
class Place:
    """Where a party is: the addresses that lead to it, and the networks it stands in, as nsenter takes them."""

    addresses: tuple[str, ...]
    networks: tuple[str, ...]


@pytest.fixture(scope="module")
def places(service: RealCluster) -> Iterator[dict[Party, Place]]:
    """Where every party of the table is."""
    parties = {party for cell in read_table(TABLE, "dev") for party in (cell.source, cell.target)}
    pods = _running(service, in_pods := {party for party in parties if not party.address})
    with ExitStack() as stack:
        stack.enter_context(_standing_in(service, in_pods - set(pods)))
        pods = _running(service, in_pods)
        found = {party: Place((pod["status"]["podIP"],), (_network(service, pod),)) for party, pod in pods.items()}
        for party in parties - in_pods:
            found[party] = stack.enter_context(_outside(service, party))
        yield found


def test_every_pair_is_as_the_table_says(service: RealCluster, places: dict[Party, Place]) -> None:
    cells = [cell for cell in read_table(TABLE, "dev") if not cell.source.address]
    assert len(cells) > 600
    deadline = time.monotonic() + SETTLED_S
    with _listening(cells, places):
        while (wrong := _wrong(service, cells, places)) and time.monotonic() < deadline:
            time.sleep(1)  # between two looks
    assert wrong == []


def test_the_kubelet_reaches_what_it_probes(service: RealCluster) -> None:
    probed = 0
    for pod in filter(is_ready, service.objects("pods")):
        attempts = [("tcp", pod["status"]["podIP"], port) for port in sorted(set(_probed(pod)))]
        node = next(one for one in service.namespaces if Path(one).parent.name == pod["spec"]["nodeName"])
        assert all(_connected(node, attempts)), f"{attempts} of {pod['metadata']['name']} from its node"
        probed += len(attempts)
    assert probed >= 3  # head, gateway, models


def _wrong(service: RealCluster, cells: list[Cell], places: dict[Party, Place]) -> list[str]:
    """The cells that are otherwise than the table, every source trying all of its own at once."""
    sources = sorted({cell.source for cell in cells}, key=lambda party: party.name)
    resolver = service.object("service", "kube-dns", "--namespace", "kube-system")["spec"]["clusterIP"]
    virtual = service.object("service", "kubernetes", "--namespace", "default")["spec"]["clusterIP"]

    def tried(source: Party) -> list[str]:
        asked = [(cell, attempt) for cell in cells if cell.source == source for attempt in _attempts(cell)]
        answers = _connected(places[source].networks[0], [attempt for _, attempt in asked])
        return [
            f"{cell} by {protocol} to {address}: {'let through' if answer else 'refused'}"
            for (cell, (protocol, address, _)), answer in zip(asked, answers, strict=True)
            if answer is not cell.allowed
        ]

    def _attempts(cell: Cell) -> Iterator[Attempt]:
        addresses = [*places[cell.target].addresses, *([resolver] if cell.port == DNS_PORT else [])]
        if cell.target.name == API_SERVER and cell.port == 443:
            addresses = [virtual]  # where it is behind 443
        for address in addresses:
            yield "tcp", address, cell.port
            if cell.port == DNS_PORT:
                yield "udp", address, cell.port

    with ThreadPoolExecutor(8) as threads:
        return [line for lines in threads.map(tried, sources) for line in lines]


@contextmanager
def _listening(cells: list[Cell], places: dict[Party, Place]) -> Iterator[None]:
    """Somebody listens on every address of the table; each is reached from its own network, where no policy counts."""
    wanted: dict[str, set[tuple[str, int]]] = {}
    for cell in cells:
        if cell.target.name != API_SERVER:
            for network in places[cell.target].networks:
                wanted.setdefault(network, set()).add((places[cell.target].addresses[0], cell.port))
    with ExitStack() as stack:
        for network, addresses in wanted.items():
            program = stack.enter_context(_started(network, "listen"))
            assert program.stdin is not None
            assert program.stdout is not None
            program.stdin.write(json.dumps(sorted(addresses)) + "\n")
            program.stdin.flush()
            assert program.stdout.readline(), f"nobody listens on {sorted(addresses)}"
        for network, addresses in wanted.items():
            attempts = [("tcp", address, port) for address, port in sorted(addresses)]
            assert all(_connected(network, attempts)), f"{attempts}: {_connected(network, attempts)} from within"
        yield


def _connected(network: str, attempts: list[Attempt]) -> list[bool]:
    if not attempts:
        return []
    with _started(network, "connect") as program:
        answers, _ = program.communicate(json.dumps(attempts) + "\n", timeout=30)
    return list(json.loads(answers))


@contextmanager
def _started(network: str, mode: str) -> Iterator[subprocess.Popen[str]]:
    command = ["nsenter", f"--net={network}", sys.executable, str(PROGRAM), mode]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        try:
            yield program
        finally:
            program.kill()


def _running(service: RealCluster, parties: set[Party]) -> dict[Party, Json]:
    """A pod that runs of each party that has one. Of a party without labels nothing but a stand-in can be told."""
    found = service.objects("pods", "--all-namespaces")
    ready = [pod for pod in found if is_ready(pod) and "deletionTimestamp" not in pod["metadata"]]
    return {party: pod for party in parties for pod in ready if _is(pod, party)}


def _is(pod: Json, party: Party) -> bool:
    labels = party.labels or {MARK: party.name}
    here = pod["metadata"]["namespace"] == party.namespace
    return bool(here and labels.items() <= pod["metadata"].get("labels", {}).items())


def _network(service: RealCluster, pod: Json) -> str:
    return f"/proc/{service.processes(pod)[0]}/ns/net"


@contextmanager
def _standing_in(service: RealCluster, parties: set[Party]) -> Iterator[None]:
    """Pods that do nothing, with the labels of the parties."""
    there = {one["metadata"]["name"] for one in service.objects("namespaces")}
    homes = {party.namespace: service.in_namespace(party.namespace) for party in parties}
    try:
        for space in homes.keys() - there:
            service.kubectl("create", "namespace", space)
        for space, home in homes.items():
            pods = [_idle(party) for party in parties if party.namespace == space]
            home.kubectl(
                "create", "--filename", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": pods})
            )
        for home in homes.values():
            ready = ("--for=condition=Ready", f"--timeout={READY_S}s")
            home.kubectl("wait", "pod", "--selector", MARK, *ready, timeout_s=READY_S + 30)
        yield
    finally:
        for home in homes.values():
            home.kubectl("delete", "pod", "--selector", MARK, "--grace-period=0", "--force")
        for space in homes.keys() - there:
            service.kubectl("delete", "namespace", space)


def _idle(party: Party) -> Json:
    confined = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    container = {
        "name": "idle",
        "image": "localhost/pause:1",
        "imagePullPolicy": "Never",
        "securityContext": confined,
        "resources": {kind: {"cpu": "100m", "memory": "16Mi"} for kind in ("requests", "limits")},
    }
    spec = {
        "containers": [container],
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
        "automountServiceAccountToken": False,
    }
    labels = {**party.labels, MARK: party.name}
    metadata = {"name": f"party-{party.name}", "namespace": party.namespace, "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


@contextmanager
def _outside(service: RealCluster, party: Party) -> Iterator[Place]:
    """The API server where it is; any other host as an address of every node, for the time of the test."""
    nodes = tuple(service.namespaces)
    if party.name == API_SERVER:
        slices = service.objects(
            "endpointslices", "--namespace", "default", "--selector", "kubernetes.io/service-name=kubernetes"
        )
        yield Place(tuple(slices[0]["endpoints"][0]["addresses"]), nodes)
        return
    command = ["ip", "address", "add", f"{party.address}/32", "dev", "lo"]
    try:
        for node in nodes:
            subprocess.run(["nsenter", f"--net={node}", *command], check=True, timeout=10)
        yield Place((party.address,), nodes)
    finally:
        command[2] = "delete"
        for node in nodes:
            subprocess.run(["nsenter", f"--net={node}", *command], check=False, timeout=10)


def _probed(pod: Json) -> Iterator[int]:
    """Ports that the kubelet connects to."""
    for container in pod["spec"]["containers"]:
        names = {port.get("name"): port["containerPort"] for port in container.get("ports", [])}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            for way in ("httpGet", "tcpSocket"):
                if found := container.get(probe, {}).get(way):
                    yield int(names.get(found["port"], found["port"]))
