"""A change under rayClusterConfig: a new cluster beside the old one, which takes over once its applications run."""

from __future__ import annotations

import copy
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import yaml

from serve_app.contracts import Json
from simulator.around.operator import Running
from simulator.manifest.resource import containers
from simulator.pods.image import ROOT, Image
from simulator.scenarios.changes import with_argument
from simulator.scenarios.open_ends import OpenEnds
from simulator.stage import PICTURES, STEADY_S, Stage

BACKLOG = 100
STREAMS = 8
START_S = 240.0
DELAY_S = 15.0
"""At most, of rayClusterDeletionDelaySeconds: the old cluster does nothing else in the rest of it."""
GIVEN_UP = {"DEPLOY_FAILED", "UNHEALTHY"}
RAISING = "simulator.scenarios.broken:RaisingClassifier"
DEMO = ROOT / "serve_app" / "models" / "demo"


def upgraded(stage: Stage) -> None:
    """Blue/green. The new model raises first, and nobody is led to it; corrected it takes over, while much is open.

    While the old cluster ends comes a third version, whose image lacks the model: nobody is led to that one either.
    """
    time.sleep(STEADY_S)  # the load itself
    old = stage.running
    config = old.cluster.resource["spec"]["serveConfigV2"]
    new = _create(stage, _with_image(stage, "next", _image(stage)))
    broken = with_argument(config, implementation=RAISING, min_replicas=1)  # Serve gives each up after three trials
    stage.wait(lambda: stage.operator.send(new, broken), START_S)
    _see_it_fail(stage, new)
    stage.operator.deploy(new, START_S)
    stage.note("corrected, the new cluster runs", cluster=new.cluster.name)
    token = stage.token("patient")
    jobs = stage.pile_up(BACKLOG, token)
    gateways = [one.pod.address for one in old.group("gateway")]
    with OpenEnds(stage.edge, token, PICTURES[0], jobs[-STREAMS:], gateways) as ends:
        stage.operator.switch(new)
        stage.note("switched", endpoints=stage.operator.endpoints())
        time.sleep(min(DELAY_S, old.cluster.resource["spec"]["rayClusterDeletionDelaySeconds"]))  # the delay itself
        stage.pile_up(BACKLOG, token)  # so that the old side has work when it ends
        stage.note("deleted", cluster=old.cluster.name)
        with ThreadPoolExecutor(1) as threads:
            deletion = threads.submit(stage.operator.delete, old)
            _try_without_model(stage)
        for one in deletion.result():
            stage.note("ended", pod=one.pod.name, seconds=one.pod.ended_s, killed=one.pod.killed)
    stage.piled += ends.ids
    stage.extra += [asdict(one) for one in ends.asked]
    stage.note("whole again", seconds=stage.wait_until_whole())
    time.sleep(STEADY_S)


def _try_without_model(stage: Stage) -> None:
    empty = stage.house.folder / "empty"
    empty.mkdir(exist_ok=True)
    new = _create(stage, _small(_with_image(stage, "lacking", _image(stage).with_part(empty, DEMO))))
    stage.wait(lambda: stage.operator.send(new), START_S)
    _see_it_fail(stage, new)
    stage.operator.drop(new)


def _create(stage: Stage, resource: Json) -> Running:
    new = stage.operator.create(resource)
    stage.note("new version", cluster=new.cluster.name)
    stage.wait(lambda: any(one.ready for one in new.group("headgroup")), START_S)
    return new


def _see_it_fail(stage: Stage, new: Running) -> None:
    """Return when Serve has given up; the operator moves the traffic to RUNNING applications alone."""
    states: set[str] = set()

    def has_given_up() -> bool:
        states.update(one["status"] for one in stage.operator.applications(new).values())
        return bool(states & GIVEN_UP)

    stage.wait(has_given_up, START_S)
    stage.note("never served", states=sorted(states), ran="RUNNING" in states)


def _image(stage: Stage) -> Image:
    """The one of all pods."""
    return stage.house.around.images[containers(stage.running.cluster.resource)[0]["image"]]


def _with_image(stage: Stage, tag: str, image: Image) -> Json:
    """The resource of now with another image."""
    changed = copy.deepcopy(stage.running.cluster.resource)
    name = f"sem-image-classifier:{tag}"
    stage.house.around.images[name] = image
    for container in containers(changed):
        container["image"] = name
    return changed


def _small(resource: Json) -> Json:
    """The same with one gateway and one model: a broken version needs no more to be broken."""
    for group in resource["spec"]["rayClusterConfig"]["workerGroupSpecs"]:
        group["minReplicas"] = min(group["minReplicas"], 1)
    config = yaml.safe_load(resource["spec"]["serveConfigV2"])
    config["applications"][0]["args"]["gateway_replicas"] = 1
    resource["spec"]["serveConfigV2"] = with_argument(yaml.safe_dump(config), min_replicas=1)
    return resource
