"""What must not reach production: placeholders, development's conveniences, weak settings, and what anyone can move.

The service itself refuses the values of secrets (docs/settings.md, Production); here is what stands in the manifests,
the settings among it, which are held to the same rules before they reach a cluster.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_network
from typing import Any, Final

from manifests import settings
from manifests.documents import Document, Finding, Path, of_kind
from manifests.pods import pods_of
from serve_app.settings import Settings

PLACEHOLDER: Final = re.compile(r"\b(?:REPLACE|CHANGE)[-_]?(?:ME|WITH)|\bexample\.(?:com|net|org)\b", re.IGNORECASE)
DIGEST: Final = re.compile(r"@sha256:[0-9a-f]{64}$")
DEVELOPMENT: Final = "dev-issuer"
EDGES: Final = ("Ingress", "Gateway")
WIDEST: Final = 4096
"""Addresses that the way to the API server or to a store may have."""


def refusals(documents: list[Document]) -> Iterator[Finding]:
    """What production refuses of all that one cluster gets, whatever the documents call themselves."""
    for document in documents:
        for path, text in texts(document.body):
            if PLACEHOLDER.search(text):
                yield document.finding(path, f"`{text}` is a placeholder; put the site's own value there.")
        if DEVELOPMENT in (document.name, document.at("metadata", "labels", "app.kubernetes.io/component")):
            yield document.finding(("metadata", "name"), "The development issuer signs for anybody; leave it out.")
    yield from _images(documents)
    yield from _ways_out(documents)
    yield from _edges(documents)
    yield from _durable(documents)
    yield from _settings(documents)


def texts(value: Any, path: Path = ()) -> Iterator[tuple[Path, str]]:
    """Every text in a resource with its path; of longer ones, scripts and files, each line."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from texts(item, (*path, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from texts(item, (*path, number))
    elif isinstance(value, str):
        yield from ((path, line.strip()) for line in value.splitlines())


def _settings(documents: list[Document]) -> Iterator[Finding]:
    """Everything that the service itself would refuse, or would let in because it does not know that it is in prod."""
    found = settings.settings_of(documents)
    yield from settings.check(documents)
    for document in found:
        for finding in settings.production_faults(document):
            if not PLACEHOLDER.search(str(document.at(*finding.path.split(".")))):  # said already
                yield finding
    if not found:
        where = documents[0].file if documents else "?"
        yield Finding(where, "ConfigMap", "", "The settings are missing; the overlay generates them.")
    for pod in pods_of(documents):
        for path, container in pod.containers():
            for number, entry in enumerate(container.get("env") or []):
                name = str(entry.get("name"))
                if "value" in entry and name.lower() in Settings.model_fields:
                    sentence = f"{name} here wins over the settings; write it to settings.env."
                    yield pod.document.finding((*path, "env", number), sentence)


def _images(documents: list[Document]) -> Iterator[Finding]:
    for pod in pods_of(documents):
        for path, container in pod.containers():
            image = str(container.get("image", ""))
            if not DIGEST.search(image):
                sentence = f"`{image}` has no digest, so what runs can change; name it by @sha256:…"
                yield pod.document.finding((*path, "image"), sentence)


def _ways_out(documents: list[Document]) -> Iterator[Finding]:
    """Ways out that are wider than one place; the gateways' way to the world has its exceptions."""
    for document in of_kind(documents, "NetworkPolicy"):
        for path, text in texts(document.items("spec", "egress"), ("spec", "egress")):
            if path[-1] != "cidr" or PLACEHOLDER.search(text) or document.at(*path[:-1], "except"):
                continue
            if ip_network(text, strict=False).num_addresses > WIDEST:
                yield document.finding(path, f"{text} is wider than one place; name the addresses that are meant.")


def _edges(documents: list[Document]) -> Iterator[Finding]:
    found = list(of_kind(documents, *EDGES))
    for document in found:
        if document.kind == "Ingress" and not document.items("spec", "tls"):
            yield document.finding(("spec", "tls"), "Tokens would travel in the clear; name a certificate.")
    if not found:
        where = documents[0].file if documents else "?"
        yield Finding(where, "Ingress", "", "Nothing leads in; take an Ingress, gateway-api or service-mesh.")


def _durable(documents: list[Document]) -> Iterator[Finding]:
    """Accepted jobs must be on a disk: the file of settings that the job Redis starts with."""
    for document in of_kind(documents, "ConfigMap"):
        if document.name.startswith("redis-") and "start.sh" in document.mapping("data"):
            lines = str(document.at("data", "redis.conf")).splitlines()
            for line in ("appendonly yes", "appendfsync always", "maxmemory-policy noeviction"):
                if line not in lines:
                    yield document.finding(("data", "redis.conf"), f"`{line}` is missing; accepted jobs could be lost.")
    for document in of_kind(documents, "StatefulSet"):
        if not document.items("spec", "volumeClaimTemplates"):
            yield document.finding(("spec",), "A store without a volume forgets everything; claim one.")
