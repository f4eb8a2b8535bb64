"""A worker or the head is lost: killed with its connections closed, or gone without a word."""

from __future__ import annotations

import time

from simulator.stage import STEADY_S, Stage

NOTICED_S = 5.0
"""Until the operator makes a new head in the place of one that is silent. A real one takes minutes: nodes are given up
late. Meanwhile the workers serve on; what is tried here is the moment when the new one comes."""
AFTER_S = 13.0
"""Load after a new head: Serve's controller waits 10 s for its replicas and then tells everybody who is there."""


def gateway_lost(stage: Stage) -> None:
    """SIGKILL of a gateway pod, its connections closed; the operator makes another."""
    _lose_worker(stage, "gateway")


def model_lost(stage: Stage) -> None:
    """SIGKILL of a model pod, its connections closed; the operator makes another."""
    _lose_worker(stage, "models")


def head_closed(stage: Stage) -> None:
    """SIGKILL of the head, its connections closed; the new one has another address."""
    _lose_head(stage, silent=False)


def head_silent(stage: Stage) -> None:
    """The head is gone and nobody is told, as when its node loses power; the new one has another address."""
    _lose_head(stage, silent=True)


def _lose_worker(stage: Stage, group: str) -> None:
    time.sleep(STEADY_S)  # the load itself
    victim = stage.pods(group)[0]
    stage.note("killed", pod=victim.pod.name)
    victim.pod.kill()
    took = stage.wait_until_whole()
    stage.note("whole again", seconds=took)
    time.sleep(STEADY_S)


def _lose_head(stage: Stage, *, silent: bool) -> None:
    time.sleep(STEADY_S)  # the load itself
    victim = stage.running.head
    stage.operator.held.set()
    if silent:
        victim.pod.network.silence()
    stage.note("silent" if silent else "killed", pod=victim.pod.name, address=victim.pod.address)
    victim.pod.kill()
    if silent:
        time.sleep(NOTICED_S)  # the outage itself
    stage.operator.held.clear()
    stage.wait(lambda: [one for one in stage.pods("headgroup") if one is not victim])
    stage.note("new head", address=stage.running.head.pod.address)
    stage.wait(lambda: any(one.ready for one in stage.pods("headgroup")))
    stage.note("new head ready")
    took = stage.wait_until_whole()
    stage.note("whole again", seconds=took)
    time.sleep(AFTER_S)
