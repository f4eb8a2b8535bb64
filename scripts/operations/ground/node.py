"""One node of a cluster on this machine: a process tree in namespaces of its own, which scripts/node/node.sh starts.

Nothing of a node outlives its first process but its folder and its cgroups.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from operations.failure import Failed, Refused
from operations.ground.programs import CACHE
from operations.target import ROOT, Target
from operations.work import Work

SCRIPT = ROOT / "scripts" / "node" / "node.sh"
STOP_DEADLINE_S = 30.0
"""For a node to delete its containers; after that it is killed."""
KILL_DEADLINE_S = 30.0
POLL_S = 0.2
OF_A_CPUSET = ("cpuset.cpus", "cpuset.mems")
"""What a new cgroup of version 1 needs a value for before it takes a process."""


@dataclass(frozen=True)
class Node:
    """One node. The first has the control plane."""

    target: Target
    number: int

    @property
    def name(self) -> str:
        return f"node{self.number}"

    @property
    def folder(self) -> Path:
        return self.target.state / self.name

    @property
    def address(self) -> str:
        return f"172.30.0.{self.number + 1}"

    @property
    def pods(self) -> str:
        """The addresses of its pods."""
        return f"10.244.{self.number}.0/24"

    @property
    def socket(self) -> Path:
        """Where its containerd answers, in any network."""
        return self.folder / "containerd.sock"

    @property
    def store(self) -> Path:
        """Where its containerd keeps images; it stays for the next node of this name."""
        return CACHE / "containerd" / self.target.context / self.name

    @property
    def cgroup(self) -> str:
        """Its place below each hierarchy. The cgroup of its own processes and those of its pods are in it."""
        return f"{self.target.context}/{self.name}"

    def first_process(self) -> int | None:
        """Its first process, None where the node does not run."""
        with suppress(OSError, ValueError, IndexError):
            found = int(os.readlink(self.folder / "network").split("/")[2])
            if f"/{self.cgroup}/" in Path(f"/proc/{found}/cgroup").read_text():
                return found
        return None

    def inside(self, *command: str) -> list[str]:
        """A command in its network."""
        return ["nsenter", f"--net={self.folder / 'network'}", *command]

    def make_room(self) -> None:
        """Remove what is left of an earlier one and make its cgroups, unless it runs. Refused where that cannot be."""
        if not self.first_process():
            self._kill()
            self._make_cgroups()

    def start(self, work: Work, programs: Path) -> None:
        """Start it, after `make_room`, unless it runs."""
        if not work.run.dry:
            if self.first_process():
                return
            self.store.mkdir(parents=True, exist_ok=True)
        given = {
            "STATE": self.target.state,
            "NODE": self.name,
            "NUMBER": self.number,
            "PROGRAMS": programs,
            "STORE": self.store,
            "CGROUP": self.cgroup,
            "HIERARCHIES": " ".join(map(str, hierarchies())),
        }
        work.run.change(["env", *(f"{name}={value}" for name, value in given.items()), str(SCRIPT)])

    def stop(self) -> None:
        """Let it delete its containers, then kill what is left of it, and remove its cgroups."""
        if first := self.first_process():
            with suppress(ProcessLookupError):
                os.kill(first, signal.SIGTERM)
            wait(lambda: self.first_process() is None, STOP_DEADLINE_S)
        self._kill()

    def _kill(self) -> None:
        def gone() -> bool:
            for process in self._processes():
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            return not self._processes()

        if not wait(gone, KILL_DEADLINE_S):
            raise Failed(f"processes of {self.cgroup} do not end: {sorted(self._processes())}")
        remove_cgroup(self.cgroup)

    def _processes(self) -> set[int]:
        """All of its processes, those of its pods too."""
        found: set[int] = set()
        for hierarchy in hierarchies():
            for folder, _, _ in os.walk(hierarchy / self.cgroup):
                with suppress(OSError):  # a pod went meanwhile
                    found |= {int(line) for line in Path(folder, "cgroup.procs").read_text().split()}
        return found

    def _make_cgroups(self) -> None:
        """Its cgroup in each hierarchy, and one below it for the processes that are in no pod."""
        for hierarchy in hierarchies():
            folder = hierarchy
            for part in (*self.cgroup.split("/"), "system"):
                parent, folder = folder, folder / part
                try:
                    _make_cgroup(parent, folder)
                except OSError as error:
                    raise Refused(
                        f"the cgroup {folder} cannot be made: {error.strerror}. A node needs cgroups that root can "
                        "write; a container has them when it is started with --privileged"
                    ) from None


def _make_cgroup(parent: Path, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    if (parent / "cgroup.controllers").is_file():  # version 2 hands controllers down when it is told to
        for controller in (parent / "cgroup.controllers").read_text().split():
            (parent / "cgroup.subtree_control").write_text(f"+{controller}")
    for name in OF_A_CPUSET:
        if (parent / name).is_file() and not (folder / name).read_text().strip():
            (folder / name).write_text((parent / name).read_text())


def remove_cgroup(name: str) -> None:
    """Remove a cgroup that has no process from each hierarchy, with all below it."""
    places = [hierarchy / name for hierarchy in hierarchies()]

    def gone() -> bool:
        for place in places:
            for folder, _, _ in os.walk(place, topdown=False):
                with suppress(OSError):  # busy for a moment after its last process ended
                    Path(folder).rmdir()
        return not any(place.exists() for place in places)

    if not wait(gone, KILL_DEADLINE_S):
        raise Failed(f"cgroups cannot be removed: {', '.join(str(place) for place in places if place.exists())}")


def join(work: Work, first: Node, other: Node) -> None:
    """Put the bridges of two nodes together, and tell each where the pods of the other are. A call that was interrupted
    is completed by the next."""
    if work.run.dry or work.run.ask(first.inside("ip", "link", "show", other.name)).status != 0:
        there = str(other.first_process() or "PROCESS")
        link = ("ip", "link", "add", other.name, "type", "veth", "peer", "name", first.name, "netns", there)
        work.run.change(first.inside(*link))
    for here, beyond in ((first, other), (other, first)):
        work.run.change(here.inside("ip", "route", "replace", beyond.pods, "via", beyond.address))
        work.run.change(here.inside("ip", "link", "set", beyond.name, "master", "nodes", "up"))


def hierarchies() -> list[Path]:
    """Where cgroups are mounted: one place in version 2, and one more for each controller in version 1."""
    with suppress(OSError):
        rows = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
        return [Path(row[1]) for row in rows if row[2] in {"cgroup", "cgroup2"}]
    return []


def wait(holds: Callable[[], bool], deadline_s: float) -> bool:
    """Wait until something holds; whether it did within the deadline."""
    end = time.monotonic() + deadline_s
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(POLL_S)
    return True
