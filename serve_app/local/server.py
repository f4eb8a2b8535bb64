"""One embedded server: its folder is locked, start waits until it answers, and it ends with the process that started
it."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, TextIO

import psutil

from serve_app.local.process_supervisor import supervised
from serve_app.local.state import (
    LocalError,
    give_to_service,
    lock_folder,
    make_folder,
    refuse_unreachable,
    service_account,
)

START_DEADLINE_S = 120.0
"""Reading a large append-only file takes a while; a server that ends early is noticed at once."""
STOP_GRACE_S = 10.0
SUPERVISOR_DEADLINE_S = 15.0
"""Longest end of a supervisor after the grace period: TERM_GRACE_S and KILL_DEADLINE_S of `process_supervisor`."""
POLL_S = 0.02


class Server(ABC):
    """A server with its data in `folder`. `port` 0 picks a free port, kept for the life of this object."""

    title: ClassVar[str]
    process_names: ClassVar[tuple[str, ...]]
    """Names of its processes, to recognise those of an earlier run."""
    end_signal: ClassVar[signal.Signals] = signal.SIGTERM
    as_service: ClassVar[bool] = True
    """If we are root, run it as the service account."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder = folder.absolute()
        self.data = self.folder / "data"
        self.log = self.folder / "log"
        self.port = port
        self.pid = 0
        self._lock: TextIO | None = None
        self._supervisor: subprocess.Popen[bytes] | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """The URL for clients, including the password. Valid after the first start."""

    @abstractmethod
    def _prepare(self) -> None:
        """Create what the server needs in its folder."""

    @abstractmethod
    def _command(self) -> list[str]:
        """The command line for the current port."""

    @abstractmethod
    def _check(self) -> None:
        """Raises NotReady while the server does not answer yet."""

    def _environment(self) -> dict[str, str]:
        """The server's environment: nothing that could be a secret or change its configuration."""
        return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}

    def start(self) -> None:
        """Start and return when the server answers. Raises LocalError if the folder is in use, the port is taken, or it
        fails."""
        self.log.unlink(missing_ok=True)
        self._start()

    def restart(self) -> None:
        """Restart a server that ended by itself, on the same data and log. Raises as `start`."""
        self._release()
        self._start()

    def ended(self) -> str:
        """How the server ended by itself; empty while it runs or before its first start."""
        status = self._supervisor.poll() if self._supervisor else None
        if status is None:
            return ""
        signalled = status - 128 if status > 128 else -status  # negative: the supervisor's, with which the server ends
        return f"killed by signal {signalled}" if signalled > 0 else f"with status {status}"

    def _start(self) -> None:
        make_folder(self.folder)
        self._lock = lock_folder(self.folder)
        try:
            if self.as_service:
                refuse_unreachable(self.folder)
            self._end_orphans()
            self._prepare()
            self._launch()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Shut the server down; data stay. Does nothing if it is not running."""
        if self._supervisor:
            self._supervisor.terminate()
        self._release()

    def kill(self) -> None:
        """Kill the server by SIGKILL, like a crash."""
        if self.pid:
            with suppress(psutil.NoSuchProcess):  # it may have ended by itself; the supervisor ends the rest
                psutil.Process(self.pid).kill()
        self._release()

    def _release(self) -> None:
        """Wait for the supervisor, which ends after all its processes, and unlock the folder."""
        if self._supervisor:
            try:
                self._supervisor.communicate(timeout=STOP_GRACE_S + SUPERVISOR_DEADLINE_S)
            except subprocess.TimeoutExpired:
                self._supervisor.kill()
                self._supervisor.communicate()
        self._supervisor = None
        self.pid = 0
        if self._lock:
            self._lock.close()
            self._lock = None

    def _launch(self) -> None:
        self.port = self.port or free_port()
        if not is_free(self.port):
            raise LocalError(
                f"Port {self.port} is in use by another program; stop it or choose another port: semapi up --help."
            )
        account = service_account() if self.as_service else None
        supervisor = supervised(
            self._command(),
            self._environment(),
            self.log,
            cwd=self.data,
            account=(account.pw_uid, account.pw_gid) if account else None,
            end_signal=self.end_signal,
            grace_s=STOP_GRACE_S,
        )
        self._supervisor = supervisor
        self._wait_until_ready(supervisor)
        self.pid = min(psutil.Process(supervisor.pid).children(), key=lambda child: child.create_time()).pid

    def _wait_until_ready(self, supervisor: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_DEADLINE_S
        while time.monotonic() < deadline and supervisor.poll() is None:
            try:
                return self._check()
            except NotReady:
                time.sleep(POLL_S)
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-12:])
        raise LocalError(f"{self.title} did not start. The end of {self.log}:\n{tail}")

    def _end_orphans(self) -> None:
        """End processes that an earlier run left in the data folder. We hold the lock, so no other run uses it."""
        orphans = [found for found in psutil.process_iter() if self._is_ours(found)]
        for orphan in orphans:
            with suppress(psutil.NoSuchProcess):
                orphan.send_signal(self.end_signal)
        for orphan in psutil.wait_procs(orphans, timeout=STOP_GRACE_S)[1]:
            with suppress(psutil.NoSuchProcess):
                orphan.kill()
        if psutil.wait_procs(orphans, timeout=STOP_GRACE_S)[1]:
            raise LocalError(f"An earlier {self.title} in {self.data} does not end; end it by hand.")

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return process.name().startswith(self.process_names) and process.cwd() == str(self.data)
        except psutil.Error:
            return False

    def _make_data_folder(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        if self.as_service:
            give_to_service(folder)


class NotReady(Exception):
    """The server does not answer yet."""


def free_port() -> int:
    """A free port below the range of outgoing connections, so that none of them takes it before the server does."""
    while True:
        port = random.randrange(20_000, 30_000)
        if is_free(port):
            return port


def free_ports(count: int) -> list[int]:
    """`count` different free ports."""
    found: set[int] = set()
    while len(found) < count:
        found.add(free_port())
    return sorted(found)


def is_free(port: int) -> bool:
    """True if nothing listens on this loopback port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
