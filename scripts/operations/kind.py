"""A cluster on this machine, made by kind: up and down."""

from __future__ import annotations

from operations.runner import Runner
from operations.steps import Aborted, StepFailed
from operations.target import NAME

CONFIG = "k8s/kind.yaml"
MADE_HERE = f"{NAME}/cluster=made"
"""The label that CONFIG gives to the nodes."""
CREATE_DEADLINE_S = 900.0
"""The first time, kind downloads an image of a gigabyte."""
DELETE_DEADLINE_S = 300.0


def up(run: Runner) -> str:
    """Make the cluster unless it exists and answers."""
    _abort_unless_local(run)
    name = run.target.cluster
    if name not in _clusters(run):
        command = ["kind", "create", "cluster", "--name", name, "--config", CONFIG, "--wait", "5m"]
        run.long(command, deadline_s=CREATE_DEADLINE_S)
        return f"made the kind cluster {name}"
    if not run.answers():
        # Made by another account, or its kubectl configuration is gone: kind still has it.
        run.change(["kind", "export", "kubeconfig", "--name", name])
        if not run.answers():
            raise StepFailed(
                f"the kind cluster {name} is there and does not answer. After a restart of the machine its containers "
                f"may need a minute; else make it anew: {run.target.command('down')}, {run.target.command('up')}"
            )
    return f"the kind cluster {name} is there"


def down(run: Runner) -> str:
    """Delete the cluster with all that is in it, if there is one."""
    _abort_unless_local(run)
    name = run.target.cluster
    if not run.dry and name not in _clusters(run):
        return f"there is no kind cluster {name}"
    # The default name is ours even if the cluster no longer answers; any other name needs our label.
    if name != NAME and not run.dry and not run.objects("nodes", "--selector", MADE_HERE):
        raise Aborted(f"the kind cluster {name} was not made by this program, which does not delete it")
    run.confirm(f"The kind cluster {name} will be deleted, with every job and every row in it.", name)
    run.long(["kind", "delete", "cluster", "--name", name], deadline_s=DELETE_DEADLINE_S)
    return f"deleted the kind cluster {name}"


def _abort_unless_local(run: Runner) -> None:
    if not run.target.is_local:
        raise Aborted(f"{run.target.context} is not on this machine: this program neither makes nor deletes it")


def _clusters(run: Runner) -> list[str]:
    return run.read(["kind", "get", "clusters"]).split()
