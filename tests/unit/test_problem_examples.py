"""The examples of problems in the OpenAPI document are what the code says, word for word."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import serve_app
from serve_app.gateway.description import examples

PACKAGE = Path(serve_app.__file__).parent
LEAST_WORDS = 12
"""Characters that a template must have of its own: one that is all values would fit any sentence."""


def templates() -> Iterator[re.Pattern[str]]:
    """Every text of the package as a pattern; what an f-string, or Lua's string.format, fills in may be anything."""
    for path in PACKAGE.rglob("*.lua"):
        for text in re.findall(r"'([^'\n]+)'", path.read_text()):
            yield _pattern(re.split("%[ds]", text))
    for path in PACKAGE.rglob("*.py"):
        if path == Path(examples.__file__):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            texts = [part.value if isinstance(part, ast.Constant) else None for part in parts]
            words = "\0".join(text if isinstance(text, str) else "" for text in texts)
            yield _pattern(re.split("\0+", words))


def _pattern(texts: list[str]) -> re.Pattern[str]:
    fits = sum(map(len, texts)) >= LEAST_WORDS
    return re.compile("(?s)" + ".*".join(map(re.escape, texts)) if fits else "(?!)")


TEMPLATES = list(templates())


@pytest.mark.parametrize("slug", examples.DETAILS)
def test_an_example_says_what_the_code_says(slug: str) -> None:
    _, detail = examples.DETAILS[slug]
    assert any(template.fullmatch(detail) for template in TEMPLATES), f"no text in serve_app says: {detail}"
