"""Pods are asked to end, as when a node is emptied: work is finished or given back, and nobody waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from simulator.pods.kubelet import Kubelet
from simulator.scenarios.changes import slow_down
from simulator.scenarios.returns import Returns
from simulator.stage import STEADY_S, Stage

BACKLOG = 120
"""Jobs that wait when SIGTERM comes, so that a pod has begun some and holds others that it has not."""
BEFORE_S = 5.0
"""It takes about as long to have them accepted."""


def gateway_stopped(stage: Stage) -> None:
    """A gateway pod ends in order, with a backlog before it: preStop, SIGTERM, and the time it takes."""
    _stop(stage, ["gateway"])


def model_stopped(stage: Stage) -> None:
    """A model pod ends in order, with a backlog before it."""
    _stop(stage, ["models"])


def head_stopped(stage: Stage) -> None:
    """The head ends in order, with a backlog before it; another takes its place."""
    _stop(stage, ["headgroup"])


def node_emptied(stage: Stage) -> None:
    """Head, a gateway and a model end in order at the same time, as when they are on one node."""
    _stop(stage, ["headgroup", "gateway", "models"])


def _stop(stage: Stage, groups: Sequence[str]) -> None:
    slow_down(stage)
    time.sleep(STEADY_S)  # the load itself
    victims = [next(one for one in stage.pods(group) if one.ready) for group in groups]  # one that serves
    with Returns(stage.house) as returns:
        ending = [threading.Thread(target=victim.pod.delete) for victim in victims]
        for thread in ending:
            thread.start()
        for victim in victims:
            victim.pod.deleted.wait()
            stage.note("deleted", pod=victim.pod.name)
        stage.house.changed()
        time.sleep(max(0.0, min(map(_waits_s, victims)) - BEFORE_S))  # preStop itself
        stage.pile_up(BACKLOG)
        for thread in ending:
            thread.join()
    for victim in victims:
        stage.note("ended", pod=victim.pod.name, seconds=victim.pod.ended_s, killed=victim.pod.killed)
    asked_at = min(victim.pod.asked_at for victim in victims)
    given_back = [at - asked_at for at in returns.at if at > asked_at]
    stage.note("given back", jobs=len(given_back), seconds=max(given_back, default=0.0))
    stage.note("whole again", seconds=stage.wait_until_whole())
    time.sleep(STEADY_S)


def _waits_s(victim: Kubelet) -> float:
    return float(victim.pod.containers[0]["lifecycle"]["preStop"]["sleep"]["seconds"])
