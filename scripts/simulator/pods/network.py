"""One network namespace for each pod, on one bridge: own address, own ports, own rules.

All of it lives in the network namespace of this process, so that nothing of the machine's own network is touched and
nothing is left behind.
"""

from __future__ import annotations

import ctypes
import ipaddress
import itertools
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

NODE: Final = ipaddress.ip_interface("10.77.0.1/16")
"""The node: kubelet and whoever comes from outside."""
API_ADDRESS: Final = "172.18.0.2"
"""Outside of the pods' network, in the one that the overlay names for API servers."""
API_PORT: Final = 6443
BRIDGE: Final = "pods"
BRIDGE_MAC: Final = "02:00:0a:4d:00:01"
"""Said outright: a bridge else takes the lowest of its members', and changes when one joins."""
CLONE_NEWNET: Final = 0x40000000
SILENCE: Final = """
table inet silence {
  chain input { type filter hook input priority -300; policy drop; iif lo accept; }
  chain output { type filter hook output priority -300; policy drop; oif lo accept; }
}
"""


@dataclass(frozen=True)
class Namespace:
    """The network of one pod."""

    name: str
    address: str

    def command(self, *arguments: str) -> list[str]:
        """A command line that runs in here."""
        return ["ip", "netns", "exec", self.name, *arguments]

    def load(self, rules: str) -> None:
        """Have nftables take these rules."""
        command = self.command("nft", "-f", "-")
        subprocess.run(command, input=rules, text=True, check=True)

    def silence(self) -> None:
        """Drop every packet from and to here, as when a node loses its power: nobody is told."""
        self.load(SILENCE)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Sockets that this thread makes meanwhile are this pod's."""
        with open("/proc/thread-self/ns/net", "rb") as home, Path("/run/netns", self.name).open("rb") as there:
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(home.fileno())


class Network:
    """The bridge. Addresses are given out once and never again, as an overlay network hardly does."""

    def __init__(self) -> None:
        self._numbers = itertools.count(2)
        for command in (
            f"link add {BRIDGE} type bridge forward_delay 0",
            f"link set {BRIDGE} address {BRIDGE_MAC} up",
            f"address add {NODE} dev {BRIDGE}",
            "link set lo up",
            f"address add {API_ADDRESS}/32 dev lo",
        ):
            _ip(*command.split())

    def answer_as(self, address: str) -> None:
        """Let the node be this host of the world outside, to which every pod has a route."""
        _ip("address", "replace", f"{address}/32", "dev", "lo")

    def add(self, name: str) -> Namespace:
        """A namespace with an address; its default route leads to the node."""
        number = next(self._numbers)
        address = str(NODE.network[number])
        namespace = f"{number}-{name}"
        _ip("netns", "add", namespace)
        _ip("link", "add", f"p{number}", "type", "veth", "peer", "name", "eth0", "netns", namespace)
        _ip("link", "set", f"p{number}", "master", BRIDGE, "up")
        for command in (
            "link set lo up",
            f"address add {address}/{NODE.network.prefixlen} dev eth0",
            "link set eth0 up",
            f"route add default via {NODE.ip}",
        ):
            _ip("-n", namespace, *command.split())
        return Namespace(namespace, address)


def _enter(descriptor: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
