"""Ways from this machine to a Service of the cluster: `kubectl port-forward`, for a moment or until Ctrl-C."""

from __future__ import annotations

import re
import selectors
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO

from operations import runner
from operations.failure import Failed
from operations.work import Work

READY = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+)")
START_DEADLINE_S = 30.0
AGAIN_AFTER_S = 2.0
SHOWN_PORT = 8080


@contextmanager
def forwarded(work: Work, service: str, port: int) -> Iterator[int]:
    """A free port of this machine that leads to the Service, as long as the block lasts."""
    command = work.target.kubectl("port-forward", f"service/{service}", f":{port}")
    if work.run.dry:
        work.run.ask(command)
        yield SHOWN_PORT
        return
    with runner.started(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            yield _port(process, service)
        finally:
            runner.end(process)


def keep_open(work: Work, ways: Sequence[tuple[int, str, int]]) -> None:
    """Hold forwards (local port, Service, its port) open until Ctrl-C, and open again what breaks: a forward ends with
    its pod, and a new release has other pods."""
    commands = [
        work.target.kubectl("port-forward", f"service/{service}", f"{local}:{port}") for local, service, port in ways
    ]
    if work.run.dry:
        for command in commands:
            work.run.ask(command)
        return
    for local, _, _ in ways:
        _refuse_taken(local)
    running = [runner.started(command, stdin=subprocess.DEVNULL) for command in commands]
    work.say("open until Ctrl-C")
    try:
        while True:
            time.sleep(AGAIN_AFTER_S)
            for number, process in enumerate(running):
                if process.poll() is not None:
                    work.say(f"{ways[number][1]} went away; trying again")
                    running[number] = runner.started(commands[number], stdin=subprocess.DEVNULL)
    except KeyboardInterrupt:
        work.say("closed")
    finally:
        for process in running:
            runner.end(process)


def _port(process: subprocess.Popen[str], service: str) -> int:
    said: list[str] = []
    deadline = time.monotonic() + START_DEADLINE_S
    output: IO[str] = process.stdout  # type: ignore[assignment]  # asked for
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        while selector.select(max(0.0, deadline - time.monotonic())):
            line = output.readline()
            if not line:
                break
            if found := READY.search(line):
                return int(found[1])
            said.append(line.strip())
    raise Failed(f"no way to the Service {service}: {' / '.join(said) or 'kubectl port-forward said nothing'}")


def _refuse_taken(port: int) -> None:
    with socket.socket() as probe, suppress(ConnectionRefusedError):
        probe.settimeout(2)
        probe.connect(("127.0.0.1", port))
        raise Failed(f"port {port} of this machine is taken, perhaps by another access or by semapi up")
