"""Names with the usual namespace in them, which kustomize leaves as they are when all else goes into another one."""

from __future__ import annotations

import re

from operations.target import NAME

AT_HOME = re.compile(rf"[\w-]+\.{NAME}\.svc(?:\.[\w.-]+)?|[\w.-]+/ns/{NAME}/[\w*/-]+")
"""A Service's name in the DNS, and an account's in a mesh."""


def names_at_home(text: str, namespace: str) -> list[str]:
    """Those in rendered manifests that would lead out of `namespace`: a certificate, a route, a rule of the mesh."""
    return [] if namespace == NAME else sorted(set(AT_HOME.findall(text)))
