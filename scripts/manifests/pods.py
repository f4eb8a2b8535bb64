"""Every pod template of the manifests, with the labels that its pods have, and the node groups of a RayService."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from manifests.documents import Document, Path

CLUSTER: Final = ("spec", "rayClusterConfig")
HEAD: Final = "headGroupSpec"
WORKERS: Final = "workerGroupSpecs"
DRAIN: Final = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
TEMPLATES: Final[dict[str, Path]] = {
    "Pod": (),
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}


@dataclass(frozen=True)
class Group:
    """One group of nodes: its name, and where it stands."""

    document: Document
    name: str
    path: Path

    @property
    def is_head(self) -> bool:
        return self.path[-1] == HEAD

    def mapping(self, *path: str | int) -> dict[str, Any]:
        return self.document.mapping(*self.path, *path)

    def at(self, *path: str | int) -> Any:
        return self.document.at(*self.path, *path)

    @property
    def container_path(self) -> Path:
        """The container in which Ray runs: KubeRay takes the first."""
        return (*self.path, "template", "spec", "containers", 0)

    @property
    def container(self) -> dict[str, Any]:
        return self.document.mapping(*self.container_path)

    @property
    def environment(self) -> dict[str, str | None]:
        """Variables with a value written down; None for one that comes from elsewhere."""
        return {str(pair.get("name")): pair.get("value") for pair in self.container.get("env") or []}

    def count(self, key: str) -> int:
        """`minReplicas` and the like; 0 where it is not given."""
        return int(self.at(key) or 0)


def groups_of(document: Document) -> list[Group]:
    """Head and workers of a RayService, the head first."""
    found = [Group(document, "head", (*CLUSTER, HEAD))]
    for number, worker in enumerate(document.items(*CLUSTER, WORKERS)):
        found.append(Group(document, str(worker.get("groupName")), (*CLUSTER, WORKERS, number)))
    return found


@dataclass(frozen=True)
class Pod:
    """One pod template: its place, and the labels that its pods have."""

    document: Document
    path: Path
    labels: dict[str, str]
    group: str = ""
    """The group of a RayService, `head` for its head; empty for other pods."""

    @property
    def spec_path(self) -> Path:
        return (*self.path, "spec")

    @property
    def spec(self) -> dict[str, Any]:
        return self.document.mapping(*self.spec_path)

    def containers(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """All containers with their places, init containers too, and the autoscaler's that KubeRay adds to a head."""
        for kind in ("initContainers", "containers"):
            for number, container in enumerate(self.spec.get(kind) or []):
                yield (*self.spec_path, kind, number), container
        options = self.document.mapping(*CLUSTER, "autoscalerOptions")
        if self.group == "head" and self.document.at(*CLUSTER, "enableInTreeAutoscaling"):
            image = self.document.at(*self.spec_path, "containers", 0, "image")
            yield (*CLUSTER, "autoscalerOptions"), {"name": "autoscaler", "image": image, **options}


def pods_of(documents: list[Document]) -> list[Pod]:
    """All pod templates. A RayService's pods have the labels that KubeRay adds."""
    found = []
    for document in documents:
        if document.kind == "RayService":
            for group in groups_of(document):
                path, node = (*group.path, "template"), "head" if group.is_head else "worker"
                added = {
                    "ray.io/is-ray-node": "yes",
                    "ray.io/node-type": node,
                    "ray.io/serve": str(node != "head").lower(),
                    "ray.io/group": "headgroup" if group.is_head else group.name,
                    "ray.io/cluster": document.name,
                }
                found.append(Pod(document, path, {**_labels(document, path), **added}, group.name))
        elif document.kind in TEMPLATES:
            path = TEMPLATES[document.kind]
            found.append(Pod(document, path, _labels(document, path)))
    return found


def _labels(document: Document, path: Path) -> dict[str, str]:
    return {str(name): str(value) for name, value in document.mapping(*path, "metadata", "labels").items()}


def leaving_s(container: Mapping[str, Any]) -> tuple[int, int]:
    """Seconds that a container which is asked to end waits before SIGTERM, and those that Ray may drain after it."""
    hook = (container.get("lifecycle") or {}).get("preStop") or {}
    drain = next((one for one in container.get("env") or [] if one.get("name") == DRAIN), None)
    return int((hook.get("sleep") or {}).get("seconds") or 0), int((drain or {}).get("value") or 0)


def matches(selector: dict[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector fits the labels."""
    if any(labels.get(name) != value for name, value in (selector.get("matchLabels") or {}).items()):
        return False
    for rule in selector.get("matchExpressions") or []:
        value, values = labels.get(rule["key"]), rule.get("values") or []
        fits = {"In": value in values, "NotIn": value not in values, "Exists": value is not None}
        if not fits.get(rule["operator"], value is None):
            return False
    return True
