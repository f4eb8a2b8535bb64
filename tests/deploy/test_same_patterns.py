"""Patterns that stand more than once, because these programs may not import each other, find the same things."""

from __future__ import annotations

import pytest
from manifests import application
from operations import render, target

from serve_app import settings

PLACEHOLDERS = [
    "REPLACE-ME",
    "replace_me",
    "REPLACEME",
    "REPLACE-WITH-YOUR-OWN",
    "change-me",
    "CHANGE_ME",
    "changeme",
    "https://login.example.com/realms/lab",
    "https://login.example.org/realms/lab",
    "redis://:REPLACE-ME@redis/0",
]


@pytest.mark.parametrize("text", PLACEHOLDERS)
def test_a_placeholder_is_one_everywhere(text: str) -> None:
    for pattern in (settings.PLACEHOLDER, application.PLACEHOLDER, render.PLACEHOLDER):
        assert pattern.search(text), pattern.pattern


@pytest.mark.parametrize(
    "text", ["https://login.facility.org/realms/lab", "sem-image-classifier", "notanexample.community"]
)
def test_a_real_value_is_one_nowhere(text: str) -> None:
    for pattern in (settings.PLACEHOLDER, application.PLACEHOLDER, render.PLACEHOLDER):
        assert not pattern.search(text), pattern.pattern


def test_a_commit_is_the_same_to_the_service_and_to_its_operations() -> None:
    assert target.COMMIT.pattern == settings.COMMIT.pattern
