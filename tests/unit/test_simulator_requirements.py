"""A machine that cannot run the simulator is told why before anything starts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
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


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone makes namespaces")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_a_run_that_is_ended(how: signal.Signals, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, time; from simulator import requirements\n"
        "if requirements.INSIDE in sys.argv: print('inside', flush=True); time.sleep(600)\n"
        "requirements.go_inside()\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, text=True, env=environment) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "inside\n"
        family = psutil.Process(run.pid).children(recursive=True)
        assert len(family) == 2, "unshare, and the first process of its namespaces"
        run.send_signal(how)
        assert run.stdout.read() == "", "the pipe is closed when the last of them is gone"
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []


def test_another_user_than_root_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "root: run it with sudo" in requirements.missing()
