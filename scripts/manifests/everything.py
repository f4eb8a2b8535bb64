"""All checks, over the documents that one cluster gets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from manifests import commands, kubernetes, network, pods, references, settings, stores
from manifests.documents import Document, Finding
from manifests.rayservice import capacity, fields, operator, promises, serve, start
from manifests.render import environments
from manifests.variants import variants

Check = Callable[[list[Document]], Iterator[Finding]]

SCHEMAS: Final[tuple[Check, ...]] = (kubernetes.check, fields.check)
CHECKS: Final[tuple[Check, ...]] = (
    *SCHEMAS,
    operator.check,
    start.check,
    serve.check,
    capacity.check,
    promises.check,
    pods.check,
    references.check,
    network.check,
    commands.check,
    stores.check,
    settings.check,
)


def check_documents(documents: list[Document]) -> list[Finding]:
    """All that is wrong in the documents of one cluster, by place.

    The schemas come first: the other checks rely on them, and one that meets a list for a mapping gives up and says so.
    """
    found = {finding for check in SCHEMAS for finding in check(documents)}
    is_shaped = not found
    for check in CHECKS:
        try:
            found.update(check(documents))
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            if is_shaped:
                raise
            sentence = f"{check.__module__} cannot go on before the rest is corrected: {error}."
            found.add(Finding("", 0, "?", "", sentence))
    return sorted(found)


def check_repository(root: Path) -> list[Finding]:
    """All that is wrong in the RayService, in every overlay and in every component, by place. What a component has in
    common with the rest is said once."""
    found: set[Finding] = set()
    for documents, findings in environments(root).values():
        found.update(findings, check_documents(documents))
    said = {(finding.resource, finding.path, finding.sentence) for finding in found}
    for documents, findings in variants(root).values():
        for finding in [*findings, *check_documents(documents)]:
            if (finding.resource, finding.path, finding.sentence) not in said:
                found.add(finding)
    return sorted(found)
