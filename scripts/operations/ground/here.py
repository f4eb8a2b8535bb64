"""A cluster on this Linux machine without Docker: up and down. Each node is one process tree in namespaces of its own
(scripts/node/node.sh), so that nothing of it outlives its first process but a folder and cgroups."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from operations.failure import Failed, Refused
from operations.ground import certificates, images, programs
from operations.target import ROOT, Target
from operations.work import Work

SCRIPT = "scripts/node/node.sh"
MANIFEST = "scripts/node/cluster.yaml"
"""What every cluster has in it: names, storage, permissions of its parts, and the cut of processor requests."""
MOST_NODES = 2
START_DEADLINE_S = 120.0
STOP_DEADLINE_S = 30.0
"""For a node to delete its containers; after that it is killed."""
KILL_DEADLINE_S = 30.0
POLL_S = 0.2


@dataclass(frozen=True)
class Node:
    """One node, the first with the control plane."""

    target: Target
    number: int

    @property
    def name(self) -> str:
        return f"node{self.number}"

    @property
    def folder(self) -> Path:
        return self.target.state / self.name

    @property
    def address(self) -> str:
        return f"172.30.0.{self.number + 1}"

    @property
    def pods(self) -> str:
        """The addresses of its pods."""
        return f"10.244.{self.number}.0/24"

    @property
    def socket(self) -> Path:
        """Where its containerd answers."""
        return self.folder / "containerd.sock"

    @property
    def store(self) -> Path:
        """Where its containerd keeps images; it stays for the next node of this name."""
        return programs.CACHE / "containerd" / self.target.context / self.name

    @property
    def cgroup(self) -> str:
        return f"{self.target.context}/{self.name}"

    def first_process(self) -> int | None:
        """The first process of the node, None where it does not run."""
        with suppress(OSError, ValueError, IndexError):
            found = int(os.readlink(self.folder / "network").split("/")[2])
            if f"/{self.cgroup}/" in Path(f"/proc/{found}/cgroup").read_text():
                return found
        return None

    def processes(self) -> set[int]:
        """All of its processes, those of its pods too."""
        files = [file for one in _hierarchies() for file in (one / self.cgroup).glob("**/cgroup.procs")]
        found: set[int] = set()
        for file in files:
            with suppress(OSError):  # a pod went meanwhile
                found |= {int(line) for line in file.read_text().split()}
        return found

    def inside(self, *command: str) -> list[str]:
        """A command in its network."""
        return ["nsenter", f"--net={self.folder / 'network'}", *command]


def up(work: Work, count: int) -> str:
    """Make the cluster with so many nodes, or what is missing of it. Less is never made of it."""
    if missing := programs.needs():
        raise Refused("\n  ".join(["no cluster can be made on this machine:", *missing]))
    with _alone(work):
        nodes = [Node(work.target, number) for number in range(1, max(count, len(_nodes(work.target))) + 1)]
        if not work.run.dry and all(node.first_process() for node in nodes) and _ready(work, nodes):
            return f"the cluster {work.target.context} is there"
        folder = programs.build(work)
        _write(work, nodes)
        for node in nodes:
            _start(work, node, folder)
        _until(work, "containerd answers", lambda: all(node.socket.is_socket() for node in nodes))
        images.bring_system(work, folder, sockets(work.target))
        _until(work, "the API server answers", lambda: _answers(work))
        _join(work, nodes)
        apply = ("apply", "--server-side", "--force-conflicts", "--filename", MANIFEST)
        work.run.change(work.target.kubectl(*apply, namespace="kube-system"))
        _until(work, "every node is Ready and names resolve", lambda: _ready(work, nodes))
    return f"made the cluster {work.target.context} with {len(nodes)} node{'s' if len(nodes) > 1 else ''}"


def down(work: Work) -> str:
    """Delete the cluster with all that is in it, whatever state it is in. Images stay in the cache."""
    target = work.target
    if (
        not work.run.dry
        and not target.state.exists()
        and not any((one / target.context).exists() for one in _hierarchies())
    ):
        return f"there is no cluster {target.context}"
    work.confirm(f"The cluster {target.context} will be deleted, with every job and every row in it.", target.cluster)
    with _alone(work):
        for node in [Node(target, number) for number in range(MOST_NODES, 0, -1)]:
            if not work.run.dry:
                _stop(node)
        if not work.run.dry:
            for hierarchy in _hierarchies():
                with suppress(FileNotFoundError):
                    (hierarchy / target.context).rmdir()
            shutil.rmtree(target.state, ignore_errors=False) if target.state.exists() else None
            with suppress(OSError):  # another cluster is there
                target.state.parent.rmdir()
    return f"deleted the cluster {target.context}"


def sockets(target: Target) -> list[Path]:
    """Where the containerd of each node answers, in the order of the nodes."""
    return [node.socket for node in _nodes(target)]


def _nodes(target: Target) -> list[Node]:
    found = [Node(target, number) for number in range(1, MOST_NODES + 1)]
    return [node for node in found if node.folder.is_dir()]


@contextmanager
def _alone(work: Work) -> Iterator[None]:
    """Only one makes or deletes clusters on this machine at a time."""
    if work.run.dry:
        yield
        return
    programs.CACHE.mkdir(parents=True, exist_ok=True)
    with (programs.CACHE / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Failed("another scripts/cluster makes or deletes a cluster on this machine right now") from None
        yield


def _write(work: Work, nodes: list[Node]) -> None:
    """The files that the nodes read."""
    state = work.target.state
    certificates.write(work, state / "pki", work.target.context, {node.name: node.address for node in nodes})
    if not work.run.dry:
        shutil.copy(state / "pki" / "admin.conf", work.target.kubeconfig)


def _start(work: Work, node: Node, folder: Path) -> None:
    if not work.run.dry:
        if node.first_process():
            return
        _kill(node)
        _make_cgroups(node)
        node.store.mkdir(parents=True, exist_ok=True)
    given = {
        "STATE": node.target.state,
        "NODE": node.name,
        "NUMBER": node.number,
        "PROGRAMS": folder,
        "STORE": node.store,
        "CGROUP": node.cgroup,
        "HIERARCHIES": " ".join(map(str, _hierarchies())),
    }
    work.run.change(["env", *(f"{name}={value}" for name, value in given.items()), str(ROOT / SCRIPT)])


def _stop(node: Node) -> None:
    """Let it delete its containers, then kill what is left, and remove its cgroups."""
    if first := node.first_process():
        with suppress(ProcessLookupError):
            os.kill(first, signal.SIGTERM)
        _wait(lambda: node.first_process() is None, STOP_DEADLINE_S)
    _kill(node)


def _kill(node: Node) -> None:
    def gone() -> bool:
        for process in node.processes():
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        return not node.processes()

    if not _wait(gone, KILL_DEADLINE_S):
        raise Failed(f"processes of {node.cgroup} do not end: {sorted(node.processes())}")
    for hierarchy in _hierarchies():
        top = hierarchy / node.cgroup
        folders = sorted((one for one in top.glob("**/") if one.is_dir()), key=lambda one: -len(one.parts))
        for folder in folders:
            with suppress(FileNotFoundError):
                folder.rmdir()


def _make_cgroups(node: Node) -> None:
    """The node's own cgroup in each hierarchy, and one below it for the processes that are in no pod."""
    for hierarchy in _hierarchies():
        folder = hierarchy
        for part in (*node.cgroup.split("/"), "system"):
            parent, folder = folder, folder / part
            folder.mkdir(exist_ok=True)
            for name in ("cpuset.cpus", "cpuset.mems"):  # version 1 leaves them empty, and then takes no process
                if (
                    (hierarchy / "cgroup.procs").exists()
                    and (folder / name).exists()
                    and not (folder / name).read_text().strip()
                ):
                    (folder / name).write_text((parent / name).read_text())


def _hierarchies() -> list[Path]:
    """Where cgroups are mounted: one place for each controller in version 1, else the one of version 2."""
    rows = (
        [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
        if Path("/proc/self/mounts").exists()
        else []
    )
    found = [Path(row[1]) for row in rows if row[2] == "cgroup"]
    return found or [Path(row[1]) for row in rows if row[2] == "cgroup2"][:1]


def _join(work: Work, nodes: list[Node]) -> None:
    """Put the bridges of the nodes together, and tell each node where the pods of the others are."""
    first = nodes[0]
    for other in nodes[1:]:
        if not work.run.dry and work.run.ask(first.inside("ip", "link", "show", other.name)).status == 0:
            continue
        there = str(other.first_process() or "PROCESS")
        add = ("ip", "link", "add", other.name, "type", "veth", "peer", "name", first.name, "netns", there)
        work.run.change(first.inside(*add))
        work.run.change(first.inside("ip", "link", "set", other.name, "master", "nodes", "up"))
        work.run.change(other.inside("ip", "link", "set", first.name, "master", "nodes", "up"))
        work.run.change(first.inside("ip", "route", "replace", other.pods, "via", other.address))
        work.run.change(other.inside("ip", "route", "replace", first.pods, "via", first.address))


def _answers(work: Work) -> bool:
    return work.run.ask(work.target.kubectl("get", "--raw", "/readyz")).status == 0


def _ready(work: Work, nodes: list[Node]) -> bool:
    """Is every node Ready, and does a pod resolve names?"""
    if not _answers(work):
        return False
    found = {
        one["metadata"]["name"]
        for one in work.objects("nodes")
        for condition in one["status"].get("conditions", [])
        if condition["type"] == "Ready" and condition["status"] == "True"
    }
    resolvers = work.object("deployment", "coredns", "--namespace=kube-system") or {}
    return found >= {node.name for node in nodes} and bool(resolvers.get("status", {}).get("availableReplicas"))


def _until(work: Work, what: str, holds: Callable[[], bool]) -> None:
    if not work.run.dry and not _wait(holds, START_DEADLINE_S):
        logs = work.target.state / "node1" / "var" / "log"
        raise Failed(f"waited {START_DEADLINE_S:g} s until {what}; the logs are in {logs}")


def _wait(holds: Callable[[], bool], deadline_s: float) -> bool:
    end = time.monotonic() + deadline_s
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(POLL_S)
    return True
