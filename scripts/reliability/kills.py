"""SIGKILL of processes of the Ray tree, each known to hold jobs when it dies."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace

import psutil
from benchmark.observed_service import frozen

from reliability.scene import Scene, Strike

CONTROLLER = "ServeController"
EMPTY_MAX = 6


def kill_model_replicas(scene: Scene) -> list[Strike]:
    """kill -9 of every model replica in turn, each while it holds claimed jobs."""
    strikes: list[Strike] = []
    empty = 0
    wanted = len(scene.service.replicas(scene.model))
    while len(strikes) < wanted:
        strike = _kill_model_replica(scene, min(scene.service.replicas(scene.model)))
        if scene.started_again(strike.held):
            strikes.append(strike)
        else:  # what it seemed to hold still waited in Serve's router, and went to the other replica: one more kill
            empty += 1
            assert empty < EMPTY_MAX, "no kill hits a replica that holds jobs"
    if empty:
        strikes[-1] = replace(strikes[-1], evidence=f"{strikes[-1].evidence}; {empty} more killed that held none")
    return strikes


def _kill_model_replica(scene: Scene, victim: int) -> Strike:
    scene.pile_up()
    with frozen({victim}) as [process]:
        held, at = scene.held_by_frozen_replica(), time.time()
        process.kill()
    scene.wait_until_gone(victim, scene.model)
    scene.wait_until_whole()
    scene.wait_until_completed(held)
    return Strike(at, held, f"model replica {victim} is gone, another took its place")


def kill_gateway_replica(scene: Scene) -> list[Strike]:
    """kill -9 of a gateway replica whose dispatcher holds claimed jobs."""
    for victim in sorted(scene.service.replicas("gateway")):
        scene.pile_up()
        with frozen({victim}) as [process]:
            at = time.time()  # it is as good as dead from here: its leases run out
            if held := scene.held_by_frozen_gateway():
                process.kill()
                break
    else:
        raise AssertionError("no gateway held a claimed job")
    scene.wait_until_gone(victim, "gateway")
    scene.wait_until_whole()
    return [Strike(at, held, f"gateway replica {victim} is gone, another took its place")]


def kill_controller(scene: Scene) -> list[Strike]:
    """kill -9 of the Serve controller."""
    victim, held, at = _controllers(scene)[0], scene.claimed(), time.time()
    victim.kill()
    scene.wait_until(lambda: [one for one in _controllers(scene) if one.pid != victim.pid])
    scene.wait_until_whole()
    return [Strike(at, held, f"controller {victim.pid} is gone, another took its place")]


def kill_ray(scene: Scene) -> list[Strike]:
    """kill -9 of every process of the Ray node at once, then a start of the whole node."""
    scene.pile_up()
    cluster = scene.service.cluster
    with scene.models():
        held, at = scene.wait_until(scene.claimed), time.time()
        family = [one for guard in cluster.pids() for one in psutil.Process(guard).children(recursive=True)]
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    cluster.stop()
    left = [process.pid for process in family if process.is_running()]
    assert not left, f"these processes of the Ray node live on: {left}"
    cluster.start()
    scene.wait_until_whole()
    return [Strike(at, held, f"all {len(family)} processes of the Ray node are gone, the node was started again")]


def _controllers(scene: Scene) -> list[psutil.Process]:
    found = []
    for process in scene.service.processes():
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if CONTROLLER in " ".join(process.cmdline()):
                found.append(process)
    return found
