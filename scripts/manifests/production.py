"""What must not reach production: placeholders, development's conveniences, weak settings, and what anyone can move.

The service itself refuses the values of secrets (docs/settings.md, Production); here is what stands in the manifests,
the settings among it, which are held to the same rules before they reach a cluster.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_network
from typing import Any, Final

from manifests import application
from manifests.documents import Document, Finding, Path, of_kind, pods_of
from serve_app.settings import Settings

PLACEHOLDER: Final = re.compile(r"\b(?:REPLACE|CHANGE)[-_]?(?:ME|WITH)|\bexample\.(?:com|net|org)\b", re.IGNORECASE)
DIGEST: Final = re.compile(r"@sha256:[0-9a-f]{64}$")
DEVELOPMENT: Final = "dev-issuer"
WIDEST: Final = 4096
"""Addresses that the way to the API server or to a store may have."""
DURABLE: Final = ("appendonly yes", "appendfsync always", "maxmemory-policy noeviction")
"""What the job Redis starts with, so that accepted jobs are on a disk."""


def refusals(documents: list[Document]) -> Iterator[Finding]:
    """What production refuses of all that one cluster gets, whatever the documents call themselves."""
    for document in documents:
        for path, sentence in _faults(document):
            yield document.finding(path, sentence)
    yield from _pods(documents)
    yield from _settings(documents)
    for found, kind, sentence in (
        (application.settings_of(documents), "ConfigMap", "The settings are missing; the overlay generates them."),
        (of_kind(documents, "Ingress", "Gateway"), "Ingress", "Nothing leads in; take one of the edges of k8s/."),
    ):
        if not list(found):
            yield Finding(documents[0].file if documents else "?", kind, "", sentence)


def texts(value: Any, path: Path = ()) -> Iterator[tuple[Path, str]]:
    """Every text in a resource with its path; of longer ones, scripts and files, each line."""
    if isinstance(value, dict | list):
        for step, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from texts(item, (*path, step))
    elif isinstance(value, str):
        yield from ((path, line.strip()) for line in value.splitlines())


def _faults(document: Document) -> Iterator[tuple[Path, str]]:
    """What is wrong in one document, whichever the others are."""
    for path, text in texts(document.body):
        if PLACEHOLDER.search(text):
            yield path, f"`{text}` is a placeholder; put the site's own value there."
        elif document.kind == "NetworkPolicy" and path[:2] == ("spec", "egress") and path[-1] == "cidr":
            is_wide = ip_network(text, strict=False).num_addresses > WIDEST
            if is_wide and not document.at(*path[:-1], "except"):  # the gateways' way to the world has exceptions
                yield path, f"{text} is wider than one place; name the addresses that are meant."
    if DEVELOPMENT in (document.name, document.at("metadata", "labels", "app.kubernetes.io/component")):
        yield ("metadata", "name"), "The development issuer signs for anybody; leave it out."
    if document.kind == "Ingress" and not document.items("spec", "tls"):
        yield ("spec", "tls"), "Tokens would travel in the clear; name a certificate."
    yield from _forgets(document)


def _forgets(document: Document) -> Iterator[tuple[Path, str]]:
    """Stores that could lose what was accepted."""
    if document.kind == "StatefulSet" and not document.items("spec", "volumeClaimTemplates"):
        yield ("spec",), "A store without a volume forgets everything; claim one."
    if document.name.startswith("redis-") and "start.sh" in document.mapping("data"):
        for line in DURABLE:
            if line not in str(document.at("data", "redis.conf")).splitlines():
                yield ("data", "redis.conf"), f"`{line}` is missing; accepted jobs could be lost."


def _pods(documents: list[Document]) -> Iterator[Finding]:
    """Images that can change, and variables that win over what was checked."""
    for pod in pods_of(documents):
        for path, container in pod.containers():
            if not DIGEST.search(image := str(container.get("image", ""))):
                sentence = f"`{image}` has no digest, so what runs can change; name it by @sha256:…"
                yield pod.document.finding((*path, "image"), sentence)
            for number, entry in enumerate(container.get("env") or []):
                if "value" in entry and (name := str(entry.get("name"))).lower() in Settings.model_fields:
                    sentence = f"{name} here wins over the settings; write it to settings.env."
                    yield pod.document.finding((*path, "env", number), sentence)


def _settings(documents: list[Document]) -> Iterator[Finding]:
    """Everything that the service itself would refuse, or would let in because it does not know that it is in prod."""
    yield from application.check_settings(documents)
    for document in application.settings_of(documents):
        for finding in application.production_faults(document):
            if not PLACEHOLDER.search(str(document.at(*finding.path.split(".")))):  # said already
                yield finding
