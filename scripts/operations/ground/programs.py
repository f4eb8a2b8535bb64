"""The programs of a node: built from the modules that scripts/node/go.mod pins, kept outside the checkout."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import time
from pathlib import Path

from operations.runner import Runner
from operations.target import NAME, ROOT
from operations.work import Work

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / NAME
MODULE = ROOT / "scripts" / "node"
OPERATOR = MODULE / "operator"
"""The module of the operator, which has other versions of the same packages."""
PROGRAMS = {
    "kubernetes": ".",
    "containerd": "github.com/containerd/containerd/v2/cmd/containerd",
    "containerd-shim-runc-v2": "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
    "ctr": "github.com/containerd/containerd/v2/cmd/ctr",
    "kube-router": "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router",
    "coredns": "github.com/coredns/coredns",
    "ray-operator": "github.com/ray-project/kuberay/ray-operator",
}
"""Each program and its package; those with the most packages in common follow each other."""
SOURCES = (".go", ".mod", ".sum")
GO_COMES_FROM = "https://go.dev/doc/install"
GO_FOLDER = "/usr/local/go/bin"
"""Where Go's own archive puts it, on no PATH by itself."""
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
"""Debian's packages that a node and its images need, and a program or file of each. Podman is among the tools that
`check` looks at."""


def needs_root() -> str:
    """What a user is told who is not root, whatever the command; empty for root."""
    return "" if os.geteuid() == 0 else "a cluster without Docker needs root, for its namespaces"


def needs() -> list[str]:
    """What this machine lacks to be a node, one line each, with what to do about it."""
    if platform.system() != "Linux":
        return [f"a cluster without Docker needs Linux, and this is {platform.system()}: take kind"]
    lines = [*filter(None, [needs_root()]), *needs_go()]
    if packages := [name for name, shows in PACKAGES.items() if not _is_there(shows)]:
        lines.append(f"missing on this machine: sudo apt-get install --no-install-recommends {' '.join(packages)}")
    return lines


def _is_there(shows: str) -> bool:
    return Path(shows).exists() if shows.startswith("/") else shutil.which(shows) is not None


def needs_go() -> list[str]:
    """What is wrong with this machine's Go; nothing where the one that go.mod wants, or a newer one, is there."""
    wanted = _pinned("go")
    if shutil.which("go", path=_path()) is None:
        return [f"Go {wanted} or newer is not installed: {GO_COMES_FROM}"]
    answer = Runner(dry=False).ask(go("env", "GOVERSION"))
    found = answer.output.strip().removeprefix("go")
    if answer.status == 0 and _version(found) >= _version(wanted):
        return []
    return [f"Go is {found or answer.reason}, {wanted} is needed: {GO_COMES_FROM}"]


def _version(text: str) -> tuple[int, ...]:
    """The three numbers of a version of Go; one before its release, such as 1.27rc1, counts as 1.27.0."""
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    return tuple(int(part or 0) for part in found.groups()) if found else ()


def _pinned(name: str) -> str:
    """The version of Go or of a module in go.mod."""
    [version] = re.findall(rf"^\s*{re.escape(name)} (\S+)", (MODULE / "go.mod").read_text("utf-8"), re.MULTILINE)
    return str(version)


def go(*arguments: str) -> list[str]:
    """A command of Go. Its programs are linked statically, and packages that several use are compiled once."""
    return ["env", f"PATH={_path()}", "CGO_ENABLED=0", "go", *arguments]


def _path() -> str:
    return os.pathsep.join([os.environ.get("PATH", os.defpath), GO_FOLDER])


def programs() -> Path:
    """The folder of the programs. Its name follows from what they are built from."""
    files = sorted(file for module in (MODULE, OPERATOR) for file in module.glob("*.*") if file.suffix in SOURCES)
    content = b"".join(file.read_bytes() for file in files)
    return CACHE / "node" / hashlib.sha256(content).hexdigest()[:12]


def build(work: Work) -> Path:
    """Build what is not built yet, each program once per version; the folder of the programs."""
    folder = programs()
    missing = {name: package for name, package in PROGRAMS.items() if not (folder / name).is_file()}
    if missing:
        if not work.run.dry:
            folder.mkdir(parents=True, exist_ok=True)
        work.say(f"building {len(missing)} programs of the node into {folder}; the first time takes about ten minutes")
    version = _pinned("k8s.io/kubernetes")  # its parts tell it to clients, which choose by it
    for name, package in missing.items():
        began, made = time.monotonic(), folder / f"{name}.{os.getpid()}"
        module = OPERATOR if name == "ray-operator" else MODULE
        flags = f"-ldflags=-s -w -X k8s.io/component-base/version.gitVersion={version}"
        command = go("build", "-C", str(module), flags, "-o", str(made), package)
        work.run.work(command, deadline_s=BUILD_DEADLINE_S)
        if not work.run.dry:
            made.rename(folder / name)
            work.say(f"built {name} in {time.monotonic() - began:.0f} s")
    if missing and not work.run.dry:
        others = sorted((one for one in folder.parent.iterdir() if one != folder), key=lambda one: one.stat().st_mtime)
        for old in others[: max(0, len(others) - KEPT)]:
            shutil.rmtree(old)
    return folder
