"""`scripts/cluster access`: its children end with it however it ends, and it finds the way again when a pod goes.

A small program stands in for `kubectl port-forward`: it listens, says where, and answers as the pod would.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cluster_world import Machine, rule

KUBECTL = f"""#!{sys.executable} -IS
import os, socket, sys
listener = socket.create_server(("127.0.0.1", 0))
print("Forwarding from 127.0.0.1:%d -> 8000" % listener.getsockname()[1], flush=True)
while True:
    connection, _ = listener.accept()
    if os.path.exists(os.environ["STANDIN"] + "/gone"):
        sys.exit("error: lost connection to pod")
    while data := connection.recv(65536):
        connection.sendall(b"%d:" % os.getpid() + data)
    connection.close()
"""


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    # dev has an issuer too, at a port that `make run` may hold
    made.write("k8s/stage.local.env", "CONTEXT=lab\nREGISTRY=r\n")
    (made.bin / "kubectl").write_text(KUBECTL)
    (made.bin / "kubectl").chmod(0o755)
    yield made
    for child in children(made):
        os.kill(child, signal.SIGKILL)


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def until(holds: Callable[[], object], within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def children(machine: Machine) -> list[int]:
    """The stand-ins of kubectl that run on this machine."""
    found = subprocess.run(["pgrep", "-f", str(machine.bin / "kubectl")], capture_output=True, text=True)
    return [int(line) for line in found.stdout.split()]


def answered_by(port: int) -> int:
    """Which process answers at the port of an access; 0 for none."""
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as connection:
            connection.settimeout(5)
            connection.sendall(b"hello")
            connection.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: connection.recv(100), b""))
    except OSError:
        return 0
    process, _, said = answer.partition(b":")
    assert said in (b"hello", b"")
    return int(process or 0)


@contextmanager
def access(machine: Machine, port: int, end: signal.Signals | None = signal.SIGINT) -> Iterator[subprocess.Popen[str]]:
    """The command, once the port answers; ended by a signal, and its children are gone."""
    with machine.start("access", "--env", "stage", "--port", str(port)) as process:
        until(lambda: answered_by(port) or process.poll() is not None)
        assert process.poll() is None
        yield process
        if end:
            process.send_signal(end)
            process.communicate(timeout=30)
            assert process.returncode == (0 if end != signal.SIGKILL else -end)
    until(lambda: children(machine) == [])


@pytest.mark.parametrize("end", ["SIGINT", "SIGTERM", "SIGHUP", "SIGKILL"])
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends the children of a killed process")
def test_its_children_end_with_it(machine: Machine, port: int, end: str) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, also by what is started
    try:
        with access(machine, port, signal.Signals[end]):
            assert len(children(machine)) == 1
    finally:
        signal.signal(signal.SIGHUP, before)


def test_it_ends_when_nobody_reads_what_it_says(machine: Machine, port: int) -> None:
    with access(machine, port, end=None) as process:
        for stream in (process.stdout, process.stderr):
            stream.close()  # type: ignore[union-attr]
        process.wait(30)


@pytest.mark.slow(reason="a tunnel is opened again")
def test_it_finds_the_way_again_when_a_pod_goes(machine: Machine, port: int) -> None:
    with access(machine, port) as process:
        before = answered_by(port)
        (machine.standin / "gone").touch()  # the pod goes; kubectl notices at the next connection, which is ours
        until(lambda: before not in children(machine))
        (machine.standin / "gone").unlink()
        until(lambda: answered_by(port))
        assert answered_by(port) != before
        assert process.stderr is not None
        said = [next(line for line in process.stderr if word in line) for word in ("went away", "is back")]
    assert "-serve-svc went away: error: lost connection to pod; trying again" in said[0]


def test_a_client_that_comes_while_the_way_is_made_again_waits(machine: Machine, port: int) -> None:
    with access(machine, port):
        [child] = children(machine)
        os.kill(child, signal.SIGKILL)
        until(lambda: child not in children(machine))
        assert answered_by(port)


def test_no_way_and_a_taken_port_are_told_with_the_reason(machine: Machine, port: int) -> None:
    machine.have("kubectl")
    machine.answer(rule("port-forward", status=1, errors="error: services not found\n"))
    done = machine.run("access", "--env", "stage", "--port", str(port))
    assert done.returncode == 1
    assert "no way to the Service sem-image-classifier-serve-svc: error: services not found" in done.stderr
    with socket.create_server(("127.0.0.1", port)):
        done = machine.run("access", "--env", "stage", "--port", str(port))
    assert f"port {port} of this machine is taken" in done.stderr
    assert children(machine) == []
