"""A pod is asked to end, as for a node that is emptied: its work is finished or given back, and nobody waits for it."""

from __future__ import annotations

import threading
import time

from simulator.stage import Stage

STEADY_S = 5.0
BACKLOG = 100
"""Jobs that wait when the pod is asked, so that it has begun some and holds others that it has not."""


def gateway_stopped(stage: Stage) -> None:
    """A gateway pod ends in order: preStop, SIGTERM, and the time it takes."""
    _stop(stage, "gateway")


def model_stopped(stage: Stage) -> None:
    """A model pod ends in order, with a backlog before it."""
    _stop(stage, "models")


def head_stopped(stage: Stage) -> None:
    """The head ends in order, and another takes its place."""
    _stop(stage, "headgroup")


def _stop(stage: Stage, group: str) -> None:
    time.sleep(STEADY_S)  # the load itself
    victim = stage.pods(group)[0]
    stage.pile_up(BACKLOG)
    grace = victim.pod.manifest["spec"]["terminationGracePeriodSeconds"]
    stage.note("deleted", pod=victim.pod.name, group=group, grace=grace)
    ending = threading.Thread(target=victim.pod.delete)
    ending.start()
    victim.pod.deleted.wait()
    stage.house.changed()
    ending.join()
    stage.note("ended", pod=victim.pod.name, seconds=victim.pod.ended_s, killed=victim.pod.killed)
    stage.note("whole again", seconds=stage.wait_until_whole())
    time.sleep(STEADY_S)
