"""What must be there: the tools that this program drives, new enough, and a cluster that knows every kind of the
overlay. What is missing is told with where it comes from."""

from __future__ import annotations

import platform
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from operations.failure import Failed
from operations.ground import programs
from operations.runner import INSTALL
from operations.steps import table
from operations.work import Work, parsed

BUILDERS = ("podman", "docker")
BREW = ("kubectl", "helm", "kind", "podman", "docker")
KIND_LINES = re.compile(r"^apiVersion: (\S+)$.*?^kind: (\S+)$", re.MULTILINE | re.DOTALL)
"""Version and kind of each rendered document; kustomize writes both at the margin, in this order."""
COMES_FROM = {
    "cert-manager.io": "cert-manager, https://cert-manager.io, or leave out the component redis-tls",
    "external-secrets.io": "the External Secrets operator, https://external-secrets.io, or leave out the component "
    "external-secrets and make the Secrets by hand",
    "gateway.networking.k8s.io": "Gateway API, https://gateway-api.sigs.k8s.io, or leave out the component gateway-api",
    "monitoring.coreos.com": "the Prometheus operator, https://prometheus-operator.dev, or leave out the component "
    "monitoring",
    "networking.istio.io": "Istio, https://istio.io, or leave out the component service-mesh",
    "security.istio.io": "Istio, https://istio.io, or leave out the component service-mesh",
}
"""What brings each group that is not Kubernetes' own. KubeRay's is missing: `install` brings it, after this check."""


@dataclass(frozen=True)
class Tool:
    """A tool and the oldest version that does what is asked of it."""

    name: str
    oldest: tuple[int, int]
    why: str
    asks: tuple[str, ...]


KUBECTL = Tool("kubectl", (1, 29), "kustomize 5 is in it", ("version", "--client", "--output", "json"))
HELM = Tool("helm", (3, 12), "installs KubeRay", ("version", "--short"))
KIND = Tool("kind", (0, 24), "its network obeys NetworkPolicies from then on", ("version",))
PODMAN = Tool(
    "podman", (4, 3), "builds the image; older ones were not tried", ("version", "--format", "{{.Client.Version}}")
)
DOCKER = Tool("docker", (23, 0), "builds with BuildKit from then on", ("version", "--format", "{{.Server.Version}}"))
SERVER = (1, 31)
"""The oldest Kubernetes whose schemas the manifests are held to."""


def builder() -> str:
    """The tool that builds images: podman where it is installed, else docker."""
    for name in BUILDERS:
        if shutil.which(name):
            return name
    raise Failed(f"neither podman nor docker is installed: {INSTALL['podman']} or {INSTALL['docker']}")


def check(work: Work) -> str:
    """Look at every tool, and at the cluster if it is not ours to make: its version, and whether it knows every kind
    that will be applied. Fails with all that is missing at once."""
    rows, missing = [], []
    for tool in _needed(work):
        found, fault = _look(work, tool)
        rows.append((tool.name, found, f"{_text(tool.oldest)} or newer", fault or "ok"))
        missing += [f"{tool.name} {fault}"] if fault else []
    if work.target.is_here and not work.run.dry:
        missing += programs.needs()
    if not work.target.is_local:
        found, fault = _look_at_server(work)
        rows.append((work.target.context, found, f"{_text(SERVER)} or newer", fault or "ok"))
        missing += [fault] if fault else unknown_kinds(work)
    if work.run.dry:
        return ""
    for line in table(rows):
        work.say(line)
    if missing:
        raise Failed("\n  ".join(missing))
    return ""


def _needed(work: Work) -> Sequence[Tool]:
    if work.target.is_here:
        return [KUBECTL, PODMAN]
    builds = DOCKER if shutil.which("docker") and not shutil.which("podman") else PODMAN
    return [KUBECTL, HELM, *([KIND] if work.target.is_local else []), builds]


def _look(work: Work, tool: Tool) -> tuple[str, str]:
    """The version found, and what is wrong with it or nothing."""
    if not work.run.dry and shutil.which(tool.name) is None:
        return "not there", f"is not installed ({tool.why}): {_how(tool.name)}"
    answer = work.run.ask([tool.name, *tool.asks])
    found = version(answer.output)
    if answer.status != 0 or (found is None and not work.run.dry):
        return "no answer", f"does not tell its version: {answer.reason or 'it said nothing'}"
    if found and found < tool.oldest:
        return _text(found), f"is {_text(found)}, {_text(tool.oldest)} is needed ({tool.why}): {_how(tool.name)}"
    return _text(found or tool.oldest), ""


def _look_at_server(work: Work) -> tuple[str, str]:
    answer = work.run.ask(work.target.kubectl("version", "--output", "json"), assumed="{}")
    if answer.status != 0:
        return "no answer", f"the cluster {work.target.context} does not answer: {answer.reason}"
    found = version(str(parsed(answer.output, "kubectl version").get("serverVersion", {}).get("gitVersion", "")))
    if found and found < SERVER:
        return _text(found), f"the cluster runs Kubernetes {_text(found)}; {_text(SERVER)} is needed"
    return _text(found or SERVER), ""


def version(text: str) -> tuple[int, int] | None:
    """The first version in what a tool prints."""
    found = re.search(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


def _text(found: tuple[int, int]) -> str:
    return "{}.{}".format(*found)


def _how(name: str) -> str:
    return f"brew install {name}" if platform.system() == "Darwin" and name in BREW else INSTALL[name]


def unknown_kinds(work: Work) -> list[str]:
    """One line for each kind of the overlay that the cluster does not know, or for a question that had no answer."""
    kubectl, overlay = work.target.kubectl, f"k8s/overlays/{work.target.environment}"
    manifests = work.run.ask(["kubectl", "kustomize", overlay])
    if manifests.status != 0:
        return [f"{overlay} cannot be built: {manifests.reason}"]
    resources, versions = work.run.ask(kubectl("api-resources", "--no-headers")), work.run.ask(kubectl("api-versions"))
    wanted = list(dict.fromkeys(KIND_LINES.findall(manifests.output)))
    # One API of the cluster that does not answer makes the first question fail, after it has told of all the others.
    for answer in (resources, versions):
        if wanted and not answer.output.strip():
            return [f"the cluster {work.target.context} does not tell its kinds: {answer.reason or 'it said nothing'}"]
    # The first lists each kind in the version that the cluster likes best, and it may serve the wanted one as well.
    known = {(_group(row[-3]), row[-1]) for row in map(str.split, resources.output.splitlines()) if len(row) >= 4}
    served = set(versions.output.split())
    missing: dict[str, list[str]] = {}
    for version, kind in wanted:
        if version not in served or (_group(version), kind) not in known:
            missing.setdefault(version, []).append(kind)
    return [
        f"the cluster knows no {' and no '.join(kinds)} of {version}: "
        + COMES_FROM.get(_group(version), "nothing of this project brings it")
        for version, kinds in missing.items()
    ]


def _group(version: str) -> str:
    """The group of an apiVersion; empty for that of Kubernetes' first kinds."""
    return version.rpartition("/")[0]
