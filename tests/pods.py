"""Pods without a cluster: a process in namespaces of its own, as the account and with the rights a pod gives it.

Own network, process and mount namespaces; the root read-only; nothing writable but `/tmp` and `/dev/shm`, both empty;
uid 1000 without capabilities, and no way to get any. It needs root, and Linux.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ACCOUNT = ["setpriv", "--reuid=1000", "--regid=100", "--clear-groups", "--no-new-privs", "--pdeathsig=KILL"]
ACCOUNT += ["--bounding-set=-all", "--inh-caps=-all"]
NAMESPACES = ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--propagation=private"]

# A Python below somebody's home, closed to others, is moved to where it was, below a home that is not.
INSIDE = """
read -r _
hostname "$NAME"
mount --bind "$HOSTS" /etc/hosts
mount --bind /dev/null /etc/resolv.conf
mount -t proc proc /proc
mount -t tmpfs -o mode=1777 tmpfs /tmp
if [ -n "$CLOSED" ]; then
    mkdir /tmp/python
    mount --bind "$PYTHON" /tmp/python
    mount -t tmpfs -o mode=0755 tmpfs "$CLOSED"
    mkdir -p "$PYTHON"
    mount --move /tmp/python "$PYTHON"
    rmdir /tmp/python
fi
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -o remount,bind,ro /
ip link set lo up
exec "$@"
"""


def missing() -> str:
    """Why there can be no pods here; empty where there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs Linux and root, for namespaces of their own"
    tried = subprocess.run([*NAMESPACES, "mount", "-t", "tmpfs", "tmpfs", "/tmp"], capture_output=True, check=False)
    return "" if tried.returncode == 0 else f"no namespaces here: {tried.stderr.decode().strip()}"


def closed_folder(path: Path) -> str:
    """The highest folder above `path` that others may not enter; empty where they may enter all of them."""
    return next((str(above) for above in reversed(path.parents) if not above.stat().st_mode & 0o001), "")


class Pod:
    """One container of one pod. `start` runs its command, `execute` another one inside, as the kubelet's probes do."""

    def __init__(self, name: str, environment: Mapping[str, str], *, folder: Path, hosts: str = "") -> None:
        """`folder` is the working directory; log and hosts file are beside what lies there, and seen inside."""
        self._name, self.environment, self._folder = name, dict(environment), folder
        self.log, self._hosts = folder / f"{name}.log", folder / f"{name}.hosts"
        self._hosts.write_text(f"127.0.0.1 localhost {name if not hosts else ''}\n{hosts}\n")
        self._process: subprocess.Popen[bytes] | None = None

    def create(self, *command: str) -> None:
        """Make the namespaces; the command waits in them for `start`."""
        python = Path(sys.base_prefix).resolve()
        outside = {
            "PYTHON": str(python),
            "CLOSED": closed_folder(python),
            "HOSTS": str(self._hosts),
            "NAME": self._name,
        }
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*NAMESPACES, "bash", "-euc", INSIDE, "pod", *ACCOUNT, *self._env(), *command],
                cwd=self._folder,
                env={"PATH": os.environ["PATH"], **outside},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )

    def start(self) -> None:
        """Let the command go."""
        assert self._process
        assert self._process.stdin
        self._process.stdin.write(b"\n")
        self._process.stdin.close()

    def wait(self, seconds: float) -> int:
        """Exit status of a command that ends by itself."""
        assert self._process
        return self._process.wait(seconds)

    def network(self, *command: str) -> None:
        """Change its network from outside, as a cluster's network plug-in does."""
        subprocess.run(["nsenter", f"--net=/proc/{self.pid}/ns/net", *command], check=True, timeout=10)

    def execute(self, *command: str, seconds: float = 15) -> subprocess.CompletedProcess[str]:
        """Run a command in the container: same namespaces, account and environment."""
        return subprocess.run(
            ["nsenter", f"--target={self.pid}", "--net", "--uts", "--mount", "--pid", *ACCOUNT, *self._env(), *command],
            cwd="/",
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    @property
    def pid(self) -> int:
        """Of the container's first process, seen from here."""
        assert self._process
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        until(lambda: self.ended() or bool(children.read_text().split()), "the pod's namespaces", 10)
        assert not self.ended(), f"{self._name} has ended:\n{self.log.read_text()[-4000:]}"
        return int(children.read_text().split()[0])

    def ended(self) -> bool:
        """Whether its command is not there, or not any more."""
        return self._process is None or self._process.poll() is not None

    def kill(self) -> None:
        """Everything in it ends with its first process."""
        if self._process:
            self._process.kill()
            self._process.wait(30)
            assert self._process.stdin
            self._process.stdin.close()

    def _env(self) -> Sequence[str]:
        return ["env", "-i", *(f"{name}={value}" for name, value in self.environment.items())]


def connect(first: Pod, second: Pod, addresses: tuple[str, str]) -> None:
    """One wire between two pods, and no other way out of either."""
    ends = ["peer", "name", "eth0", "netns", str(second.pid)]
    subprocess.run(
        ["ip", "link", "add", "eth0", "netns", str(first.pid), "type", "veth", *ends], check=True, timeout=10
    )
    for pod, own, other in ((first, *addresses), (second, *reversed(addresses))):
        pod.network("ip", "addr", "add", f"{own}/24", "dev", "eth0")
        pod.network("ip", "link", "set", "eth0", "up")
        pod.network("ip", "route", "add", "default", "via", other)  # without one Ray would take 127.0.0.1 for its node


def until(true: Callable[[], bool], what: str, seconds: float) -> float:
    """Seconds until it was true; fails when it does not become so in time."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, f"not within {seconds} s: {what}"
        time.sleep(0.2)
    return time.monotonic() - began
