"""A small process between us and a command, which ends the command with all its descendants when we end.

Servers leave daemons behind (Ray its node processes and HAProxy, PostgreSQL its backends). On Linux the supervisor is
their child subreaper, so that even a detached process stays its descendant. It ends them all when its parent is gone
(even by SIGKILL: the pipe on its standard input closes), on a signal, or when the command ends.

Uses only the standard library and is run as a file, so that it starts fast and needs nothing from the package.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PR_SET_CHILD_SUBREAPER = 36
TERM_GRACE_S = 3.0
KILL_DEADLINE_S = 10.0
POLL_S = 0.02


def supervised(
    command: Sequence[str],
    env: Mapping[str, str],
    log: Path | None,
    *,
    cwd: Path | None = None,
    account: tuple[int, int] | None = None,
    end_signal: signal.Signals = signal.SIGTERM,
    grace_s: float = 15.0,
) -> subprocess.Popen[bytes]:
    """Start `command` under a supervisor, and return the supervisor's process.

    `terminate()` on it ends the whole family: `end_signal` to the command, and after `grace_s` SIGTERM, then SIGKILL to
    all that are left. It exits with the command's status (128 + n for signal n). `account` is (uid, gid). Output goes
    to `log` (appended, 0600), else to our own output. Keep the returned object and wait with `wait()`: closing its
    stdin, as `communicate()` does, ends the family."""
    options = [f"--signal={int(end_signal)}", f"--grace={grace_s}"]
    if account:
        options += [f"--uid={account[0]}", f"--gid={account[1]}"]
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) if log else None
    try:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, *options, "--", *command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            cwd=cwd,
            env=dict(env),
            start_new_session=True,  # we pass Ctrl-C on ourselves, in order
        )
    finally:
        if output is not None:
            os.close(output)


class Family:
    """The command and all its descendants."""

    def __init__(self, head: int) -> None:
        self.head = head
        self.status: int | None = None

    def reap(self) -> None:
        """Collect ended children, also adopted ones; record the command's exit status."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.head:
                self.status = os.waitstatus_to_exitcode(status)

    def members(self) -> list[int]:
        self.reap()
        return _descendants(os.getpid(), self.head)

    def send(self, number: int) -> None:
        for pid in self.members():
            _send(pid, number)

    def end(self, end_signal: int, grace_s: float) -> bool:
        """End every member; True if none is left."""
        if self.status is None:
            _send(self.head, end_signal)
            self._wait(lambda: self.status is not None, grace_s)
        self.send(signal.SIGTERM)
        self._wait(lambda: not self.members(), TERM_GRACE_S)
        deadline = time.monotonic() + KILL_DEADLINE_S
        while self.members() and time.monotonic() < deadline:
            self.send(signal.SIGKILL)  # repeatedly, because a member may have forked meanwhile
            self._wait(lambda: not self.members(), POLL_S * 5)
        return not self.members()

    def _wait(self, condition: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        self.reap()
        while not condition() and time.monotonic() < deadline:
            time.sleep(POLL_S)
            self.reap()


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # ended, or owned by an account that we may not signal
        os.kill(pid, number)


def _descendants(root: int, head: int) -> list[int]:
    children: dict[int, list[int]] = {}
    group: list[int] = []
    for pid, parent, process_group in _process_table():
        children.setdefault(parent, []).append(pid)
        if process_group == head:
            group.append(pid)
    found: set[int] = set()
    waiting = [root, *group]
    while waiting:
        for pid in children.get(waiting.pop(), []):
            if pid not in found:
                found.add(pid)
                waiting.append(pid)
    return sorted(found.union(group) - {root})


def _process_table() -> list[tuple[int, int, int]]:
    """(pid, parent, process group) of every process except zombies of others, which need no signal."""
    if sys.platform == "linux":
        return [row for name in os.listdir("/proc") if name.isdigit() and (row := _proc_row(name))]
    listing = subprocess.Popen(["/bin/ps", "-axo", "pid=,ppid=,pgid=,state="], stdout=subprocess.PIPE)
    text = listing.communicate(timeout=5)[0].decode()
    rows = [line.split() for line in text.splitlines()]
    table = [(int(pid), int(parent), int(group), state) for pid, parent, group, state in rows]
    return [row[:3] for row in table if row[0] != listing.pid and not _is_remains(row[3], row[1])]


def _proc_row(name: str) -> tuple[int, int, int] | None:
    try:
        stat = Path("/proc", name, "stat").read_text(errors="replace")
    except OSError:
        return None  # it has ended meanwhile
    state, parent, process_group = stat.rpartition(")")[2].split()[:3]  # the name before ')' may contain anything
    return None if _is_remains(state, int(parent)) else (int(name), int(parent), int(process_group))


def _is_remains(state: str, parent: int) -> bool:
    """An ended process that another parent has not collected. Our own count as members until we collect them."""
    return state[0] in "ZX" and parent != os.getpid()


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def _start(options: argparse.Namespace) -> Family:
    dropping = {} if options.uid is None else {"user": options.uid, "group": options.gid, "extra_groups": []}
    process = subprocess.Popen(
        options.command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: _prctl(PR_SET_PDEATHSIG, signal.SIGKILL),  # if the supervisor itself is killed
        **dropping,
    )
    process.returncode = 0  # `Family` collects it, not Popen
    return Family(process.pid)


def _watch(family: Family, wake: int, parent: int) -> None:
    """Return when the command has ended, the parent is gone or a signal has arrived."""
    while family.status is None and os.getppid() == parent:
        ready, _, _ = select.select([0, wake], [], [], 1.0)
        if 0 in ready and not os.read(0, 4096):
            return
        if wake in ready and set(os.read(wake, 64)) & {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}:
            return
        family.reap()


def main() -> int:
    """Run the command line that `supervised` built; the exit status is the command's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--signal", type=int, default=int(signal.SIGTERM))
    parser.add_argument("--grace", type=float, default=15.0)
    parser.add_argument("--uid", type=int)
    parser.add_argument("--gid", type=int)
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    parent = os.getppid()
    wake, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)  # the wake-up pipe says which one arrived
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        family = _start(options)
    except OSError as error:
        print(f"cannot start {options.command[0]}: {error}", file=sys.stderr)
        return 127
    _watch(family, wake, parent)
    if not family.end(options.signal, options.grace):
        print(f"still alive after SIGKILL: {family.members()}", file=sys.stderr)
        return 1
    status = family.status or 0
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main())
