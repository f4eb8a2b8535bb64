"""What probes, strangers and people with a token learn of the service's health, and what their asking costs."""

from __future__ import annotations

import asyncio
from pathlib import Path

from gateway_parts import IMAGE_MODEL, Answering, Running, running_gateway, until
from pydantic import SecretStr
from redis.asyncio import Redis

from serve_app.gateway.monitoring.vitals import FRESH_S, Vitals
from serve_app.jobs.stops import Stops
from serve_app.jobs.tracker import Tracker
from serve_app.local.authority import Authority
from serve_app.models.registry import ModelConfig, card
from serve_app.settings import Settings

SECRET = "No such file: the inside of the house"
SLEEPER = card(ModelConfig(name="words", implementation="tests.toy_model:WordStatistics", min_replicas=0))


async def status(gateway: Running, path: str) -> int:
    return (await gateway.client.get(path)).status_code


class Loading(Answering):
    """A model whose warm-up is held until it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.open.clear()

    async def warm_up(self) -> str:
        await self.open.wait()
        return await super().warm_up()


class Failing(Loading):
    """It fails then."""

    async def warm_up(self) -> str:
        await super().warm_up()
        raise OSError(SECRET)


async def test_healthz_waits_for_the_warm_up_of_every_model_that_does_not_sleep(
    settings: Settings, authority: Authority
) -> None:
    async with running_gateway(settings, authority, cards=(IMAGE_MODEL, SLEEPER), model=Loading()) as gateway:
        assert [await status(gateway, path) for path in ("/healthz", "/readyz", "/livez")] == [503, 503, 200]
        gateway.model.open.set()

        async def warm() -> bool:
            return await status(gateway, "/healthz") == await status(gateway, "/readyz") == 200

        await until(warm)
        shown = (await gateway.client.get("/readyz?verbose")).json()
        assert shown["models"] == {IMAGE_MODEL.name: "ready", "words": "waiting"}
        assert (await gateway.client.get("/healthz")).json() == {"status": "ready"}


async def test_a_stranger_is_told_that_a_model_fails_and_who_has_a_token_why(
    settings: Settings, authority: Authority
) -> None:
    async with running_gateway(settings, authority, cards=(IMAGE_MODEL,), model=Failing()) as gateway:
        for path in ("/healthz", "/readyz"):
            answer = await gateway.client.get(path)
            assert (answer.status_code, answer.json()) == (503, {"status": "not ready"})
        waiting = (await gateway.client.get("/readyz?verbose")).json()
        assert (waiting["tracker"], waiting["models"]) == ("ready", {IMAGE_MODEL.name: "waiting"})
        gateway.model.open.set()

        async def open_breaker() -> bool:
            shown = (await gateway.client.get("/readyz?verbose")).json()
            return bool(shown["models"] == {IMAGE_MODEL.name: "breaker"})

        await until(open_breaker)
        for headers in ({}, {"Authorization": "Bearer x.y.z"}, gateway.bearer(exp=1)):
            answer = await gateway.client.get("/readyz?verbose", headers=headers)
            assert answer.status_code == 503
            assert SECRET not in answer.text
        told = (await gateway.get("/readyz?verbose")).json()
        assert told["models"] == {IMAGE_MODEL.name: f"breaker: {SECRET}"}
        assert SECRET not in (await gateway.client.get("/readyz")).text
        assert await gateway.usage() == []


async def test_postgres_away_is_told_and_makes_nothing_unready(
    settings: Settings, authority: Authority, folder: Path
) -> None:
    nowhere = SecretStr(f"postgresql:///app?host={folder}")
    async with running_gateway(settings, authority, cards=(IMAGE_MODEL,), database_url=nowhere) as gateway:
        await gateway.beat()

        async def told() -> bool:
            shown = (await gateway.client.get("/readyz?verbose")).json()
            return bool(shown["usage"] == "PostgreSQL is away or refuses" and shown["status"] == "ready")

        await until(told)
        assert [await status(gateway, path) for path in ("/readyz", "/healthz", "/health", "/livez")] == [200] * 4


async def looks(redis: Redis) -> int:
    """How often anybody asked for the backlog of the one model and for what is stopped."""
    stats = await redis.info("commandstats")
    return int(stats.get("cmdstat_hgetall", {"calls": 0})["calls"]) // 2


async def test_many_probes_are_one_look_at_redis(settings: Settings, authority: Authority) -> None:
    async with running_gateway(settings, authority, cards=(IMAGE_MODEL,)) as gateway:
        await gateway.ended(await gateway.submit())  # by then the gauges, too, have had their first look
        await gateway.redis.config_resetstat()
        paths = ("/readyz", "/healthz", "/health", "/readyz?verbose") * 25
        began = asyncio.get_running_loop().time()
        answers = await asyncio.gather(*map(gateway.client.get, paths))
        assert asyncio.get_running_loop().time() - began < FRESH_S
        assert len(answers) == 100
        assert await looks(gateway.redis) == 1


async def test_a_look_is_renewed_and_outlives_a_probe_that_gives_up(redis: Redis, settings: Settings) -> None:
    vitals = Vitals(Tracker(redis, settings), Stops(redis, settings), [IMAGE_MODEL.name])
    impatient = asyncio.create_task(vitals.latest())
    await asyncio.sleep(0)
    impatient.cancel()
    first = await vitals.latest()
    assert first is not None
    assert first is await vitals.latest()

    async def renewed() -> bool:
        return await vitals.latest() is not first

    await until(renewed)
