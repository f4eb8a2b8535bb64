"""What the service stands on taken away: Redis killed under two ways to sync, Redis full, PostgreSQL stopped."""

from __future__ import annotations

import time

from reliability.scene import Scene, Strike

OUTAGE_S = 60.0
FULL = "503"


def kill_redis_always(scene: Scene) -> list[Strike]:
    """SIGKILL and restart of the job Redis under `appendfsync always`, with jobs waiting and claimed."""
    return _kill_redis(scene, "always")


def kill_redis_everysec(scene: Scene) -> list[Strike]:
    """SIGKILL and restart of the job Redis under `appendfsync everysec`, with jobs waiting and claimed."""
    return _kill_redis(scene, "everysec")


def _kill_redis(scene: Scene, policy: str) -> list[Strike]:
    server = scene.service.stack.valkey
    scene.pile_up()
    with scene.service.redis() as redis:
        redis.config_set("appendfsync", policy)
    with scene.models():
        held, at, victim = scene.wait_until(scene.claimed), time.time(), server.pid
        server.kill()
        server.start()
    with scene.service.redis() as redis:  # its file says always: the next fault finds it so
        assert redis.config_get("appendfsync") == {"appendfsync": "always"}
    scene.wait_until_whole()
    return [Strike(at, held, f"Redis {victim} was killed under {policy}; {server.pid} read its file")]


def fill_redis(scene: Scene) -> list[Strike]:
    """No memory left in Redis: submits are refused, what is accepted runs to its end meanwhile."""
    scene.pile_up()
    with scene.service.redis() as redis:
        limit = redis.config_get("maxmemory")["maxmemory"]
        try:
            with scene.models():
                held, refused = scene.wait_until(scene.claimed), _refusals(scene)
                redis.config_set("maxmemory", redis.info("memory")["used_memory"])
                at = time.time()
                scene.wait_until(lambda: _refusals(scene) > refused)
            scene.wait_until_empty()
        finally:
            redis.config_set("maxmemory", limit)
    scene.wait_until_whole()
    return [Strike(at, held, f"{_refusals(scene) - refused} submits refused; meanwhile all in flight ended")]


def stop_postgres(scene: Scene) -> list[Strike]:
    """PostgreSQL stopped for a minute, under load all the time."""
    server, failed = scene.service.stack.postgres, scene.load.failed.total()
    held, at, accepted = scene.claimed(), time.time(), len(scene.load.accepted)
    server.stop()
    time.sleep(OUTAGE_S)  # the fault itself lasts so long; nothing is waited for
    accepted = len(scene.load.accepted) - accepted
    failed = scene.load.failed.total() - failed
    server.start()
    return [Strike(at, held, f"no PostgreSQL for {OUTAGE_S:g} s: {accepted} jobs accepted, {failed} submits failed")]


def _refusals(scene: Scene) -> int:
    return sum(count for reason, count in scene.load.failed.items() if reason.startswith(FULL))
