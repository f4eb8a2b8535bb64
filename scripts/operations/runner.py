"""Runs outside programs, each with a deadline. A dry run prints the commands instead and starts none of them."""

from __future__ import annotations

import ctypes
import fcntl
import json
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
from typing import Any

from operations.steps import Aborted, StepFailed, say
from operations.target import ROOT, Target

Json = dict[str, Any]
READ_DEADLINE_S = 60.0
"""kubectl gives up on a cluster that does not answer after about half of this."""
CHANGE_DEADLINE_S = 120.0
PASSWORD = re.compile(r"(?<=://)[^/\s@]+(?=@)")
"""Name and password in a URL, for instance of a private package index."""
OUTPUT = ROOT / "build" / "cluster" / "output.log"
"""The output of the last long command, unless it was shown."""
HEARTBEAT_S = 30.0
PR_SET_PDEATHSIG = 1
LAST_LINES = 4
"""Lines of a failed command's output that the error repeats: tools put the reason at the end."""
INSTALL = {
    "kubectl": "https://kubernetes.io/docs/tasks/tools/",
    "helm": "https://helm.sh/docs/intro/install/",
    "kind": "https://kind.sigs.k8s.io/docs/user/quick-start/#installation",
    "podman": "https://podman.io/docs/installation (Debian, Ubuntu: sudo apt-get install podman)",
    "docker": "https://docs.docker.com/engine/install/",
}
_libc = ctypes.CDLL(None)


@dataclass(frozen=True)
class Answer:
    """How a command ended."""

    status: int
    output: str
    errors: str

    @property
    def reason(self) -> str:
        """The last lines of its errors, or else of its output, as one line."""
        lines = [line.strip() for line in (self.errors.strip() or self.output.strip()).splitlines() if line.strip()]
        return " / ".join(lines[-LAST_LINES:])


@dataclass(frozen=True)
class Runner:
    """One call of this program: its target, its options, and the only way to run outside commands.

    `read` and `ask` change nothing; `change`, `pipe` and `long` do. All but `ask` raise StepFailed when the command
    fails, is not installed or exceeds its deadline. A verbose runner shows the commands that change something.
    """

    target: Target
    dry: bool = False
    verbose: bool = False
    timeout_s: float = 900.0
    """How long the service may take to become ready."""
    yes: bool = False
    """Do not ask for confirmation."""

    def kubectl(self, *arguments: str, namespace: str = "") -> list[str]:
        """A kubectl command for the target."""
        return self.target.kubectl(*arguments, namespace=namespace)

    def ask(
        self,
        command: Sequence[str],
        *,
        assumed: str = "",
        stdin: str | None = None,
        deadline_s: float = READ_DEADLINE_S,
    ) -> Answer:
        """Run a command whose failure is an answer too. A dry run returns `assumed`."""
        if self.dry:
            self._show(shown(command) + _note(stdin))
            return Answer(0, assumed, "")
        return run(command, stdin, deadline_s)

    def read(self, command: Sequence[str], *, assumed: str = "", deadline_s: float = READ_DEADLINE_S) -> str:
        """What the command prints. A dry run returns `assumed`."""
        return _output(command, self.ask(command, assumed=assumed, deadline_s=deadline_s))

    def change(self, command: Sequence[str], *, stdin: str | None = None, deadline_s: float = CHANGE_DEADLINE_S) -> str:
        """Run a command that changes something. `stdin` is never shown: it may hold secrets."""
        self._show(shown(command) + _note(stdin))
        return "" if self.dry else _output(command, run(command, stdin, deadline_s))

    def pipe(self, source: Sequence[str], sink: Sequence[str], *, deadline_s: float = CHANGE_DEADLINE_S) -> None:
        """`source | sink`; the sink does not start unless the source succeeded."""
        self._show(f"{shown(source)} | {shown(sink)}")
        if not self.dry:
            _output(sink, run(sink, self.read(source), deadline_s))

    def long(self, command: Sequence[str], *, deadline_s: float) -> None:
        """Run a long command, such as a build. Its output goes to the terminal if verbose, else to a file."""
        self._show(shown(command))
        if self.dry:
            return
        if self.verbose:
            self._print(command, sys.stderr.fileno(), deadline_s)
            return
        OUTPUT.parent.mkdir(parents=True, exist_ok=True)
        with OUTPUT.open("w") as file:
            process = started(command, stdin=subprocess.DEVNULL, stdout=file.fileno(), stderr=subprocess.STDOUT)
            status = _wait(process, command, deadline_s, _heartbeat)
        if status != 0:
            answer = Answer(status, OUTPUT.read_text("utf-8", "replace"), "")
            raise StepFailed(f"{_ended(command, answer)}; all of its output: {OUTPUT.relative_to(ROOT)}")

    def show(self, command: Sequence[str], *, deadline_s: float = READ_DEADLINE_S) -> None:
        """Run a command whose output is a result of ours."""
        if self.dry:
            self._show(shown(command))
        else:
            sys.stdout.flush()
            self._print(command, sys.stdout.fileno(), deadline_s)

    def _print(self, command: Sequence[str], to: int, deadline_s: float) -> None:
        with started(command, stdin=subprocess.DEVNULL, stdout=to) as process:
            if _wait(process, command, deadline_s) != 0:
                raise StepFailed(f"{shown(command)} ended with {process.returncode}; its output is above")

    def follow(self, *commands: Sequence[str]) -> None:
        """Run commands side by side on this terminal until all end or the user presses Ctrl-C. No deadline."""
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

    def write(self, path: Path, text: str) -> None:
        """Write a small file that a later command reads."""
        if self.dry:
            print(f"cat > {path.relative_to(ROOT)} <<'EOF'\n{text}EOF", flush=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")

    @contextmanager
    def passing(self, path: Path) -> Iterator[Path]:
        """A file or folder that exists only within the block."""

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
        """Hold a lock file, or fail with `busy` if another process holds it. The kernel releases it with its holder."""
        if self.dry:
            yield
            return
        lock.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StepFailed(busy) from None
            yield

    def say(self, text: str) -> None:
        """Print a line of progress below the current step."""
        say(f"    {text}")

    def _show(self, line: str) -> None:
        """The commands of a dry run are its result and go to standard output."""
        if self.dry:
            print(line, flush=True)
        elif self.verbose:
            say(f"    $ {line}")

    def objects(self, *arguments: str) -> list[Json]:
        """What `kubectl get` lists; nothing in a dry run."""
        answer = self.read(self.kubectl("get", *arguments, "--output", "json"), assumed='{"items": []}')
        return list(parsed(answer, "kubectl get " + " ".join(arguments)).get("items", []))

    def object(self, *arguments: str) -> Json | None:
        """One object; None if it does not exist."""
        answer = self.read(self.kubectl("get", *arguments, "--ignore-not-found", "--output", "json"))
        return parsed(answer, "kubectl get " + " ".join(arguments)) if answer.strip() else None

    def answers(self) -> bool:
        """Whether the API server is ready."""
        return self.ask(self.kubectl("get", "--raw", "/readyz")).status == 0

    def confirm(self, question: str, word: str) -> None:
        """Have the user type `word`, unless --yes was given. Aborted if the user does not, or without a terminal."""
        if self.yes or self.dry:
            return
        if not sys.stdin.isatty():
            raise Aborted(f"{question} There is no terminal to ask on: --yes does it without asking")
        print(f"{question} Type {word} to go on: ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip() != word:
            raise Aborted("nothing was changed")


def run(command: Sequence[str], stdin: str | None, deadline_s: float) -> Answer:
    """Run a command to its end."""
    source = subprocess.DEVNULL if stdin is None else subprocess.PIPE
    with started(command, stdin=source, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            output, errors = process.communicate(stdin, timeout=deadline_s)
        except subprocess.TimeoutExpired:
            raise StepFailed(_too_long(command, deadline_s)) from None
        finally:
            end(process)
        return Answer(process.returncode, output, errors)


def started(command: Sequence[str], **streams: int) -> subprocess.Popen[str]:
    """Start a command in a process group of its own, so that `end` ends its children too. On Linux the kernel ends it
    with the thread that started it, even if that is killed."""
    parent = os.getpid()

    def end_with_parent() -> None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it ended before the call above
            os._exit(1)

    before = end_with_parent if sys.platform == "linux" else None
    options = {"text": True, "errors": "replace", "start_new_session": True, "cwd": ROOT, "preexec_fn": before}
    try:
        return subprocess.Popen(command, **options, **streams)  # type: ignore[call-overload, no-any-return]
    except OSError as error:
        if isinstance(error, FileNotFoundError) and command[0] in INSTALL:
            raise StepFailed(f"{command[0]} is not installed: {INSTALL[command[0]]}") from None
        raise StepFailed(f"{command[0]} cannot be run: {error.strerror}") from None


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
        raise StepFailed(_too_long(command, deadline_s))
    finally:
        end(process)


def _heartbeat(waited_s: float) -> None:
    """Show the last line of a long command's output."""
    lines = [line.strip() for line in OUTPUT.read_text("utf-8", "replace").splitlines() if line.strip()]
    say(without_passwords(f"    {waited_s:.0f} s: {lines[-1][:80] if lines else ''}"))


@contextmanager
def piped(command: Sequence[str], deadline_s: float, **streams: int) -> Iterator[subprocess.Popen[str]]:
    """A command that the block feeds or reads, then waited for. It is ended if the block fails; StepFailed is raised if
    the deadline passes."""
    late = threading.Event()

    def give_up() -> None:
        late.set()
        end(process)

    with started(command, **streams) as process:
        timer = threading.Timer(deadline_s, give_up)
        timer.start()
        try:
            yield process
            process.wait()
        finally:
            timer.cancel()
            end(process)
            if late.is_set():
                raise StepFailed(_too_long(command, deadline_s)) from None


def end(process: subprocess.Popen[str]) -> None:
    """End a command and its children, unless it has ended."""
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
    """A command as it is printed: without passwords."""
    return without_passwords(shlex.join(command))


def without_passwords(text: str) -> str:
    """A text with the name and password of every URL in it hidden."""
    return PASSWORD.sub("********", text)


def _note(stdin: str | None) -> str:
    return "" if stdin is None else "   # its input is made here, not shown"


def _output(command: Sequence[str], answer: Answer) -> str:
    if answer.status != 0:
        raise StepFailed(_ended(command, answer))
    return answer.output


def _ended(command: Sequence[str], answer: Answer) -> str:
    output = f": {answer.reason}" if answer.reason else " without output"
    return f"{shown(command)} ended with {answer.status}{without_passwords(output)}"


def _too_long(command: Sequence[str], deadline_s: float) -> str:
    return f"{shown(command)} gave no answer within {deadline_s:g} s and was ended"


def name_of(thing: Json) -> str:
    """The name of an object."""
    return str(thing["metadata"]["name"])


def parsed(text: str | bytes, source: str) -> Json:
    """The JSON object that a tool or a server returned."""
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise StepFailed(f"{source} returned something else than JSON: {text.strip()[:200]!r}")
    return document
