"""A cluster on this machine, made by kind: up and down."""

from __future__ import annotations

from operations.failure import Failed, Refused
from operations.target import NAME
from operations.work import Work

CONFIG = "k8s/kind.yaml"
MADE_HERE = f"{NAME}/cluster=made"
"""The label that CONFIG gives the nodes."""
CREATE_DEADLINE_S = 900.0
"""It downloads an image of a gigabyte the first time."""
DELETE_DEADLINE_S = 300.0


def up(work: Work) -> str:
    """Make the cluster unless it is there and answers."""
    _refuse_others(work)
    name = work.target.cluster
    if name not in _clusters(work):
        command = ["kind", "create", "cluster", "--name", name, "--config", CONFIG, "--wait", "5m"]
        work.run.work(command, deadline_s=CREATE_DEADLINE_S)
        return f"made the kind cluster {name}"
    if not work.answers():
        # Made on another account, or by a kubectl configuration that is gone: kind still knows the way in.
        work.run.change(["kind", "export", "kubeconfig", "--name", name])
        if not work.answers():
            raise Failed(
                f"the kind cluster {name} is there and does not answer. After a restart of the machine its containers "
                f"may need a minute; else make it anew: {work.target.command('down')}, {work.target.command('up')}"
            )
    return f"the kind cluster {name} is there"


def down(work: Work) -> str:
    """Delete the cluster with all that is in it; nothing happens when there is none."""
    _refuse_others(work)
    name = work.target.cluster
    if not work.run.dry and name not in _clusters(work):
        return f"there is no kind cluster {name}"
    # Ours by its name, also when it answers no more; by its label under any other.
    if name != NAME and not work.run.dry and not work.objects("nodes", "--selector", MADE_HERE):
        raise Refused(f"the kind cluster {name} was not made by this program, which does not delete it")
    work.confirm(f"The kind cluster {name} will be deleted, with every job and every row in it.", name)
    work.run.work(["kind", "delete", "cluster", "--name", name], deadline_s=DELETE_DEADLINE_S)
    return f"deleted the kind cluster {name}"


def _refuse_others(work: Work) -> None:
    if not work.target.is_local:
        raise Refused(f"{work.target.context} is not on this machine: it is made and deleted by those who run it")


def _clusters(work: Work) -> list[str]:
    return work.run.read(["kind", "get", "clusters"]).split()
