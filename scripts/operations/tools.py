"""The requirements: the tools that this program runs, each new enough; a cluster that knows every kind of the overlay;
the programs of a node, which are built from the Go modules that scripts/node pins."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from operations import runner
from operations.runner import INSTALL, Runner, parsed
from operations.steps import StepFailed, table
from operations.target import NAME, ROOT

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
"""What installs each API group that is not Kubernetes' own. KubeRay's is missing: `install` installs it later."""

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / NAME
MODULE = ROOT / "scripts" / "node"
OPERATOR = MODULE / "operator"
"""The module of the operator, which needs other versions of the same packages."""
PROGRAMS = {
    "kubernetes": ".",
    "containerd": "github.com/containerd/containerd/v2/cmd/containerd",
    "containerd-shim-runc-v2": "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
    "ctr": "github.com/containerd/containerd/v2/cmd/ctr",
    "kube-router": "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router",
    "coredns": "github.com/coredns/coredns",
    "ray-operator": "github.com/ray-project/kuberay/ray-operator",
}
"""Each program and its package, ordered so that neighbours share the most packages."""
SOURCES = (".go", ".mod", ".sum")
GO_COMES_FROM = "https://go.dev/doc/install"
GO_FOLDER = "/usr/local/go/bin"
"""Where Go's own archive is unpacked; it is not on PATH by default."""
BUILD_DEADLINE_S = 1800.0
KEPT = 2
"""Builds of other versions that stay in the cache."""
PACKAGES = {
    "runc": "/usr/sbin/runc",
    "containernetworking-plugins": "/usr/lib/cni/bridge",
    "iproute2": "ip",
    "iptables": "iptables",
    "ipset": "ipset",
    "openssl": "openssl",
    "procps": "pkill",
    "util-linux": "unshare",
    "debootstrap": "debootstrap",
    "debian-archive-keyring": "/usr/share/keyrings/debian-archive-keyring.gpg",
    "catatonit": "catatonit",
    "containers-storage": "containers-storage",
}
"""Debian packages that a node and its images need, and a program or file of each."""
SERVER = (1, 31)
"""The oldest Kubernetes whose schemas the manifests are checked against."""


class Tool(NamedTuple):
    """A tool, its oldest version that works, and how to ask for the version."""

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


def builder() -> str:
    """The tool that builds images: podman if it is installed, else docker."""
    for name in BUILDERS:
        if shutil.which(name):
            return name
    raise StepFailed(f"neither podman nor docker is installed: {INSTALL['podman']} or {INSTALL['docker']}")


def check(run: Runner) -> str:
    """Check every tool and, unless we make the cluster ourselves, the cluster: its version, and whether it knows every
    kind that will be applied. Fails with all that is missing at once."""
    rows, missing = [], []
    for tool in _needed(run):
        found, fault = _check_tool(run, tool)
        rows.append((tool.name, found, f"{_text(tool.oldest)} or newer", fault or "ok"))
        missing += [f"{tool.name} {fault}"] if fault else []
    if run.target.is_here and not run.dry:
        missing += missing_for_node()
    if not run.target.is_local:
        found, fault = _check_server(run)
        rows.append((run.target.context, found, f"{_text(SERVER)} or newer", fault or "ok"))
        missing += [fault] if fault else unknown_kinds(run)
    if run.dry:
        return ""
    for line in table(rows):
        run.say(line)
    if missing:
        raise StepFailed("\n  ".join(missing))
    return ""


def _needed(run: Runner) -> Sequence[Tool]:
    if run.target.is_here:
        return [KUBECTL, PODMAN]
    builds = DOCKER if shutil.which("docker") and not shutil.which("podman") else PODMAN
    return [KUBECTL, HELM, *([KIND] if run.target.is_local else []), builds]


def _check_tool(run: Runner, tool: Tool) -> tuple[str, str]:
    """The version found, and what is wrong with it, or nothing."""
    install = INSTALL[tool.name]
    if platform.system() == "Darwin" and tool.name in BREW:
        install = f"brew install {tool.name}"
    if not run.dry and shutil.which(tool.name) is None:
        return "not there", f"is not installed ({tool.why}): {install}"
    answer = run.ask([tool.name, *tool.asks])
    found = _version(answer.output)
    if answer.status != 0 or (not found and not run.dry):
        return "no answer", f"does not print its version: {answer.reason or 'no output'}"
    if found and found < tool.oldest:
        return _text(found), f"is {_text(found)}, {_text(tool.oldest)} is needed ({tool.why}): {install}"
    return _text(found or tool.oldest), ""


def _check_server(run: Runner) -> tuple[str, str]:
    answer = run.ask(run.kubectl("version", "--output", "json"), assumed="{}")
    if answer.status != 0:
        return "no answer", f"the cluster {run.target.context} does not answer: {answer.reason}"
    found = _version(str(parsed(answer.output, "kubectl version").get("serverVersion", {}).get("gitVersion", "")))
    if found and found < SERVER:
        return _text(found), f"the cluster runs Kubernetes {_text(found)}; {_text(SERVER)} is needed"
    return _text(found or SERVER), ""


def _version(text: str) -> tuple[int, ...]:
    """The first two numbers of the first version in a text; empty where there is none."""
    found = re.search(r"(\d+)\.(\d+)", text)
    return tuple(map(int, found.groups())) if found else ()


def _text(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def unknown_kinds(run: Runner) -> list[str]:
    """A line for each kind of the overlay that the cluster does not know, or for a question that it did not answer."""
    overlay = f"k8s/overlays/{run.target.environment}"
    manifests = run.ask(["kubectl", "kustomize", overlay])
    if manifests.status != 0:
        return [f"{overlay} cannot be built: {manifests.reason}"]
    resources, versions = run.ask(run.kubectl("api-resources", "--no-headers")), run.ask(run.kubectl("api-versions"))
    wanted = dict.fromkeys(KIND_LINES.findall(manifests.output))
    # One API that does not answer makes the first command fail, after it has listed all the others.
    for answer in (resources, versions):
        if wanted and not answer.output.strip():
            return [f"the cluster {run.target.context} does not list its kinds: {answer.reason or 'no output'}"]
    # The first lists each kind only in the version that the cluster prefers; it may serve the wanted one as well.
    known = {(_group(row[-3]), row[-1]) for row in map(str.split, resources.output.splitlines()) if len(row) >= 4}
    served = set(versions.output.split())
    missing: dict[str, list[str]] = {}
    for version, kind in wanted:
        if version not in served or (_group(version), kind) not in known:
            missing.setdefault(version, []).append(kind)
    return [
        f"the cluster knows no {' and no '.join(kinds)} of {version}: "
        + COMES_FROM.get(_group(version), "nothing of this project installs it")
        for version, kinds in missing.items()
    ]


def _group(version: str) -> str:
    """The group of an apiVersion; empty for Kubernetes' core."""
    return version.rpartition("/")[0]


def needs_root() -> str:
    """The error for a user who is not root; empty for root."""
    return "" if os.geteuid() == 0 else "a cluster without Docker needs root, for its namespaces"


def missing_for_node() -> list[str]:
    """What this machine lacks to be a node, one line each, with what to do about it."""
    if platform.system() != "Linux":
        return [f"a cluster without Docker needs Linux, and this is {platform.system()}: take kind"]
    lines = [*filter(None, [needs_root()]), *needs_go()]
    if packages := [name for name, file in PACKAGES.items() if not (shutil.which(file) or Path(file).exists())]:
        lines.append(f"missing on this machine: sudo apt-get install --no-install-recommends {' '.join(packages)}")
    return lines


def needs_go() -> list[str]:
    """What is wrong with this machine's Go; empty if it is the version in go.mod or a newer one."""
    wanted = _pinned("go")
    if shutil.which("go", path=_path()) is None:
        return [f"Go {wanted} or newer is not installed: {GO_COMES_FROM}"]
    answer = runner.run(go("env", "GOVERSION"), None, runner.READ_DEADLINE_S)
    found = answer.output.strip().removeprefix("go")
    if answer.status == 0 and _go_version(found) >= _go_version(wanted):
        return []
    return [f"Go is {found or answer.reason}, {wanted} is needed: {GO_COMES_FROM}"]


def _go_version(text: str) -> tuple[int, ...]:
    """The three numbers of a Go version; a pre-release such as 1.27rc1 counts as 1.27.0."""
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    return tuple(int(part or 0) for part in found.groups()) if found else ()


def _pinned(name: str) -> str:
    """The version of Go or of a module in go.mod."""
    [version] = re.findall(rf"^\s*{re.escape(name)} (\S+)", (MODULE / "go.mod").read_text("utf-8"), re.MULTILINE)
    return str(version)


def go(*arguments: str) -> list[str]:
    """A command of Go. Its programs are linked statically, and a package that several use is compiled once."""
    return ["env", f"PATH={_path()}", "CGO_ENABLED=0", "go", *arguments]


def _path() -> str:
    return os.pathsep.join([os.environ.get("PATH", os.defpath), GO_FOLDER])


def programs() -> Path:
    """The folder of a node's programs, named after the content of their modules."""
    files = sorted(file for module in (MODULE, OPERATOR) for file in module.glob("*.*") if file.suffix in SOURCES)
    content = b"".join(file.read_bytes() for file in files)
    return CACHE / "node" / hashlib.sha256(content).hexdigest()[:12]


def build_programs(run: Runner) -> Path:
    """Build the programs that are not built yet, each once per version; their folder."""
    folder = programs()
    missing = {name: package for name, package in PROGRAMS.items() if not (folder / name).is_file()}
    if missing:
        if not run.dry:
            folder.mkdir(parents=True, exist_ok=True)
        run.say(f"building {len(missing)} programs of the node into {folder}; the first time takes about ten minutes")
    version = _pinned("k8s.io/kubernetes")  # Kubernetes' parts report it, and clients choose by it
    for name, package in missing.items():
        began, made = time.monotonic(), folder / f"{name}.{os.getpid()}"
        module = OPERATOR if name == "ray-operator" else MODULE
        flags = f"-ldflags=-s -w -X k8s.io/component-base/version.gitVersion={version}"
        command = go("build", "-C", str(module), flags, "-o", str(made), package)
        run.long(command, deadline_s=BUILD_DEADLINE_S)
        if not run.dry:
            made.rename(folder / name)
            run.say(f"built {name} in {time.monotonic() - began:.0f} s")
    if missing and not run.dry:
        others = sorted((one for one in folder.parent.iterdir() if one != folder), key=lambda one: one.stat().st_mtime)
        for old in others[: max(0, len(others) - KEPT)]:
            shutil.rmtree(old)
    return folder
