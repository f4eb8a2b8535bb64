"""Ray's own autoscaler, on the operator's API server: the burst group comes for a backlog and goes after it."""

from __future__ import annotations

import time
from typing import Final

from simulator.scenarios.changes import slow_down
from simulator.stage import ENDED, Stage

BACKLOG: Final = 240
"""More than 64 jobs for each of two replicas, until a pod has come."""
PATCHES: Final = (("models", "maxReplicas", 2), ("burst", "maxReplicas", 1), ("burst", "idleTimeoutSeconds", 20))
"""As `kubectl patch raycluster` makes them; the autoscaler looks at the object in each of its turns. There are fewer
processors here than in a cluster, and less time."""
GONE_S: Final = 180.0


def burst(stage: Stage) -> None:
    """The burst group grows from nothing for a backlog of jobs, and goes when nothing is left to do."""
    # What is changed here stays: this is the last scenario.
    groups = {group["groupName"]: group for group in stage.running.resource["spec"]["workerGroupSpecs"]}
    for group, name, value in PATCHES:
        groups[group][name] = value
    slow_down(stage)
    # A change in place has new replicas beside the old ones for a while, and may call for a pod by itself.
    stage.wait(lambda: not stage.pods("burst"), GONE_S)
    _look(stage)
    ids = stage.pile_up(BACKLOG)
    stage.note("backlog", jobs=len(ids))
    stage.wait(lambda: any(one.ready for one in stage.pods("burst")))
    stage.note("burst serves")
    while not all(job["status"] in ENDED for job in stage.jobs(ids)):
        _look(stage)
        time.sleep(1.0)  # a look each second
    stage.note("no jobs left", patches=len(stage.operator.api.patches))
    stage.wait(lambda: not stage.pods("burst"), GONE_S)
    stage.note("burst gone")
    _look(stage)


def _look(stage: Stage) -> None:
    """Keep how many pods of the group there are now."""
    stage.notes.append({"at": time.time(), "what": "burst", "pods": len(stage.pods("burst"))})
