"""The faults, in the order in which they strike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from reliability import kills, servers, zombies
from reliability.scene import Scene, Strike

Fault = Callable[[Scene], list[Strike]]

FAULTS: Final[dict[str, Fault]] = {
    "model-replicas": kills.kill_model_replicas,
    "gateway-replica": kills.kill_gateway_replica,
    "controller": kills.kill_controller,
    "ray": kills.kill_ray,
    "redis-always": servers.kill_redis_always,
    "redis-everysec": servers.kill_redis_everysec,
    "redis-full": servers.fill_redis,
    "postgres": servers.stop_postgres,
    "frozen-gateway": zombies.freeze_gateway,
    "hang": zombies.hang,
    "poison": zombies.die,
}
"""By the name that the command line takes. The docstring of each is what the table says of it."""
STRANDING: Final = ("model-replicas", "gateway-replica")
"""Those after which a job's second start is measured: jobs are claimed by what dies, and the rest works on."""
LOSSY: Final = "redis-everysec"
"""The one that may lose jobs: those accepted in the last two seconds."""
HANGING: Final = "hang"
"""The one whose hostile job ends FAILED by itself; those of all others end dead."""
UNRECORDED: Final = ("redis-always", "redis-everysec")
"""Redis may die between accepting a job and taking the usage event of the request; the answer goes out all the same."""
