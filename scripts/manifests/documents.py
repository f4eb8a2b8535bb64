"""The manifests as a cluster gets them: every overlay rendered by kubectl, its pods, and findings."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path as File
from typing import Any, Final

import yaml

Path = tuple[str | int, ...]
"""The way to a value: keys and list indexes."""
NAMES_OF_SECRETS: Final = "SecretNames"
"""Not a kind of Kubernetes: the list of the Secrets that are not in git, with their keys (k8s/secrets.yaml)."""
CLUSTER: Final = ("spec", "rayClusterConfig")
HEAD: Final = (*CLUSTER, "headGroupSpec")
WORKERS: Final = (*CLUSTER, "workerGroupSpecs")
TEMPLATES: Final[dict[str, Path]] = {
    "Pod": (),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
    **dict.fromkeys(("Deployment", "StatefulSet", "DaemonSet", "Job"), ("spec", "template")),
}


OVERLAYS: Final = "k8s/overlays"
SERVICES: Final = "k8s/service"
SECRETS: Final = "k8s/secrets.yaml"
DEADLINE_S: Final = 60.0


@dataclass(frozen=True, order=True)
class Finding:
    """An error, its place, and its remedy."""

    file: str
    resource: str
    path: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.file}: {self.resource} {self.path or '(whole)'}: {self.sentence}"


@dataclass(frozen=True)
class Document:
    """One resource, as plain values."""

    file: str
    body: dict[str, Any]

    @property
    def kind(self) -> str:
        return str(self.body.get("kind", "?"))

    @property
    def name(self) -> str:
        return str(self.mapping("metadata").get("name", "?"))

    @property
    def resource(self) -> str:
        return f"{self.kind}/{self.name}"

    def at(self, *path: str | int) -> Any:
        """The value at that path, or None."""
        value: Any = self.body
        for step in path:
            try:
                value = value[step]
            except (KeyError, IndexError, TypeError):
                return None
        return value

    def mapping(self, *path: str | int) -> dict[str, Any]:
        """The mapping at that path; empty if there is none."""
        value = self.at(*path)
        return value if isinstance(value, dict) else {}

    def items(self, *path: str | int) -> list[Any]:
        """The list at that path; empty if there is none."""
        value = self.at(*path)
        return value if isinstance(value, list) else []

    def finding(self, path: Path, sentence: str) -> Finding:
        """A finding at that path, written `spec.containers[0].image`."""
        dotted = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
        return Finding(self.file, self.resource, dotted.removeprefix("."), sentence)


@dataclass(frozen=True)
class Pod:
    """One pod template, by the path to it."""

    document: Document
    path: Path
    group: str = ""
    """The group of a RayService, `head` for its head; empty for other pods."""

    @property
    def labels(self) -> dict[str, str]:
        """The labels of its pods, including those that KubeRay adds."""
        labels = {name: str(value) for name, value in self.document.mapping(*self.path, "metadata", "labels").items()}
        if self.group:
            labels |= {"ray.io/is-ray-node": "yes", "ray.io/cluster": self.document.name}
            labels |= {"ray.io/node-type": "head" if self.group == "head" else "worker"}
            labels |= {"ray.io/group": "headgroup" if self.group == "head" else self.group}
            labels |= {"ray.io/serve": str(self.group != "head").lower()}
        return labels

    @property
    def spec_path(self) -> Path:
        return (*self.path, "spec")

    @property
    def spec(self) -> dict[str, Any]:
        return self.document.mapping(*self.spec_path)

    @property
    def group_path(self) -> Path:
        """The path of the group of Ray nodes."""
        return self.path[:-1]

    @property
    def ray_path(self) -> Path:
        """The path of Ray's container: KubeRay takes the first."""
        return (*self.spec_path, "containers", 0)

    @property
    def environment(self) -> dict[str, str | None]:
        """The environment variables of Ray's container; None for a value that comes from a Secret or ConfigMap."""
        return {str(one.get("name")): one.get("value") for one in self.document.items(*self.ray_path, "env")}

    def count(self, key: str) -> int:
        """`minReplicas` and the like of its group; 0 if it is missing."""
        return int(self.document.at(*self.group_path, key) or 0)

    def containers(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """All containers with their paths, including init containers and the autoscaler's, which KubeRay adds to a
        head."""
        for kind in ("initContainers", "containers"):
            for number, container in enumerate(self.document.items(*self.spec_path, kind)):
                yield (*self.spec_path, kind, number), container
        if self.group == "head" and self.document.at(*CLUSTER, "enableInTreeAutoscaling"):
            path, image = (*CLUSTER, "autoscalerOptions"), self.document.at(*self.ray_path, "image")
            yield path, {"name": "autoscaler", "image": image, **self.document.mapping(*path)}


def pods_of(documents: list[Document]) -> list[Pod]:
    """All pod templates; of a RayService the head first."""
    found = []
    for document in documents:
        if document.kind == "RayService":
            found.append(Pod(document, (*HEAD, "template"), "head"))
            for number, group in enumerate(document.items(*WORKERS)):
                found.append(Pod(document, (*WORKERS, number, "template"), str(group.get("groupName"))))
        elif document.kind in TEMPLATES:
            found.append(Pod(document, TEMPLATES[document.kind]))
    return found


def matches(selector: dict[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector matches the labels. Of expressions only `In` is supported, the only one here."""
    wanted = {name: [value] for name, value in (selector.get("matchLabels") or {}).items()}
    for rule in selector.get("matchExpressions") or []:
        wanted[rule["key"]] = {"In": rule["values"]}[rule["operator"]]
    return all(labels.get(name) in values for name, values in wanted.items())


class UniqueKeys(yaml.SafeLoader):
    """Refuses a repeated key in a mapping; PyYAML by itself silently takes the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        keys = [key.value for key, _ in node.value if isinstance(key.value, str)]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.MarkedYAMLError(problem=f"the key {key} stands twice", problem_mark=node.start_mark)
        return node


Read = tuple[list[Document], list[Finding]]


def environments(root: File) -> dict[str, Read]:
    """The documents of each overlay, with the RayService and the names of the secrets."""
    secrets, faults = secrets_of(root)
    found = {}
    for name in sorted(path.parent.name for path in (root / OVERLAYS).glob("*/kustomization.yaml")):
        around, service = rendered(root, f"{OVERLAYS}/{name}"), service_of(root, name)
        found[name] = (around[0] + service[0] + secrets, around[1] + service[1] + faults)
    return found


def rendered(root: File, folder: str) -> Read:
    """The output of a kustomization."""
    if (kubectl := find_kubectl()) is None:
        return [], [Finding(folder, "?", "", "kubectl is needed to build this; `make setup` installs one.")]
    command = [kubectl, "kustomize", "--load-restrictor", "LoadRestrictionsNone", str(root / folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    except subprocess.TimeoutExpired:
        return [], [Finding(folder, "?", "", f"kubectl did not build this within {DEADLINE_S:.0f} s.")]
    if done.returncode != 0:
        return [], [Finding(folder, "?", "", f"kubectl cannot build this: {done.stderr.strip()[-400:]}")]
    return read(done.stdout, folder)


def find_kubectl() -> str | None:
    """kubectl of this environment (its version is locked), else the machine's."""
    own = File(sys.executable).with_name("kubectl")
    return str(own) if os.access(own, os.X_OK) else shutil.which("kubectl")


def service_of(root: File, name: str) -> Read:
    """The RayService of an environment."""
    return rendered(root, f"{SERVICES}/{name}")


def secrets_of(root: File) -> Read:
    """The list of secrets that are not in git, in the form of a resource."""
    documents, findings = read((root / SECRETS).read_text("utf-8"), SECRETS)
    return [replace(one, body={**one.body, "kind": NAMES_OF_SECRETS}) for one in documents], findings


def read(text: str, file: str) -> Read:
    """The documents of a YAML text, and its syntax errors."""
    try:
        values = [value for value in yaml.load_all(text, UniqueKeys) if value]
    except yaml.YAMLError as error:
        return [], [Finding(file, "?", "", f"This is no YAML: {' '.join(str(error).split())}.")]
    documents = [Document(file, value) for value in values if isinstance(value, dict)]
    return documents, [Finding(file, "?", "", "A document is no mapping.")] * (len(documents) < len(values))


def of_kind(documents: list[Document], *kinds: str) -> Iterator[Document]:
    """The documents of the given kinds."""
    return (document for document in documents if document.kind in kinds)


def report(findings: Sequence[Finding]) -> int:
    """Print a line for each finding; returns the program's exit status."""
    for finding in findings:
        print(finding)
    print(f"{len(findings)} findings" if findings else "no findings", file=sys.stderr)
    return 1 if findings else 0
