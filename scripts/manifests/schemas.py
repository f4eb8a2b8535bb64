"""Every resource against Kubernetes' own schemas, so that a typo is found without a cluster.

Kinds of operators have their schema in a cluster alone: there the API server says what it does not know.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any, Final

from jsonschema import Draft202012Validator
from kubernetes_validate.utils import schema_contents
from referencing import Registry, Resource

from manifests.documents import NAMES_OF_SECRETS, Document, Finding, Path
from manifests.pods import groups_of

VERSIONS: Final = ("1.31", "1.36")
"""Oldest and newest Kubernetes that the manifests are for."""
OWN: Final = re.compile(r"^(?!gateway\.).+\.k8s\.io$")
"""Groups of Kubernetes itself; those without a dot are too."""


def check(documents: list[Document]) -> Iterator[Finding]:
    """What the schemas refuse in each resource, and in each pod template of a RayService."""
    for document in documents:
        group = str(document.body.get("apiVersion")).rpartition("/")[0]
        if document.kind == "RayService":
            for one in groups_of(document):
                body = {"apiVersion": "v1", "kind": "PodTemplate", "template": one.at("template")}
                yield from _refused(document, body, one.path)
        elif document.kind != NAMES_OF_SECRETS and ("." not in group or OWN.search(group)):
            yield from _refused(document, document.body, ())


def _refused(document: Document, body: dict[str, Any], path: Path) -> Iterator[Finding]:
    for version in VERSIONS:
        try:
            errors = list(_validator(str(body.get("kind")), str(body.get("apiVersion")), version).iter_errors(body))
        except FileNotFoundError:
            yield document.finding(path, f"Kubernetes {version} has no {body.get('apiVersion')} {body.get('kind')}.")
            continue
        for error in errors:
            yield document.finding((*path, *error.absolute_path), f"Kubernetes {version}: {error.message[:200]}.")


@cache
def _validator(kind: str, api_version: str, version: str) -> Any:
    """The strict validator of a kind; FileNotFoundError where that version has no such kind."""
    folder = f"kubernetes-json-schema/v{version}.0-local-strict"
    group, _, number = api_version.rpartition("/")
    name = "-".join(part for part in (kind.lower(), group.split(".")[0], number) if part)
    schema = schema_contents(f"{folder}/{name}.json", version)
    registry: Any = _definitions(folder) @ (Resource.from_contents(schema) @ Registry())
    return Draft202012Validator(schema, registry=registry)


@cache
def _definitions(folder: str) -> Any:
    return Resource.from_contents(schema_contents(f"{folder}/_definitions.json", ""))
