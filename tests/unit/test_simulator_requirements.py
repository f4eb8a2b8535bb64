"""A machine that cannot run the simulator is told why before anything starts."""

from __future__ import annotations

import os
import sys

import pytest
from simulator import requirements

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is one line: Linux")


def test_every_command_that_is_not_there_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    found = requirements.missing()
    for command, package in requirements.PACKAGES.items():
        assert f"the command {command}: apt-get install {package}" in found


def test_memory_that_is_not_free_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "MEMORY_GIB", 100_000)
    assert any(line.startswith("memory: 100000 GiB must be free") for line in requirements.missing())


def test_another_user_than_root_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "root: run it with sudo" in requirements.missing()
