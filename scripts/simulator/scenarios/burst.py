"""Ray's own autoscaler, on the operator's API server: the burst group comes for a backlog and goes after it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

from serve_app.contracts import Json
from simulator.stage import ENDED, Stage

BACKLOG: Final = 480
"""More than 64 jobs for each of two replicas, until pods have come."""
PATCHES: Final = (("models", "maxReplicas", 2), ("burst", "maxReplicas", 1), ("burst", "idleTimeoutSeconds", 20))
"""As `kubectl patch raycluster` makes them; the autoscaler looks at the object in each of its turns. There are fewer
processors here than in a cluster, and less time."""
GONE_S: Final = 180.0


def burst(stage: Stage) -> None:
    """The burst group grows from nothing for a backlog of jobs, and goes when nothing is left to do."""
    groups = {group["groupName"]: group for group in stage.running.resource["spec"]["workerGroupSpecs"]}
    before = [(group, name, groups[group][name]) for group, name, _ in PATCHES]
    try:
        _patch(groups, PATCHES)
        _look(stage)
        ids = stage.pile_up(BACKLOG)
        stage.note("backlog", jobs=len(ids))
        stage.wait(lambda: any(one.ready for one in stage.pods("burst")))
        stage.note("burst serves")
        while not all(job["status"] in ENDED for job in stage.jobs(ids)):
            _look(stage)
            time.sleep(1.0)  # a look each second
        _look(stage)
        stage.note("no jobs left", patches=len(stage.operator.api.patches))
        stage.wait(lambda: not stage.pods("burst"), GONE_S)
        stage.note("burst gone")
        _look(stage)
    finally:
        _patch(groups, before)


def _look(stage: Stage) -> None:
    """Keep how many pods of the group there are now."""
    stage.notes.append({"at": time.time(), "what": "burst", "pods": len(stage.pods("burst"))})


def _patch(groups: dict[str, Json], patches: Iterable[tuple[str, str, int]]) -> None:
    for group, name, value in patches:
        groups[group][name] = value
