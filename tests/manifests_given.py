"""The manifests of this repository as documents, and copies of them with one thing changed."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from manifests.documents import Document, Finding, read
from manifests.render import SERVICE, environments
from manifests.variants import variants

ROOT = Path(__file__).resolve().parents[1]
SERVICE_TEXT = (ROOT / SERVICE).read_text("utf-8")
HASHED = re.compile(r"-[0-9a-z]{10}$")
ENVIRONMENT = "stage"
"""Has everything: prod takes PostgreSQL from elsewhere, dev leaves out what watches."""


@cache
def all_environments() -> dict[str, tuple[list[Document], list[Finding]]]:
    """What each overlay gives a cluster."""
    return environments(ROOT)


@cache
def all_variants() -> dict[str, tuple[list[Document], list[Finding]]]:
    """What a cluster gets with each component that no overlay uses."""
    return variants(ROOT)


def given() -> list[Document]:
    """The documents of one whole environment."""
    return all_environments()[ENVIRONMENT][0]


def with_service(text: str) -> list[Document]:
    """The same with another RayService."""
    documents, findings = read(text, SERVICE)
    assert findings == []
    return [*documents, *(one for one in given() if one.kind != "RayService")]


def with_change(kind: str, name: str, change: Callable[[Any], object]) -> list[Document]:
    """The same with one resource's body changed in place; a name without the hash that kustomize appends will do."""
    named = [one for one in given() if one.kind == kind and one.name == name]
    [old] = named or [one for one in given() if one.kind == kind and HASHED.sub("", one.name) == name]
    body = copy.deepcopy(old.body)
    change(body)
    return [replace(one, body=body) if one is old else one for one in given()]
