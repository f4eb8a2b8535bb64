"""A node on this machine: made twice, killed half-way, joined to another, and nothing left of it when it goes.

It has a cluster of its own, beside the one of the other tests.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from operations.here import Node, hierarchies, wait
from operations.target import Model, Target
from record import Record

ROOT = Path(__file__).resolve().parents[2]
TARGET = Target("dev", Model("demo"), context="here-nodes")
FIRST, SECOND = Node(TARGET, 1), Node(TARGET, 2)
CYCLES = 10
UP_S = 1800.0
"""The first time its programs are built."""
DEADLINE_S = 60.0
KERNEL = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "net/ipv4/ip_forward",
    "net/netfilter/nf_conntrack_max",
)
"""Settings of the machine that the parts of a node would change."""
FOLDERS = ("/etc/cni", "/opt/cni", "/run", "/run/containerd", "/run/netns", "/var/lib", "/var/log")
"""Where the parts of a node write by themselves."""
MOMENTS = (
    TARGET.state / "pki" / "ca.crt",
    TARGET.state / "pki" / "node1.crt",
    FIRST.folder,
    FIRST.folder / "network",
    FIRST.socket,
    FIRST.folder / "kubelet" / "pods",
)
"""Files that appear one after another while a cluster is made."""
SERVER = """
apiVersion: v1
kind: Pod
metadata: {name: server, namespace: default}
spec:
  nodeName: node2
  terminationGracePeriodSeconds: 0
  automountServiceAccountToken: false
  containers: [{name: dns, image: localhost/coredns:1, imagePullPolicy: Never, args: [-conf, /dev/null]}]
"""
CLOSED = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: default}
spec: {podSelector: {}, policyTypes: [Ingress]}
"""


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Every test begins without the cluster, and what it makes goes at its end."""
    cluster("down", "--yes")
    yield
    cluster("down", "--yes")


def cluster(*words: str) -> str:
    """What a command of `scripts/cluster` says; it must succeed."""
    command = [sys.executable, str(ROOT / "scripts" / "cluster"), *words, "--context", TARGET.context]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=UP_S)
    assert done.returncode == 0, f"{' '.join(words)} ended with {done.returncode}:\n{done.stderr[-3000:]}"
    return done.stderr


def kubectl(*arguments: str, given: str = "") -> str:
    done = subprocess.run(
        TARGET.kubectl(*arguments, namespace="default"), input=given, capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def machine() -> dict[str, list[str]]:
    """All of this machine that a cluster could change."""
    return {
        "processes": _processes(),
        "mounts": sorted(Path("/proc/self/mounts").read_text().splitlines()),
        "links": sorted(one["ifname"] for one in json.loads(_said("ip", "-json", "link"))),
        "routes": _said("ip", "route").splitlines(),
        "rules": [line for line in _said("iptables-save").splitlines() if not line.startswith(("#", ":"))],
        "sets": _said("ipset", "list", "-name").splitlines(),
        "sockets": [line for line in Path("/proc/net/unix").read_text().splitlines() if str(TARGET.state) in line],
        "cgroups": [str(one / TARGET.context) for one in hierarchies() if (one / TARGET.context).exists()],
        "files": sorted(str(file) for folder in FOLDERS for file in Path(folder).glob("*")),
        "kernel": [(Path("/proc/sys") / name).read_text() for name in KERNEL if (Path("/proc/sys") / name).exists()],
    }


def _processes() -> list[str]:
    """Those of the cluster: by their cgroup, and by the words of their commands."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_text().replace("\0", " ")
            if words and (TARGET.context in (folder / "cgroup").read_text() or str(TARGET.state) in words):
                found.append(words)
        except OSError:  # it ended meanwhile
            continue
    return found


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout


def test_nothing_is_left_of_ten_clusters_in_a_row(record: Record) -> None:
    cluster("up")
    cluster("down", "--yes")
    before = machine()
    for _ in range(CYCLES):
        began = time.monotonic()
        cluster("up")
        record.measured(cluster_up_s=time.monotonic() - began)
        assert machine()["processes"], "the comparison does not see the processes of a node"
        cluster("down", "--yes")
        assert machine() == before


@pytest.mark.short
def test_a_second_up_changes_nothing() -> None:
    cluster("up")
    first, objects = FIRST.first_process(), kubectl("get", "pods,nodes", "--all-namespaces", "--output", "name")
    assert "is there" in cluster("up")
    assert FIRST.first_process() == first
    assert kubectl("get", "pods,nodes", "--all-namespaces", "--output", "name") == objects


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment.name)
def test_a_cluster_killed_half_way_is_made_whole_or_deleted(moment: Path) -> None:
    """By turns: `down` leaves nothing of it, and `up` finishes it."""
    before = machine()
    _kill_up_when(moment.exists)
    cluster("down", "--yes")
    assert machine() == before
    _kill_up_when(moment.exists)
    cluster("up")
    assert "node1" in kubectl("get", "nodes", "--output", "name")


def _kill_up_when(happened: Callable[[], bool]) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "cluster"), "up", "--context", TARGET.context]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            while process.poll() is None and not happened():
                time.sleep(0.005)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL, "it ended before it could be killed"


def test_every_process_of_a_cluster_may_be_killed_at_once() -> None:
    before = machine()
    cluster("up")
    first = FIRST.first_process()
    assert first
    os.kill(first, signal.SIGKILL)
    cluster("up")
    assert FIRST.first_process() not in {None, first}
    cluster("down", "--yes")
    assert machine() == before


def test_a_node_reaches_nothing_but_its_cluster() -> None:
    cluster("up")
    links = {one["ifname"]: one for one in json.loads(_said(*FIRST.inside("ip", "-json", "-details", "link")))}
    kinds = {name: one.get("linkinfo", {}).get("info_kind") for name, one in links.items() if name != "lo"}
    assert set(kinds.values()) <= {"bridge", "veth"}
    # The other end of each pair is in a pod or on another node, never in the machine's own network.
    own = {one["address"] for one in json.loads(_said("ip", "-json", "link"))}
    assert not own & {one["address"] for name, one in links.items() if name != "lo"}
    routes = json.loads(_said(*FIRST.inside("ip", "-json", "route")))
    assert [one for one in routes if one["dst"] == "default"] == [
        {"dst": "default", "dev": "nodes", "scope": "link", "flags": []}
    ]


def test_pods_of_two_nodes_reach_each_other_unless_a_policy_forbids_it() -> None:
    cluster("up", "--nodes", "2")
    kubectl("apply", "--filename", "-", given=SERVER)
    kubectl("wait", "pod/server", "--for=condition=Ready", "--timeout=60s")
    address = kubectl("get", "pod/server", "--output", "jsonpath={.status.podIP}")
    client = _resolver()
    assert wait(lambda: _connects(client, address), DEADLINE_S)
    kubectl("apply", "--filename", "-", given=CLOSED)
    assert wait(lambda: not _connects(client, address), DEADLINE_S)
    kubectl("delete", "networkpolicy", "closed")
    assert wait(lambda: _connects(client, address), DEADLINE_S)


def _resolver() -> int:
    """The process of a pod on the first node."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            mine = f"/{FIRST.cgroup}/kubepods" in (folder / "cgroup").read_text()
            if mine and (folder / "cmdline").read_text().startswith("/coredns"):
                return int(folder.name)
        except OSError:
            continue
    raise AssertionError("no pod of the first node runs CoreDNS")


def _connects(process: int, address: str) -> bool:
    """Whether a process's network reaches port 53 of an address."""
    way = ["nsenter", f"--net=/proc/{process}/ns/net", "timeout", "2", "bash", "-c", f"exec 3<>/dev/tcp/{address}/53"]
    return subprocess.run(way, stderr=subprocess.DEVNULL, timeout=30).returncode == 0


def test_a_dead_node_comes_back_and_the_other_goes_on() -> None:
    cluster("up", "--nodes", "2")
    first, second = FIRST.first_process(), SECOND.first_process()
    assert second
    os.kill(second, signal.SIGKILL)
    cluster("up")
    assert FIRST.first_process() == first
    assert SECOND.first_process() not in {None, second}
    assert kubectl("get", "nodes", "--output", "name").split() == ["node/node1", "node/node2"]
