"""Runs outside commands, each with a deadline; in a dry run it prints them instead and runs none at all."""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from operations.failure import Failed
from operations.target import ROOT

READ_DEADLINE_S = 60.0
"""Questions are answered at once; a cluster that cannot be reached makes kubectl wait for about half of this."""
CHANGE_DEADLINE_S = 120.0
PASSWORD = re.compile(r"(?<=://)[^/\s@]+(?=@)")
"""In an address, as a private index of packages has it."""
OUTPUT = ROOT / "build" / "cluster" / "output.log"
"""What the last command that takes long said, where it was not shown."""
HEARTBEAT_S = 30.0
PR_SET_PDEATHSIG = 1
LAST_LINES = 4
"""How much of what a failed command said is repeated: tools put the reason at the end."""

INSTALL = {
    "kubectl": "https://kubernetes.io/docs/tasks/tools/",
    "helm": "https://helm.sh/docs/intro/install/",
    "kind": "https://kind.sigs.k8s.io/docs/user/quick-start/#installation",
    "podman": "https://podman.io/docs/installation (Debian, Ubuntu: sudo apt-get install podman)",
    "docker": "https://docs.docker.com/engine/install/",
}
"""Where each tool comes from."""


@dataclass(frozen=True)
class Answer:
    """How a command ended."""

    status: int
    output: str
    errors: str

    @property
    def reason(self) -> str:
        """The end of what it said, in one line."""
        lines = [line.strip() for line in (self.errors.strip() or self.output.strip()).splitlines() if line.strip()]
        return " / ".join(lines[-LAST_LINES:])


class Runner:
    """The only way from this program to others.

    `read` asks and changes nothing, `change` changes something. Both end with Failed where the command fails, is not
    installed, or takes longer than its deadline. A verbose runner shows each command that changes something as it runs.
    """

    def __init__(self, *, dry: bool, verbose: bool = False) -> None:
        self.dry = dry
        self._verbose = verbose

    def read(self, command: Sequence[str], *, assumed: str = "", deadline_s: float = READ_DEADLINE_S) -> str:
        """What the command prints. A dry run takes `assumed` for it."""
        return _output(command, self.ask(command, assumed=assumed, deadline_s=deadline_s))

    def ask(
        self,
        command: Sequence[str],
        *,
        assumed: str = "",
        stdin: str | None = None,
        deadline_s: float = READ_DEADLINE_S,
    ) -> Answer:
        """Like `read`, for commands whose failing is an answer."""
        if self.dry:
            self._show(shown(command) + _input(stdin))
            return Answer(0, assumed, "")
        return _run(command, stdin, deadline_s)

    def change(self, command: Sequence[str], *, stdin: str | None = None, deadline_s: float = CHANGE_DEADLINE_S) -> str:
        """Run what changes something. `stdin` is never shown: it may hold secrets."""
        self._show(shown(command) + _input(stdin))
        return "" if self.dry else _output(command, _run(command, stdin, deadline_s))

    def pipe(self, source: Sequence[str], sink: Sequence[str], *, deadline_s: float = CHANGE_DEADLINE_S) -> None:
        """`source | sink`, where nothing reaches the sink unless the source succeeded."""
        self._show(f"{shown(source)} | {shown(sink)}")
        if not self.dry:
            _output(sink, _run(sink, self.read(source), deadline_s))

    def work(self, command: Sequence[str], *, deadline_s: float) -> None:
        """Run what takes long and tells of itself, as a build: its words go to the terminal if that was asked for, else
        to a file, and the last of them into the message where it fails."""
        self._show(shown(command))
        if self.dry:
            return
        if self._verbose:
            self._let_talk(command, sys.stderr.fileno(), deadline_s)
            return
        OUTPUT.parent.mkdir(parents=True, exist_ok=True)
        with OUTPUT.open("w") as file:
            process = started(command, stdin=subprocess.DEVNULL, stdout=file.fileno(), stderr=subprocess.STDOUT)
            status = _wait(process, command, deadline_s, self._heartbeat)
        if status != 0:
            answer = Answer(status, OUTPUT.read_text("utf-8", "replace"), "")
            raise Failed(f"{_ended(command, answer)}; all it said: {OUTPUT.relative_to(ROOT)}")

    def _heartbeat(self, waited_s: float) -> None:
        said = OUTPUT.read_text("utf-8", "replace").split("\n")
        last = next((line.strip() for line in reversed(said) if line.strip()), "")
        print(without_passwords(f"    {waited_s:.0f} s: {last[:80]}"), file=sys.stderr, flush=True)

    def show(self, command: Sequence[str], *, deadline_s: float = READ_DEADLINE_S) -> None:
        """Run what prints a result of ours."""
        if self.dry:
            self._show(shown(command))
            return
        sys.stdout.flush()
        self._let_talk(command, sys.stdout.fileno(), deadline_s)

    def _let_talk(self, command: Sequence[str], to: int, deadline_s: float) -> None:
        with started(command, stdin=subprocess.DEVNULL, stdout=to) as process:
            if _wait(process, command, deadline_s) != 0:
                raise Failed(f"{shown(command)} ended with {process.returncode}; its words are above")

    def write(self, path: Path, text: str) -> None:
        """Write a small file that a later command reads."""
        if self.dry:
            print(f"cat > {path.relative_to(ROOT)} <<'EOF'\n{text}EOF", flush=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")

    @contextmanager
    def passing(self, path: Path) -> Iterator[Path]:
        """A file or folder that is there for as long as the block lasts, and not before."""

        def remove() -> None:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

        if self.dry:
            yield path
            return
        remove()
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield path
        finally:
            remove()

    @contextmanager
    def alone(self, lock: Path, busy: str) -> Iterator[None]:
        """Hold the lock of this file, or fail with `busy` where another process has it. The kernel drops the lock with
        its holder."""
        if self.dry:
            yield
            return
        lock.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Failed(busy) from None
            yield

    def follow(self, *commands: Sequence[str]) -> None:
        """Run commands beside each other on this terminal until all have ended or Ctrl-C ends them. No deadline."""
        if self.dry:
            self._show("\n".join(map(shown, commands)))
            return
        running: list[subprocess.Popen[str]] = []
        try:
            with suppress(KeyboardInterrupt):
                for command in commands:
                    running.append(started(command, stdin=subprocess.DEVNULL))
                for process in running:
                    process.wait()
        finally:
            for process in running:
                end(process)

    def _show(self, line: str) -> None:
        """Commands of a dry run are its result and go to standard output."""
        if self.dry:
            print(line, flush=True)
        elif self._verbose:
            print(f"    $ {line}", file=sys.stderr, flush=True)


def _run(command: Sequence[str], stdin: str | None, deadline_s: float) -> Answer:
    source = subprocess.DEVNULL if stdin is None else subprocess.PIPE
    with started(command, stdin=source, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            output, errors = process.communicate(stdin, timeout=deadline_s)
        except subprocess.TimeoutExpired:
            end(process)
            raise Failed(_too_long(command, deadline_s)) from None
        except BaseException:
            end(process)
            raise
        return Answer(process.returncode, output, errors)


def started(command: Sequence[str], **streams: int) -> subprocess.Popen[str]:
    """Begin it in a group of its own, so that what it starts ends with it. On Linux the kernel ends it with the thread
    that began it, however that goes."""
    parent = os.getpid()

    def end_with_parent() -> None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # gone before the kernel was told
            os._exit(1)

    before = end_with_parent if sys.platform == "linux" else None
    options = {"text": True, "errors": "replace", "start_new_session": True, "cwd": ROOT, "preexec_fn": before}
    try:
        return subprocess.Popen(command, **options, **streams)  # type: ignore[call-overload, no-any-return]
    except OSError as error:
        if isinstance(error, FileNotFoundError) and command[0] in INSTALL:
            raise Failed(f"{command[0]} is not installed: {INSTALL[command[0]]}") from None
        raise Failed(f"{command[0]} cannot be run: {error.strerror}") from None


_libc = ctypes.CDLL(None)


def _wait(
    process: subprocess.Popen[str],
    command: Sequence[str],
    deadline_s: float,
    heartbeat: Callable[[float], None] = lambda waited_s: None,
) -> int:
    began = time.monotonic()
    try:
        while (waited_s := time.monotonic() - began) < deadline_s:
            with suppress(subprocess.TimeoutExpired):
                return process.wait(min(HEARTBEAT_S, deadline_s - waited_s))
            heartbeat(time.monotonic() - began)
        raise Failed(_too_long(command, deadline_s))
    finally:
        end(process)


@contextmanager
def piped(command: Sequence[str], deadline_s: float, **streams: int) -> Iterator[subprocess.Popen[str]]:
    """A command that the block feeds or reads. It is waited for after the block, and ended where the block fails or the
    deadline passes, which raises Failed."""
    late = threading.Event()

    def give_up() -> None:
        late.set()
        end(process)

    with started(command, **streams) as process:
        guard = threading.Timer(deadline_s, give_up)
        guard.start()
        try:
            yield process
            process.wait()
        finally:
            guard.cancel()
            end(process)
            if late.is_set():
                raise Failed(_too_long(command, deadline_s)) from None


def end(process: subprocess.Popen[str]) -> None:
    """End a command with all it started; nothing happens when it has ended."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def shown(command: Sequence[str]) -> str:
    """A command as it is printed: without the passwords in its addresses."""
    return without_passwords(shlex.join(command))


def without_passwords(text: str) -> str:
    """A text with name and password of every address in it hidden."""
    return PASSWORD.sub("********", text)


def _input(stdin: str | None) -> str:
    return "" if stdin is None else "   # its input is made here, not shown"


def _output(command: Sequence[str], answer: Answer) -> str:
    if answer.status != 0:
        raise Failed(_ended(command, answer))
    return answer.output


def _ended(command: Sequence[str], answer: Answer) -> str:
    said = f": {answer.reason}" if answer.reason else " and said nothing"
    return f"{shown(command)} ended with {answer.status}{without_passwords(said)}"


def _too_long(command: Sequence[str], deadline_s: float) -> str:
    return f"{shown(command)} gave no answer within {deadline_s:g} s and was ended"
