"""The edge: HAProxy as an Ingress controller would run it, which repeats what may be repeated, and once.

It listens twice: on one port it repeats reads, on the other nothing, so that both are measured in one run.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from typing import Final, NamedTuple


class Ports(NamedTuple):
    repeating: int = 8080
    plain: int = 8081
    admin: int = 9999


PORTS: Final = Ports()
SERVE_PORT: Final = 8000
SLOTS: Final = 12
READS: Final = ("/api/v1/jobs/status", "/api/v1/jobs/results")
"""The two POST routes that only read."""
ADMIN_S: Final = 5.0

CONFIG = """\
global
  stats socket ipv4@0.0.0.0:{admin} level admin
  maxconn 2000
  tune.bufsize 98304
defaults
  mode http
  timeout connect 2s
  timeout client 320s
  timeout server 320s
  retries 1
  option redispatch 1
frontend repeating
  bind *:{repeating}
{stripping}
  monitor-uri /edge
  acl reads method GET
  acl streams path_end /events
  acl reads-by-post path {reads}
  use_backend reads if reads !streams
  use_backend reads-by-post if reads-by-post
  default_backend rest
frontend plain
  bind *:{plain}
{stripping}
  default_backend plain
backend reads
  timeout server 60s
  retry-on conn-failure empty-response response-timeout 500 502 503 504
{servers}
backend reads-by-post
  timeout server 12s
  retry-on conn-failure empty-response response-timeout 500 502 503 504
{servers}
backend rest
{servers}
backend plain
  timeout server 60s
  retries 0
{servers}
"""
OBEYED: Final = (
    "x-request-timeout-seconds",
    "x-request-disconnect-disabled",
    "serve_multiplexed_model_id",
    "x-session-id",
)
"""Headers that Ray Serve obeys from clients, and so none that an edge lets in."""
BACKENDS: Final = ("reads", "reads-by-post", "rest", "plain")


def edge_config() -> str:
    """The whole configuration; every server is a slot without an address yet."""
    servers = f"  balance roundrobin\n  server-template s 1-{SLOTS} 0.0.0.0:{SERVE_PORT} disabled"
    stripping = "\n".join(f"  http-request del-header {header}" for header in OBEYED)
    return CONFIG.format(**PORTS._asdict(), reads=" ".join(READS), servers=servers, stripping=stripping)


class Edge:
    """Tells the edge where the endpoints are, as a controller does that watches them."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._slots: dict[int, str] = {}
        self._lock = threading.Lock()

    @property
    def repeating(self) -> str:
        return f"http://{self.address}:{PORTS.repeating}"

    @property
    def plain(self) -> str:
        return f"http://{self.address}:{PORTS.plain}"

    def serve_from(self, addresses: Sequence[str]) -> None:
        """New requests go to these from now on; connections that are open stay where they are."""
        with self._lock:
            commands = []
            for slot in [slot for slot, address in self._slots.items() if address not in addresses]:
                del self._slots[slot]
                commands += [f"set server {backend}/s{slot} state maint" for backend in BACKENDS]
            for address in [one for one in addresses if one not in self._slots.values()]:
                slot = next(number for number in range(1, SLOTS + 1) if number not in self._slots)
                self._slots[slot] = address
                for backend in BACKENDS:
                    place = f"{backend}/s{slot}"
                    commands += [f"set server {place} addr {address}", f"set server {place} state ready"]
            if commands:
                self._tell("; ".join(commands))

    def _tell(self, commands: str) -> None:
        with socket.create_connection((self.address, PORTS.admin), ADMIN_S) as connection:
            connection.sendall(f"{commands}\n".encode())
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):
                pass
