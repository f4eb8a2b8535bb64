"""Which environment is meant: where it is, what runs there. From the defaults of each, its local file, and options."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

from operations.failure import Refused

ROOT = Path(__file__).resolve().parents[2]
NAME = "sem-image-classifier"
"""Of the RayService, of the namespace it lives in by default, of the kind cluster and of the image."""
ENVIRONMENTS = ("dev", "stage", "prod")
KIND = "kind-"
"""How kind begins the names of the contexts it makes."""
COMMIT = re.compile(r"[0-9a-f]{40}")
NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
PROTECTED = re.compile(
    r"default|(kube|openshift|istio|cert-manager|ingress|kuberay|monitoring|storage)(-.*)?|.*-system"
    r"|(.*-)?(prod|production|live)(-.*)?"
)
"""Namespaces that `reset` and `remove` never touch, whatever the options say."""


@dataclass(frozen=True)
class Target:
    """One environment on one cluster, with the model that its image holds."""

    environment: str
    namespace: str = NAME
    context: str = ""
    registry: str = ""
    """Where images are pushed; empty for kind, which gets them loaded."""
    model_source: str = "demo"
    model_id: str = ""
    model_revision: str = ""
    model_cache_dir: str = ""
    service_url: str = ""
    """Where clients reach the service; empty: through a port-forward."""

    @property
    def is_kind(self) -> bool:
        """On this machine, in containers: made and thrown away at will."""
        return self.context.startswith(KIND)

    @property
    def kind_cluster(self) -> str:
        return self.context.removeprefix(KIND)

    @property
    def folder(self) -> Path:
        """What belongs to this environment on this machine; nothing in it is needed to run the service."""
        return ROOT / "build" / "cluster" / self.environment

    def kubectl(self, *arguments: str, namespace: str = "") -> list[str]:
        """A kubectl command. It always names its cluster: the current context is whatever was last looked at."""
        return ["kubectl", "--context", self.context, "--namespace", namespace or self.namespace, *arguments]

    def command(self, words: str) -> str:
        """A command of this program, as it can be typed to do the same here."""
        chosen = "" if self.environment == "dev" else f" --env {self.environment}"
        return f"scripts/cluster{chosen} {words}"


SETTINGS = tuple(field.name for field in fields(Target) if field.name != "environment")
"""What a local file may set, in upper case there."""


def read_target(environment: str, chosen: Mapping[str, str]) -> Target:
    """The environment's defaults, over them its local file, over that the options; checked."""
    target = Target(environment, context=KIND + NAME if environment == "dev" else "")
    target = replace(target, **{**read_file(local_file(environment)), **{k: v for k, v in chosen.items() if v}})
    if not target.context:
        where = local_file(environment).relative_to(ROOT)
        raise Refused(f"{environment} needs to be told its cluster: --context NAME, or CONTEXT=NAME in {where}")
    if not NAMESPACE.fullmatch(target.namespace):
        raise Refused(f"{target.namespace!r} is no name for a namespace")
    return target


def local_file(environment: str) -> Path:
    """This machine's settings of an environment; git ignores it."""
    return ROOT / "k8s" / f"{environment}.local.env"


def read_file(path: Path) -> dict[str, str]:
    """The settings of a local file: `NAME=value` lines. A name nobody reads is refused, it may be a typing error."""
    found: dict[str, str] = {}
    if not path.is_file():
        return found
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, separator, value = (part.strip() for part in line.partition("="))
        if not separator or name.lower() not in SETTINGS:
            known = ", ".join(setting.upper() for setting in SETTINGS)
            raise Refused(f"{path.name}:{number}: {name!r} is no setting; there are {known}")
        found[name.lower()] = value
    return found


def refuse_foreign_model(target: Target) -> None:
    """The model comes from the file alone: a variable left over in a shell must not decide what is deployed."""
    for name in ("model_source", "model_id", "model_revision", "model_cache_dir"):
        value = os.environ.get(name.upper(), "")
        if value and value != getattr(target, name):
            where = local_file(target.environment).relative_to(ROOT)
            raise Refused(f"{name.upper()} is set in this shell and is not read: write it to {where}, or unset it")
    if target.model_source != "demo" and not target.model_id:
        raise Refused(f"MODEL_SOURCE={target.model_source} needs MODEL_ID")
    if target.environment == "prod":
        if target.model_source == "demo":
            raise Refused("prod does not serve the demo model: set MODEL_SOURCE, MODEL_ID and MODEL_REVISION")
        if not COMMIT.fullmatch(target.model_revision):
            raise Refused("prod wants MODEL_REVISION as a commit, 40 hex digits: a branch is something else tomorrow")


def refuse_protected(target: Target) -> None:
    """Deleting is for environments that can be made again."""
    if target.environment == "prod":
        raise Refused("prod is not deleted by this program")
    if PROTECTED.fullmatch(target.namespace):
        raise Refused(f"the namespace {target.namespace} is protected: this program does not delete it")
