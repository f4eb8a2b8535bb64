"""The Serve config changes on the running cluster, which the operator sends when nothing else differs."""

from __future__ import annotations

import time
from typing import Final

import yaml

from serve_app.contracts import Json
from simulator.stage import STEADY_S, Stage

SLOW: Final = {"implementation": "simulator.scenarios.broken:SlowClassifier", "downscale_delay_s": 5}
CHANGE_S = 30.0
"""Until Serve has begun with it."""
CHANGED_S = 360.0
"""A gateway drains for 35 s before the next one goes."""


def configuration_changed(stage: Stage) -> None:
    """Another model: gateways and models are replaced in place, one after the other."""
    time.sleep(STEADY_S)  # the load itself
    slow_down(stage)
    time.sleep(STEADY_S)


def slow_down(stage: Stage) -> None:
    """From now on the model takes seconds for a batch: a backlog before it lasts until pods have come or gone.

    Sends the Serve config, unless it is that one, and returns when it holds everywhere.
    """
    config = with_argument(stage.running.cluster.resource["spec"]["serveConfigV2"], **SLOW)
    if stage.running.config == config:
        return
    stage.wait(lambda: stage.operator.send(stage.running, config))
    stage.note("changed")
    stage.wait(lambda: not stage.operator.runs(stage.running), CHANGE_S)
    stage.note("whole again", seconds=stage.wait_until_whole(CHANGED_S))


def with_argument(config: str, **arguments: object) -> str:
    """The Serve config with other arguments for its first model."""
    parsed: Json = yaml.safe_load(config)
    parsed["applications"][0]["args"]["models"][0] |= arguments
    return yaml.safe_dump(parsed, sort_keys=False)
