"""The Serve config changes on the running cluster, which the operator sends when nothing else differs."""

from __future__ import annotations

import time

import yaml

from serve_app.contracts import Json
from simulator.stage import STEADY_S, Stage

BATCH = 4
CHANGE_S = 30.0
"""Until Serve has begun with it."""
CHANGED_S = 360.0
"""A gateway drains for 35 s before the next one goes."""


def configuration_changed(stage: Stage) -> None:
    """Another batch size: gateways and models are replaced in place, one after the other."""
    time.sleep(STEADY_S)  # the load itself
    change(stage, with_argument(stage.running.cluster.resource["spec"]["serveConfigV2"], max_batch_size=BATCH))
    time.sleep(STEADY_S)


def change(stage: Stage, config: str) -> None:
    """Send the Serve config, and return when it holds everywhere."""
    stage.wait(lambda: stage.operator.send(stage.running, config))
    stage.note("changed")
    stage.wait(lambda: not stage.operator.runs(stage.running), CHANGE_S)
    stage.note("whole again", seconds=stage.wait_until_whole(CHANGED_S))


def with_argument(config: str, **arguments: object) -> str:
    """The Serve config with other arguments for its first model."""
    parsed: Json = yaml.safe_load(config)
    parsed["applications"][0]["args"]["models"][0] |= arguments
    return yaml.safe_dump(parsed, sort_keys=False)
