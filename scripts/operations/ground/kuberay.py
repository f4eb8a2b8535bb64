"""The KubeRay operator, in the version that the manifest was written for."""

from __future__ import annotations

import re

from operations.failure import Failed
from operations.work import Json, Work

VERSION = "1.7.0"
RELEASE = "kuberay-operator"
NAMESPACE = "kuberay-system"
"""The network policies let the operator in from this namespace."""
REPOSITORY = "https://ray-project.github.io/kuberay-helm/"
CHART = (RELEASE, "--repo", REPOSITORY, "--version", VERSION)
DEADLINE_S = 420.0


def install(work: Work) -> str:
    """Install or upgrade the operator; what is there in the right version is left alone, a newer one always."""
    found = _found(work)
    running = next((version for _, version in found if version), "")
    elsewhere = next((space for space, _ in found if space != NAMESPACE), "")
    if running == VERSION:
        return f"KubeRay {VERSION} is there" + (f", in {elsewhere}" if elsewhere else "")
    if elsewhere or (running and _order(running) > _order(VERSION)):
        raise Failed(
            f"KubeRay {running or 'of an unknown version'} runs in {elsewhere or NAMESPACE}, and {VERSION} is wanted. "
            "It belongs to whoever put it there: have it changed, or take an empty cluster"
        )
    if running:
        # helm installs custom resource definitions and never upgrades them: the new operator would read old ones.
        definitions = ["helm", "show", "crds", *CHART]
        apply = work.target.kubectl("apply", "--server-side", "--force-conflicts", "--filename", "-")
        work.run.pipe(definitions, apply, deadline_s=DEADLINE_S)
    command = ["helm", "upgrade", "--install", RELEASE, *CHART, "--kube-context", work.target.context]
    command += ["--namespace", NAMESPACE, "--create-namespace", "--wait", "--timeout", "5m"]
    work.run.work(command, deadline_s=DEADLINE_S)
    return f"KubeRay {VERSION} " + (f"after {running}" if running else "installed")


def _found(work: Work) -> list[tuple[str, str]]:
    """Namespace and version of every operator in the cluster."""
    selector = f"app.kubernetes.io/name={RELEASE}"
    operators = work.objects("deployments", "--all-namespaces", "--selector", selector)
    return [(operator["metadata"]["namespace"], _version(operator)) for operator in operators]


def _version(operator: Json) -> str:
    images = [str(one.get("image", "")) for one in operator["spec"]["template"]["spec"]["containers"]]
    found = re.search(r":v?(\d+\.\d+\.\d+)", " ".join(images))
    return found[1] if found else ""


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
