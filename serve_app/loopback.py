"""Keep a replica's inter-deployment port on loopback where the whole Ray node is.

Ray binds its own servers to loopback when the node's address is 127.0.0.1, with one exception in 2.60:
`ray/serve/_private/replica.py` binds the gRPC server of every replica to `[::]`. That server unpickles what it is
sent, so on a laptop it must not face the network. Replicas call this before Serve starts that server.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray
from ray.serve._private import replica


def keep_on_loopback() -> None:
    """Bind the replica's gRPC server to 127.0.0.1 if this Ray node lives there; otherwise change nothing."""
    if ray.util.get_node_ip_address() != "127.0.0.1":
        return
    bind: Callable[[Any, str], int] = vars(replica)["add_port_to_grpc_server"]

    def bind_on_loopback(server: Any, address: str) -> int:
        return bind(server, address.replace("[::]", "127.0.0.1"))

    vars(replica)["add_port_to_grpc_server"] = bind_on_loopback
