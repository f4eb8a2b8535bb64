"""Check rayservice.yaml and the overlays in k8s/ without a cluster: `python scripts/check_manifests.py`. With
`--production`, check rendered manifests from standard input by the rules of production, whatever they call themselves.

One line for each finding: file, resource, path, and what to do. The exit status is 1 when there is one.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path as File
from typing import Final

try:
    import kubernetes_validate
    from manifests import application, capacity, network
    from manifests.documents import NAMES_OF_SECRETS, Document, Finding, Path, environments, read, report
except ModuleNotFoundError as error:
    sys.exit(f"{error.name} is not installed: make setup")

ROOT: Final = File(__file__).resolve().parents[1]
OLDEST: Final = "1.31"
"""The oldest supported Kubernetes. tests/cluster asks the API server of a newer one."""
OWN_KINDS: Final = re.compile(r"^(?:[^./]+/)?v\d|^(?!gateway\.)[^/]+\.k8s\.io/")
"""API versions of Kubernetes itself; the schemas of operators' kinds are only in a cluster."""


def check_repository(root: File) -> list[Finding]:
    """The findings in every overlay, by place. A finding that several overlays share is reported once."""
    found: dict[tuple[str, str, str], Finding] = {}
    for documents, findings in environments(root).values():
        for one in (*findings, *check_documents(documents)):
            found.setdefault((one.resource, one.path, one.sentence), one)
    return sorted(found.values())


def check_documents(documents: list[Document]) -> list[Finding]:
    """The findings in the documents of one cluster, by place. If the schemas refuse any, only those are reported,
    because the other checks rely on the schemas."""
    checks = (application.check, capacity.check, network.check)
    return sorted(check_schemas(documents)) or sorted({finding for one in checks for finding in one(documents)})


def check_schemas(documents: list[Document]) -> Iterator[Finding]:
    """The findings of the Kubernetes schemas, so that a typo is found without a cluster."""
    for document in documents:
        is_own = document.kind != NAMES_OF_SECRETS and OWN_KINDS.search(str(document.at("apiVersion")))
        if is_own and (fault := _refused(json.dumps(document.body))):
            yield document.finding(*fault)


@cache
def _refused(body: str) -> tuple[Path, str] | None:
    """Takes text, so that documents that several environments share are checked once."""
    try:
        kubernetes_validate.validate(json.loads(body), OLDEST, strict=True)
    except kubernetes_validate.ValidationError as error:
        return tuple(error.absolute_path), f"Kubernetes {OLDEST}: {error.message[:200]}."
    except kubernetes_validate.SchemaNotFoundError as error:
        return (), f"{error.message}."
    return None


def main() -> int:
    """Check the manifests that the arguments name, and print the findings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=File, default=ROOT, help="the checkout (default: this one)")
    parser.add_argument("--production", action="store_true", help="rendered manifests from standard input")
    options = parser.parse_args()
    if not options.production:
        return report(check_repository(options.root))
    documents, findings = read(sys.stdin.read(), "standard input")
    return report([*findings, *application.refusals(documents)])


if __name__ == "__main__":
    sys.exit(main())
