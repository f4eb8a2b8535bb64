"""The scenarios, in the order in which they are played."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from simulator.scenarios import access, burst, changes, losses, stops, upgrades
from simulator.scenarios.network_table import network_table
from simulator.stage import Stage

Scenario = Callable[[Stage], None]

UNDER_LOAD: Final[dict[str, Scenario]] = {
    "gateway-lost": losses.gateway_lost,
    "model-lost": losses.model_lost,
    "head-closed": losses.head_closed,
    "head-silent": losses.head_silent,
    "upgraded": upgrades.upgraded,
    "configuration-changed": changes.configuration_changed,
    "gateway-stopped": stops.gateway_stopped,
    "model-stopped": stops.model_stopped,
    "head-stopped": stops.head_stopped,
    "node-emptied": stops.node_emptied,
}
"""Those in which users go on to work: no request may fail, no job may be lost."""
STOPS: Final = ("gateway-stopped", "model-stopped", "head-stopped", "node-emptied", "upgraded")
"""Those in which pods are asked to end: no job may be delivered twice for it."""
HEAD_LOSSES: Final = ("head-closed", "head-silent")
"""Those that are played several times where the proxies are compared."""
SCENARIOS: Final[dict[str, Scenario]] = {
    "probes": access.probes,
    "ray-token": access.ray_token,
    "hardened": access.hardened,
    "network-table": network_table,
    **UNDER_LOAD,
    "burst": burst.burst,
}
WHOLE: Final = [name for name in SCENARIOS if name not in ("gateway-stopped", "model-stopped", "head-stopped")]
"""All that is to be shown. `node-emptied` ends a pod of each kind; one kind by itself is for who looks closer."""
