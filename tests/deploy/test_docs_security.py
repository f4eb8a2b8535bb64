"""The page of security has every address of the table of policies."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text("utf-8")


def test_every_address_is_a_row_with_those_let_in() -> None:
    table = yaml.safe_load((ROOT / "k8s" / "network.yaml").read_text())["addresses"]
    rows = re.findall(r"^\| `([a-z-]+:\d+)` \| (.+) \| (.+) \|$", PAGE, re.MULTILINE)
    assert rows == [(f"{row['to']}:{row['port']}", row["what"], ", ".join(row["from"]) or "nobody") for row in table]
