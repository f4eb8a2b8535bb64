"""What the service says of its routes, ready to be sent."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Description:
    """The OpenAPI document for programs, and the same as a page for people."""

    document: bytes
    page: bytes
    problems: frozenset[str]
    """The slugs of the problem types that have a place on the page."""
