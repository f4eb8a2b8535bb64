"""A cluster on this Linux machine without Docker: up and down."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from operations.failure import Failed, Refused
from operations.ground import certificates, images, programs
from operations.ground.node import Node, hierarchies, join, remove_cgroup, wait
from operations.target import Target
from operations.work import Work

MANIFEST = "scripts/node/cluster.yaml"
"""What every cluster has in it: names, volumes, permissions of its parts, and the cut of processor requests."""
SYSTEM = "kube-system"
MOST_NODES = 2
START_DEADLINE_S = 120.0


def up(work: Work, count: int) -> str:
    """Make the cluster with so many nodes, or what is missing of it. A cluster with more nodes keeps them."""
    target = work.target
    if missing := [] if work.run.dry else programs.needs():
        raise Refused("\n  ".join([f"{target.context} cannot be made on this machine:", *missing]))
    with _alone(work):
        nodes = _nodes(target, at_least=count)
        if not work.run.dry and all(node.first_process() for node in nodes) and _ready(work, nodes):
            return f"the cluster {target.context} is there"
        if not work.run.dry:
            for node in nodes:
                node.make_room()
        built = programs.build(work)
        addresses = {node.name: node.address for node in nodes}
        certificates.write(work, target.state / "pki", target.kubeconfig, target.context, addresses)
        for node in nodes:
            node.start(work, built)
        _until(work, "containerd answers", lambda: all(node.socket.is_socket() for node in nodes))
        images.bring_system(work, built, [node.socket for node in nodes])
        _until(work, "the API server answers", work.answers)
        for other in nodes[1:]:
            join(work, nodes[0], other)
        work.run.change(target.apply("--filename", MANIFEST, namespace=SYSTEM))
        _until(work, "every node is Ready and names resolve", lambda: _ready(work, nodes))
    return f"made the cluster {target.context} with {len(nodes)} node{'s' if len(nodes) > 1 else ''}"


def down(work: Work) -> str:
    """Delete the cluster with all that is in it, whatever state it is in. Images and programs stay in the cache."""
    target = work.target
    places = [hierarchy / target.context for hierarchy in hierarchies()]
    if not work.run.dry and not any(place.exists() for place in (target.state, *places)):
        return f"there is no cluster {target.context}"
    work.confirm(f"The cluster {target.context} will be deleted, with every job and every row in it.", target.cluster)
    with _alone(work):
        if not work.run.dry:
            for number in range(MOST_NODES, 0, -1):
                Node(target, number).stop()
            remove_cgroup(target.context)
        work.run.change(["rm", "--recursive", "--force", "--one-file-system", str(target.state)])
        if not work.run.dry:
            with suppress(OSError):  # another cluster is there
                target.state.parent.rmdir()
    return f"deleted the cluster {target.context}"


def sockets(target: Target) -> list[Path]:
    """Where the containerd of each node answers, in the order of the nodes."""
    return [node.socket for node in _nodes(target)]


def _nodes(target: Target, at_least: int = 0) -> list[Node]:
    nodes = [Node(target, number) for number in range(1, MOST_NODES + 1)]
    return [node for node in nodes if node.number <= at_least or node.folder.is_dir()]


def _alone(work: Work) -> AbstractContextManager[None]:
    """One process makes or deletes a cluster at a time."""
    context = work.target.context
    return work.run.alone(
        programs.CACHE / f"{context}.lock", f"another scripts/cluster makes or deletes {context} right now"
    )


def _ready(work: Work, nodes: list[Node]) -> bool:
    """Is every node Ready, and is there a pod that resolves names?"""
    if not work.answers():
        return False
    found = {
        one["metadata"]["name"]
        for one in work.objects("nodes")
        for condition in one["status"].get("conditions", [])
        if condition["type"] == "Ready" and condition["status"] == "True"
    }
    resolver = work.object("deployment", "coredns", f"--namespace={SYSTEM}") or {}
    return found >= {node.name for node in nodes} and bool(resolver.get("status", {}).get("availableReplicas"))


def _until(work: Work, what: str, holds: Callable[[], bool]) -> None:
    if not work.run.dry and not wait(holds, START_DEADLINE_S):
        logs = work.target.state / "node1" / "var" / "log"
        raise Failed(f"waited {START_DEADLINE_S:g} s until {what}; the logs are in {logs}")
