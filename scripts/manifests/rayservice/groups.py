"""The node groups of a RayService, head first, each with its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from manifests.documents import Document, Path

CLUSTER: Final = ("spec", "rayClusterConfig")
HEAD: Final = "headGroupSpec"
WORKERS: Final = "workerGroupSpecs"


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
        pairs = self.container.get("env") or []
        return {str(pair.get("name")): pair.get("value") for pair in pairs if isinstance(pair, dict)}

    def count(self, key: str) -> int:
        """`minReplicas` and the like; 0 where it is no number."""
        value = self.at(key)
        return value if isinstance(value, int) else 0


def groups_of(document: Document) -> list[Group]:
    """Head and workers of a RayService."""
    found = [Group(document, "head", (*CLUSTER, HEAD))]
    for number, worker in enumerate(document.items(*CLUSTER, WORKERS)):
        name = worker.get("groupName") if isinstance(worker, dict) else None
        found.append(Group(document, str(name), (*CLUSTER, WORKERS, number)))
    return found
