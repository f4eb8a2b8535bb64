"""The chosen environment and cluster, from the environment's overlay, the local file and the options; and the checks
against choosing a wrong one."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from operations.steps import Aborted

ROOT = Path(__file__).resolve().parents[2]
NAME = "sem-image-classifier"
"""The name of the RayService, of its default namespace, of the kind cluster and of the image."""
PART_OF = "app.kubernetes.io/part-of"
"""The label that marks a namespace as ours; the manifests give it to everything in it too."""
ENVIRONMENTS = ("dev", "stage", "prod")
KIND = "kind-"
"""The prefix of the contexts that kind makes."""
HERE = "here-"
"""The prefix of the contexts of clusters that are made with --here."""
STATE = Path(os.environ.get("XDG_STATE_HOME", "/var/lib")) / NAME
"""Where each of those clusters has its folder."""
COMMIT = re.compile(r"[0-9a-f]{40}")
MODEL_PARTS = (("SOURCE", "demo"), ("ID", ""), ("REVISION", ""))
NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
PROTECTED = re.compile(
    r"default|(kube|openshift|istio|cert-manager|ingress|kuberay|monitoring|storage)(-.*)?|.*-system"
    r"|(.*-)?(prod|production|live)(-.*)?"
)
"""Namespaces that `reset` and `remove` never delete, whatever the options and labels say."""
SETTINGS = ("NAMESPACE", "CONTEXT", "REGISTRY", "SERVICE_URL", "HF_TOKEN_FILE")
BUILD = ("BASE", "TORCH", "TORCH_INDEX_URL", "TORCH_SPEC", "PIP_INDEX_URL")
"""What a local file may set: these settings, and arguments of the build as BUILD_BASE and so on."""


@dataclass(frozen=True)
class Model:
    """The model that the image holds and the service serves."""

    source: str
    id: str = ""
    revision: str = ""

    def __str__(self) -> str:
        return " ".join(part for part in (self.source, self.id, self.revision) if part)


@dataclass(frozen=True)
class Target:
    """One environment on one cluster."""

    environment: str
    model: Model
    namespace: str = NAME
    context: str = ""
    registry: str = ""
    """Where images are pushed; empty for a cluster on this machine, into which they are loaded."""
    build: tuple[tuple[str, str], ...] = ()
    """Arguments of the image's build that this site changes: BASE, TORCH, PIP_INDEX_URL and so on."""
    hf_token_file: str = ""
    """A file with the token for the model on its hub; no layer of the image holds it."""
    options: tuple[str, ...] = ()
    """What was given on the command line instead of in a file."""
    service_url: str = ""
    """Where clients reach the service; empty: through a port-forward."""

    @property
    def is_local(self) -> bool:
        """Whether the cluster is on this machine, made by kind or by this program."""
        return self.context.startswith((KIND, HERE))

    @property
    def is_here(self) -> bool:
        """Whether the cluster is on this machine and made without Docker."""
        return self.context.startswith(HERE)

    @property
    def cluster(self) -> str:
        """The name of a cluster on this machine, without the prefix of its context."""
        return self.context.removeprefix(KIND).removeprefix(HERE)

    @property
    def state(self) -> Path:
        """The folder of a cluster that was made without Docker."""
        return STATE / self.cluster

    @property
    def kubeconfig(self) -> Path:
        """kubectl's configuration for that cluster, valid in the network of its nodes."""
        return self.state / "kubeconfig"

    @property
    def network_namespace(self) -> str:
        """The network that reaches the cluster, as a path for setns(2); empty for the machine's own network."""
        return str(self.state / "node1" / "network") if self.is_here else ""

    @property
    def folder(self) -> Path:
        """Files of this environment on this machine; the service does not need them to run."""
        return ROOT / "build" / "cluster" / self.environment

    def kubectl(self, *arguments: str, namespace: str = "") -> list[str]:
        """A kubectl command. It always names its cluster: the current context may be any other."""
        program = ["kubectl"]
        if self.is_here:
            program = ["nsenter", f"--net={self.network_namespace}", "kubectl", "--kubeconfig", str(self.kubeconfig)]
        return [*program, "--context", self.context, "--namespace", namespace or self.namespace, *arguments]

    def apply(self, *arguments: str, namespace: str = "") -> list[str]:
        """A kubectl command that applies. The API server merges: fields that others wrote stay."""
        return self.kubectl("apply", "--server-side", "--force-conflicts", *arguments, namespace=namespace)

    def command(self, words: str) -> str:
        """A command of this program as it can be typed to do the same here. `words` are quoted as in a shell."""
        chosen = [] if self.environment == "dev" else ["--env", self.environment]
        return shlex.join(["scripts/cluster", *shlex.split(words), *chosen, *self.options])


def read_target(environment: str, chosen: Mapping[str, str]) -> Target:
    """The environment's defaults, overridden by its local file, overridden by the options; checked."""
    given = read_file(settings_file(environment))
    model = Model(*(given.get(f"MODEL_{part}", default) for part, default in MODEL_PARTS))
    own = (HERE if (STATE / NAME).is_dir() else KIND) + NAME  # the cluster of `up --here` while it exists
    target = Target(environment, model, context=own if environment == "dev" else "")
    named = {name: value for name, value in chosen.items() if value}
    options = tuple(part for name, value in named.items() for part in (f"--{name}", value))
    target = replace(target, options=options, **{**_local(environment), **named})
    if not target.context:
        where = f"--context NAME, or CONTEXT=NAME in {local_file(environment)}"
        raise Aborted(f"{environment} needs to be told its cluster: {where}")
    if not NAMESPACE.fullmatch(target.namespace):
        raise Aborted(f"{target.namespace!r} is no name for a namespace")
    return target


def _local(environment: str) -> dict[str, Any]:
    """What the local file sets. Unknown names are refused: they may be typing errors."""
    found = read_file(local_file(environment))
    known = (*SETTINGS, *(f"BUILD_{name}" for name in BUILD))
    if unknown := sorted(set(found) - set(known)):
        raise Aborted(f"{local_file(environment)}: {unknown[0]} is no setting; there are {', '.join(known)}")
    build = tuple((name, found[f"BUILD_{name}"]) for name in BUILD if f"BUILD_{name}" in found)
    return {"build": build, **{name.lower(): found[name] for name in SETTINGS if name in found}}


def settings_file(environment: str) -> str:
    """The settings of the service in an environment, with its model. A path from the root, like the following."""
    return f"k8s/overlays/{environment}/settings.env"


def site_file(environment: str) -> str:
    """Addresses and namespaces of a site, for the network policies of an environment."""
    return f"k8s/overlays/{environment}/site.env"


def local_file(environment: str) -> str:
    """Where an environment runs, for this machine only; git ignores it."""
    return f"k8s/{environment}.local.env"


def read_file(name: str) -> dict[str, str]:
    """The `NAME=value` lines of a file; empty if it does not exist."""
    path = ROOT / name
    found: dict[str, str] = {}
    if not path.is_file():
        return found
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, separator, value = (part.strip() for part in line.partition("="))
        if not separator or not re.fullmatch("[A-Z][A-Z0-9_]*", name):
            raise Aborted(f"{path.name}:{number}: NAME=value is wanted, not {line.strip()!r}")
        found[name] = value
    return found


def abort_on_wrong_model(target: Target) -> None:
    """The model comes from the overlay alone: a variable left in a shell must not decide what is deployed."""
    settings = settings_file(target.environment)
    for part, _ in MODEL_PARTS:
        name, value = f"MODEL_{part}", os.environ.get(f"MODEL_{part}", "")
        if value and value != getattr(target.model, part.lower()):
            raise Aborted(f"{name} is set in this shell and is not read: write it to {settings}, or unset it")
    if target.model.source != "demo" and not target.model.id:
        raise Aborted(f"MODEL_SOURCE={target.model.source} needs MODEL_ID in {settings}")
    if target.environment == "prod":
        if target.model.source == "demo":
            raise Aborted("prod does not serve the demo model: set MODEL_SOURCE, MODEL_ID and MODEL_REVISION")
        if not COMMIT.fullmatch(target.model.revision):
            raise Aborted("prod wants MODEL_REVISION as a commit, 40 hex digits: a branch may change any day")
        if "@sha256:" not in dict(target.build).get("BASE", ""):
            where = local_file(target.environment)
            raise Aborted(f"prod is built on an image that cannot change: BUILD_BASE=…@sha256:… in {where}")


def abort_if_protected(target: Target) -> None:
    """Only environments that can be made again may be deleted."""
    if target.environment == "prod":
        raise Aborted("prod is not deleted by this program")
    if PROTECTED.fullmatch(target.namespace):
        raise Aborted(f"the namespace {target.namespace} is protected: this program does not delete it")
