"""The page of security has every address of the table of policies and every key of every Secret, as the files say."""

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


def test_every_key_of_every_secret_is_a_row() -> None:
    listed = yaml.safe_load((ROOT / "k8s" / "secrets.yaml").read_text())["secrets"]
    rows = re.findall(r"^\| `([a-z-]+)` \| `([a-z_.\d-]+)` \| (.+) \| (.+) \|$", PAGE, re.MULTILINE)
    assert rows == [(name, key, row["opens"], row["for"]) for name, keys in listed.items() for key, row in keys.items()]
