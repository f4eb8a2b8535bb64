"""A cluster on this Linux machine without Docker: up and down.

Each node is a process tree in namespaces of its own, which scripts/node/node.sh starts. Only the folder and the cgroups
of a node outlive its first process.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path

from operations import image, tools
from operations.runner import Runner, name_of
from operations.steps import Aborted, StepFailed
from operations.target import ROOT, Target

MANIFEST = "scripts/node/cluster.yaml"
"""Applied to every cluster: DNS, volumes, permissions, and the policy that cuts resource requests."""
SCRIPT = ROOT / "scripts" / "node" / "node.sh"
SYSTEM = "kube-system"
MOST_NODES = 2
START_DEADLINE_S = 120.0
STOP_DEADLINE_S = 30.0
"""For a node to delete its containers; after that it is killed."""
KILL_DEADLINE_S = 30.0
POLL_S = 0.2
OF_A_CPUSET = ("cpuset.cpus", "cpuset.mems")
"""Files of a new version-1 cgroup that must be set before it takes a process."""
SERVER = "https://172.30.0.2:6443"
"""The API server on node1, within the network of the nodes."""
API_NAMES = (
    "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,"
    "DNS:localhost,IP:127.0.0.1,IP:172.30.0.2,IP:10.96.0.1"
)
SUBJECTS = {
    "apiserver": ("/CN=kube-apiserver", API_NAMES),
    "admin": ("/O=system:masters/CN=admin", "DNS:admin"),
    "manager": ("/CN=system:kube-controller-manager", "DNS:manager"),
    "scheduler": ("/CN=system:kube-scheduler", "DNS:scheduler"),
    "proxy": ("/CN=system:kube-proxy", "DNS:proxy"),
    "router": ("/CN=kube-router", "DNS:router"),
}
"""The subject of each certificate, and the names that it may serve under."""
CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-days", "365")


@dataclass(frozen=True)
class Node:
    """One node. The first has the control plane."""

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
        """The socket of its containerd, which is reachable from any network."""
        return self.folder / "containerd.sock"

    @property
    def store(self) -> Path:
        """Where its containerd keeps images; the next node of this name finds them there."""
        return tools.CACHE / "containerd" / self.target.context / self.name

    @property
    def cgroup(self) -> str:
        """Its path below each hierarchy, for its own processes and its pods."""
        return f"{self.target.context}/{self.name}"

    def first_process(self) -> int | None:
        """Its first process; None if the node does not run."""
        with suppress(OSError, ValueError, IndexError):
            found = int(os.readlink(self.folder / "network").split("/")[2])
            if f"/{self.cgroup}/" in Path(f"/proc/{found}/cgroup").read_text():
                return found
        return None

    def inside(self, *command: str) -> list[str]:
        """A command in its network."""
        return ["nsenter", f"--net={self.folder / 'network'}", *command]

    def make_room(self) -> None:
        """Unless it runs, remove what is left of an earlier node and make its cgroups. Raises Aborted if it cannot."""
        if not self.first_process():
            self._kill()
            self._make_cgroups()

    def start(self, run: Runner, programs: Path) -> None:
        """Start it, after `make_room`, unless it runs."""
        if not run.dry:
            if self.first_process():
                return
            self.store.mkdir(parents=True, exist_ok=True)
        given = {
            "STATE": self.target.state,
            "NODE": self.name,
            "NUMBER": self.number,
            "PROGRAMS": programs,
            "STORE": self.store,
            "CGROUP": self.cgroup,
            "HIERARCHIES": " ".join(map(str, hierarchies())),
        }
        run.change(["env", *(f"{name}={value}" for name, value in given.items()), str(SCRIPT)])

    def stop(self) -> None:
        """Let it delete its containers, then kill the rest of it and remove its cgroups."""
        if first := self.first_process():
            with suppress(ProcessLookupError):
                os.kill(first, signal.SIGTERM)
            wait(lambda: self.first_process() is None, STOP_DEADLINE_S)
        self._kill()

    def _kill(self) -> None:
        def gone() -> bool:
            for process in self._processes():
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            return not self._processes()

        if not wait(gone, KILL_DEADLINE_S):
            raise StepFailed(f"processes of {self.cgroup} do not end: {sorted(self._processes())}")
        remove_cgroup(self.cgroup)

    def _processes(self) -> set[int]:
        """All of its processes, including its pods'."""
        found: set[int] = set()
        for hierarchy in hierarchies():
            for folder, _, _ in os.walk(hierarchy / self.cgroup):
                with suppress(OSError):  # a pod has just ended
                    found |= {int(line) for line in Path(folder, "cgroup.procs").read_text().split()}
        return found

    def _make_cgroups(self) -> None:
        """Its cgroup in each hierarchy, and one below it for the processes that belong to no pod."""
        for hierarchy in hierarchies():
            folder = hierarchy
            for part in (*self.cgroup.split("/"), "system"):
                parent, folder = folder, folder / part
                try:
                    _make_cgroup(parent, folder)
                except OSError as error:
                    raise Aborted(
                        f"the cgroup {folder} cannot be made: {error.strerror}. A node needs cgroups that root can "
                        "write; a container has them when it is started with --privileged"
                    ) from None


def up(run: Runner, count: int) -> str:
    """Make the cluster with `count` nodes, or what is missing of it. A cluster with more nodes keeps them."""
    target = run.target
    if missing := [] if run.dry else tools.missing_for_node():
        raise Aborted("\n  ".join([f"{target.context} cannot be made on this machine:", *missing]))
    with _alone(run):
        nodes = _nodes(target, at_least=count)
        if not run.dry and all(node.first_process() for node in nodes) and _ready(run, nodes):
            return f"the cluster {target.context} is there"
        if not run.dry:
            for node in nodes:
                node.make_room()
        programs = tools.build_programs(run)
        _write_certificates(run, nodes)
        for node in nodes:
            node.start(run, programs)
        _until(run, "containerd answers", lambda: all(node.socket.is_socket() for node in nodes))
        image.bring_system(run)
        _until(run, "the API server answers", run.answers)
        for other in nodes[1:]:
            join(run, nodes[0], other)
        run.change(target.apply("--filename", MANIFEST, namespace=SYSTEM))
        _until(run, "every node is Ready and names resolve", lambda: _ready(run, nodes))
    return f"made the cluster {target.context} with {len(nodes)} node{'s' if len(nodes) > 1 else ''}"


def down(run: Runner) -> str:
    """Delete the cluster with all that is in it, whatever its state. Images and programs stay in the cache."""
    target = run.target
    places = [hierarchy / target.context for hierarchy in hierarchies()]
    if not run.dry and not any(place.exists() for place in (target.state, *places)):
        return f"there is no cluster {target.context}"
    run.confirm(f"The cluster {target.context} will be deleted, with every job and every row in it.", target.cluster)
    with _alone(run):
        if not run.dry:
            for number in range(MOST_NODES, 0, -1):
                Node(target, number).stop()
            remove_cgroup(target.context)
        run.change(["rm", "--recursive", "--force", "--one-file-system", str(target.state)])
        if not run.dry:
            with suppress(OSError):  # there is another cluster
                target.state.parent.rmdir()
    return f"deleted the cluster {target.context}"


def _nodes(target: Target, at_least: int = 0) -> list[Node]:
    nodes = [Node(target, number) for number in range(1, MOST_NODES + 1)]
    return [node for node in nodes if node.number <= at_least or node.folder.is_dir()]


def _alone(run: Runner) -> AbstractContextManager[None]:
    """Only one process may make or delete a cluster at a time."""
    context = run.target.context
    return run.alone(tools.CACHE / f"{context}.lock", f"another scripts/cluster makes or deletes {context} right now")


def _ready(run: Runner, nodes: list[Node]) -> bool:
    """Whether every node is Ready and a pod resolves names."""
    if not run.answers():
        return False
    found = {
        name_of(one)
        for one in run.objects("nodes")
        for condition in one["status"].get("conditions", [])
        if condition["type"] == "Ready" and condition["status"] == "True"
    }
    resolver = run.object("deployment", "coredns", f"--namespace={SYSTEM}") or {}
    return found >= {node.name for node in nodes} and bool(resolver.get("status", {}).get("availableReplicas"))


def _until(run: Runner, what: str, holds: Callable[[], bool]) -> None:
    if not run.dry and not wait(holds, START_DEADLINE_S):
        logs = run.target.state / "node1" / "var" / "log"
        raise StepFailed(f"waited {START_DEADLINE_S:g} s until {what}; the logs are in {logs}")


def wait(holds: Callable[[], bool], deadline_s: float) -> bool:
    """Wait until a condition holds; whether it did within the deadline."""
    end = time.monotonic() + deadline_s
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(POLL_S)
    return True


def join(run: Runner, first: Node, other: Node) -> None:
    """Connect the bridges of two nodes, and route each to the pods of the other. A later call completes an interrupted
    one."""
    if run.dry or run.ask(first.inside("ip", "link", "show", other.name)).status != 0:
        process = str(other.first_process() or "PROCESS")
        link = ("ip", "link", "add", other.name, "type", "veth", "peer", "name", first.name, "netns", process)
        run.change(first.inside(*link))
    for node, peer in ((first, other), (other, first)):
        run.change(node.inside("ip", "route", "replace", peer.pods, "via", peer.address))
        run.change(node.inside("ip", "link", "set", peer.name, "master", "nodes", "up"))


def hierarchies() -> list[Path]:
    """Where cgroups are mounted: once in version 2, and once for each controller in version 1."""
    with suppress(OSError):
        rows = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
        return [Path(row[1]) for row in rows if row[2] in {"cgroup", "cgroup2"}]
    return []


def _make_cgroup(parent: Path, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    if (parent / "cgroup.controllers").is_file():  # version 2 passes controllers down only on request
        for controller in (parent / "cgroup.controllers").read_text().split():
            (parent / "cgroup.subtree_control").write_text(f"+{controller}")
    for name in OF_A_CPUSET:
        if (parent / name).is_file() and not (folder / name).read_text().strip():
            (folder / name).write_text((parent / name).read_text())


def remove_cgroup(name: str) -> None:
    """Remove a cgroup without processes, with all below it, from each hierarchy."""
    places = [hierarchy / name for hierarchy in hierarchies()]

    def gone() -> bool:
        for place in places:
            for folder, _, _ in os.walk(place, topdown=False):
                with suppress(OSError):  # busy for a moment after its last process ended
                    Path(folder).rmdir()
        return not any(place.exists() for place in places)

    if not wait(gone, KILL_DEADLINE_S):
        raise StepFailed(f"cgroups cannot be removed: {', '.join(str(place) for place in places if place.exists())}")


def _write_certificates(run: Runner, nodes: list[Node]) -> None:
    """Write a certificate, a key and a kubectl configuration for each part into a folder that only root can read.
    Existing files are kept."""
    folder, context = run.target.state / "pki", run.target.context
    if not run.dry:
        folder.mkdir(parents=True, exist_ok=True)
        folder.parent.chmod(0o700)
    of_nodes = {
        node.name: (f"/O=system:nodes/CN=system:node:{node.name}", f"DNS:{node.name},IP:{node.address}")
        for node in nodes
    }
    authority = ["-x509", *CURVE, "-keyout", str(folder / "ca.key"), "-subj", "/CN=" + context]
    _openssl(run, folder / "ca.crt", ["req", *authority])
    _openssl(run, folder / "accounts.key", ["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"])
    _openssl(run, folder / "accounts.pub", ["pkey", "-in", str(folder / "accounts.key"), "-pubout"])
    for name, (subject, names) in {**SUBJECTS, **of_nodes}.items():
        signer = ["-CA", str(folder / "ca.crt"), "-CAkey", str(folder / "ca.key"), "-subj", subject]
        extensions = ["-addext", f"subjectAltName={names}", "-addext", "basicConstraints=critical,CA:FALSE"]
        command = ["req", "-x509", *CURVE, "-keyout", str(folder / f"{name}.key"), *signer, *extensions]
        _openssl(run, folder / f"{name}.crt", command)
        _write_kubeconfig(run, folder, name, folder / f"{name}.conf")
    _write_kubeconfig(run, folder, "admin", run.target.kubeconfig)


def _openssl(run: Runner, made: Path, command: list[str]) -> None:
    """Make a file unless it exists, completely or not at all."""
    if run.dry or not made.exists():
        part = made.with_suffix(".part")
        run.change(["openssl", *command, "-out", str(part)])
        if not run.dry:
            part.rename(made)


def _write_kubeconfig(run: Runner, folder: Path, name: str, made: Path) -> None:
    if run.dry:
        return

    def data(file: str) -> str:
        return base64.b64encode((folder / file).read_bytes()).decode("ascii")

    context = run.target.context
    user = {"client-certificate-data": data(f"{name}.crt"), "client-key-data": data(f"{name}.key")}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": context, "cluster": {"server": SERVER, "certificate-authority-data": data("ca.crt")}}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": context, "context": {"cluster": context, "user": name}}],
        "current-context": context,
    }
    part = made.with_suffix(".part")
    part.write_text(json.dumps(document, indent=1), "utf-8")
    part.rename(made)
