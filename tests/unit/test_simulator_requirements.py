"""A machine that cannot run the simulator is told why before anything starts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from benchmark.observed_service import wait_until
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


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="root alone makes namespaces")


def run_inside(tmp_path: Path, program: str) -> subprocess.Popen[str]:
    """A program that goes inside and then does this."""
    path = tmp_path / "program.py"
    lines = ["import subprocess, sys, time", "from simulator import requirements"]
    lines += [f"if requirements.INSIDE in sys.argv: {program}", "requirements.go_inside()"]
    path.write_text("\n".join(lines))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, path], stdout=subprocess.PIPE, text=True, env=environment)


@as_root
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_a_run_that_is_ended(how: signal.Signals, tmp_path: Path) -> None:
    with run_inside(tmp_path, "print('inside', flush=True); time.sleep(600)") as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "inside\n"
        family = psutil.Process(run.pid).children(recursive=True)
        assert len(family) == 3, "unshare, the first process of its namespaces, and ours"
        run.send_signal(how)
        assert run.stdout.read() == "", "the pipe is closed when the last of them is gone"
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []


@as_root
def test_the_end_of_an_orphan_is_waited_for(tmp_path: Path) -> None:
    orphan = "subprocess.run(['bash', '-c', 'sleep 0.1 & echo $!'])"
    with run_inside(tmp_path, f"{orphan}; print('it is one now', flush=True); time.sleep(600)") as run:
        assert run.stdout is not None
        number = int(run.stdout.readline())
        assert run.stdout.readline() == "it is one now\n"
        first = psutil.Process(run.pid).children()[0].children()[0]
        wait_until(lambda: number not in map(inner_number, first.children()), 10)
        run.kill()


def inner_number(process: psutil.Process) -> int:
    """Its number in its own namespace."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[-1])


@as_root
def test_its_exit_status_is_that_of_the_program_inside(tmp_path: Path) -> None:
    with run_inside(tmp_path, "sys.exit(7)") as run:
        assert run.wait(30) == 7


def test_another_user_than_root_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "root: run it with sudo" in requirements.missing()
