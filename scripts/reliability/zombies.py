"""What does not die but does not work either: a frozen gateway, a forward pass that hangs, an image that kills."""

from __future__ import annotations

import time

from benchmark.observed_service import frozen

from reliability.scene import Scene, Strike


def freeze_gateway(scene: Scene) -> list[Strike]:
    """SIGSTOP of a gateway that holds claimed jobs, until others have ended them; then it wakes and goes on."""
    for victim in sorted(scene.service.replicas("gateway")):
        scene.pile_up()
        with frozen({victim}) as [process]:
            at = time.time()
            if held := scene.held_by_frozen_gateway():
                scene.wait_until_completed(held)
                assert process.is_running(), "Serve ended the gateway before it could wake"
                break
    else:
        raise AssertionError("no gateway held a claimed job")
    scene.wait_until_whole()
    return [Strike(at, held, f"gateway replica {victim} slept until others had ended its jobs, then woke")]


def hang(scene: Scene) -> list[Strike]:
    """An image on which the forward pass never returns."""
    return _send(scene, "hang")


def die(scene: Scene) -> list[Strike]:
    """A poison image: it kills the process that runs it, every time."""
    return _send(scene, "die")


def _send(scene: Scene, act: str) -> list[Strike]:
    scene.pile_up()
    before, at = scene.service.replicas(scene.model), time.time()
    job_id = scene.submit_hostile(act)
    scene.wait_until(lambda: scene.status(job_id) == "FAILED")
    scene.wait_until_whole()
    lost = before - scene.service.replicas(scene.model)
    assert lost, "no replica was lost"
    return [Strike(at, [], f"{len(lost)} of {len(before)} replicas replaced, the image's job ended FAILED")]
