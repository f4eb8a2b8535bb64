"""YAML documents, and what is found wrong in them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import yaml

Path = tuple[str | int, ...]
"""The way to a value: keys and list indexes."""
NAMES_OF_SECRETS: Final = "SecretNames"
"""Not a kind of Kubernetes: the list of the secrets that are not in git, with their keys (k8s/secrets.yaml)."""


@dataclass(frozen=True, order=True)
class Finding:
    """Something wrong, its place, and what to do."""

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
            if isinstance(value, dict):
                value = value.get(step)
            elif isinstance(value, list) and isinstance(step, int) and step < len(value):
                value = value[step]
            else:
                return None
        return value

    def mapping(self, *path: str | int) -> dict[str, Any]:
        """The mapping at that path; empty where there is none."""
        value = self.at(*path)
        return value if isinstance(value, dict) else {}

    def items(self, *path: str | int) -> list[Any]:
        """The list at that path; empty where there is none."""
        value = self.at(*path)
        return value if isinstance(value, list) else []

    def finding(self, path: Path, sentence: str) -> Finding:
        """A finding at that path, written `spec.containers[0].image`."""
        dotted = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
        return Finding(self.file, self.resource, dotted.removeprefix("."), sentence)


def read(text: str, file: str) -> tuple[list[Document], list[Finding]]:
    """The documents of a YAML text, and what keeps it from being one."""
    try:
        values = [value for value in yaml.safe_load_all(text) if value]
    except yaml.YAMLError as error:
        return [], [Finding(file, "?", "", f"This is no YAML: {' '.join(str(error).split())}.")]
    documents = [Document(file, value) for value in values if isinstance(value, dict)]
    return documents, [Finding(file, "?", "", "A document is no mapping.")] * (len(documents) < len(values))


def of_kind(documents: list[Document], *kinds: str) -> Iterator[Document]:
    """Those of the given kinds."""
    return (document for document in documents if document.kind in kinds)


def report(findings: Sequence[Finding]) -> int:
    """Print a line for each; the exit status of the program that found them."""
    for finding in findings:
        print(finding)
    print(f"{len(findings)} findings" if findings else "no findings", file=sys.stderr)
    return 1 if findings else 0
