"""The supervisor ends every process of a command, detached ones too, however the command or the supervisor ended."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from serve_app.local.process_supervisor import supervised

DEADLINE_S = 20

# A command like Ray's: it leaves a daemon that detached itself twice, is deaf to SIGTERM and keeps a child of its own.
# Each writes its id to the file; the command then waits, or ends with the status it was given.
COMMAND = """
import os, signal, subprocess, sys, time
def tell():
    with open(sys.argv[1], "a") as file:
        file.write(f"{os.getpid()}\\n")
if os.fork() == 0:
    os.setsid()
    if os.fork() != 0:
        os._exit(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork() == 0:
        os.setsid()
    tell()
    time.sleep(600)
    os._exit(0)
os.wait()
tell()
while len(sys.argv) > 2 and open(sys.argv[1]).read().count("\\n") < 3:
    time.sleep(0.01)
if len(sys.argv) > 2:
    sys.exit(int(sys.argv[2]))
time.sleep(600)
"""

DEAF = """
import signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(sys.argv[1], "w").close()
time.sleep(600)
"""

# Supervises the command and stays, so that it can be killed itself.
OWNER = """
import os, sys, time
from pathlib import Path
from serve_app.local.process_supervisor import supervised
supervisor = supervised([sys.executable, "-c", *sys.argv[1:]], os.environ, None)
time.sleep(600)
"""


@pytest.fixture
def ids(tmp_path: Path) -> Path:
    path = tmp_path / "ids"
    path.touch()
    return path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def members(ids: Path) -> Iterator[psutil.Process]:
    """The command and its two daemons, once they have told their ids."""
    deadline = time.monotonic() + DEADLINE_S
    while ids.read_text().count("\n") < 3:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for line in ids.read_text().split():
        yield psutil.Process(int(line))


def assert_gone(processes: list[psutil.Process]) -> None:
    assert psutil.wait_procs(processes, timeout=DEADLINE_S)[1] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_guard_ends_the_family(ids: Path, log: Path, number: signal.Signals) -> None:
    supervisor = supervised([sys.executable, "-c", COMMAND, str(ids)], os.environ, log)
    family = list(members(ids))
    supervisor.send_signal(number)
    supervisor.communicate(timeout=DEADLINE_S)
    assert supervisor.returncode == 128 + signal.SIGTERM
    assert_gone(family)


def test_the_end_of_the_command_ends_what_it_left_and_gives_its_status(ids: Path, log: Path) -> None:
    supervisor = supervised([sys.executable, "-c", COMMAND, str(ids), "7"], os.environ, log)
    assert supervisor.wait(DEADLINE_S) == 7
    supervisor.communicate()
    left = [int(line) for line in ids.read_text().split()]
    assert len(left) == 3
    assert not any(psutil.pid_exists(pid) for pid in left)


def test_a_killed_parent_ends_the_family(ids: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER, COMMAND, str(ids)]) as parent:
        family = list(members(ids))
        parent.kill()
    assert_gone(family)


def test_a_command_deaf_to_its_signal_is_killed_after_the_grace(tmp_path: Path, log: Path) -> None:
    ready = tmp_path / "ready"
    supervisor = supervised([sys.executable, "-c", DEAF, str(ready)], os.environ, log, grace_s=0.1)
    deadline = time.monotonic() + DEADLINE_S
    while not ready.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    supervisor.terminate()
    supervisor.communicate(timeout=DEADLINE_S)
    assert supervisor.returncode == 128 + signal.SIGKILL


def test_a_missing_command_is_said_in_the_log(tmp_path: Path, log: Path) -> None:
    supervisor = supervised([str(tmp_path / "missing")], os.environ, log)
    assert supervisor.wait(DEADLINE_S) == 127
    supervisor.communicate()
    assert "cannot start" in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600
