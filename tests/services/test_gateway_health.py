"""What probes, strangers and people with a token learn of the service's health, and what their asking costs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from gateway_parts import IMAGE_MODEL, Answering, Running, running_gateway, service_of, until
from pydantic import SecretStr
from redis.asyncio import Redis
from starlette.applications import Starlette

from serve_app.app import Gateway
from serve_app.errors import ReplicaLost
from serve_app.gateway import app as application
from serve_app.gateway import supervisor
from serve_app.gateway.background.status_cache import FRESH_S, StatusCache
from serve_app.gateway.background.throughput import Throughputs
from serve_app.gateway.background.url_fetcher import UrlFetcher
from serve_app.gateway.observability import BreakerMeter
from serve_app.gateway.supervisor import ShutdownSignal
from serve_app.jobs.dispatcher import Dispatcher
from serve_app.jobs.store import JobStore
from serve_app.local.issuer import DevIssuerServer
from serve_app.models.registry import ModelConfig, card
from serve_app.settings import Settings
from serve_app.usage.writer import Writer
from serve_app.webhooks.sender import Sender

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
    settings: Settings, authority: DevIssuerServer
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
    settings: Settings, authority: DevIssuerServer
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
    settings: Settings, authority: DevIssuerServer, folder: Path
) -> None:
    nowhere = SecretStr(f"postgresql:///app?host={folder}")
    async with running_gateway(settings, authority, cards=(IMAGE_MODEL,), database_url=nowhere) as gateway:
        await gateway.beat()

        async def told() -> bool:
            shown = (await gateway.client.get("/readyz?verbose")).json()
            return bool(shown["usage"] == "PostgreSQL cannot be reached or refuses" and shown["status"] == "ready")

        await until(told)
        assert [await status(gateway, path) for path in ("/readyz", "/healthz", "/health", "/livez")] == [200] * 4


async def looks(redis: Redis) -> int:
    """How often anybody asked for the backlog of the one model and for what is stopped."""
    stats = await redis.info("commandstats")
    return int(stats.get("cmdstat_hgetall", {"calls": 0})["calls"]) // 2


@pytest.mark.gateway(cards=(IMAGE_MODEL,))
async def test_many_probes_are_one_look_at_redis(gateway: Running) -> None:
    await gateway.ended(await gateway.submit())  # by then the gauges, too, have had their first look
    await gateway.redis.config_resetstat()
    paths = ("/readyz", "/healthz", "/health", "/readyz?verbose") * 25
    began = asyncio.get_running_loop().time()
    answers = await asyncio.gather(*map(gateway.client.get, paths))
    seconds = asyncio.get_running_loop().time() - began
    assert len(answers) == 100
    assert 1 <= await looks(gateway.redis) <= 1 + seconds // FRESH_S


async def test_a_look_is_renewed_and_outlives_a_probe_that_gives_up(redis: Redis, settings: Settings) -> None:
    vitals = StatusCache(JobStore(redis, settings), [IMAGE_MODEL.name])
    impatient = asyncio.create_task(vitals.latest())
    await asyncio.sleep(0)
    impatient.cancel()
    first = await vitals.latest()
    assert first is not None
    assert first is await vitals.latest()
    await until(lambda: vitals.latest(), fits=lambda found: found is not first)


BACKGROUND = {
    *("Dispatcher sem-classifier", "Dispatcher words", "Writer", "Sender", "BreakerMeter", "Rates", "Departure"),
    *("Fetcher", "Leaving"),
}


async def test_every_background_task_of_a_gateway_is_begun_again_when_it_ends(
    settings: Settings, authority: DevIssuerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each fails once at its start: the gateway works, and its replicas leave as if nothing had been."""
    monkeypatch.setattr(supervisor, "FIRST_PAUSE_S", 0.001)
    failed: list[object] = []

    def fails_once(run: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
        async def run_later(self: Any) -> None:
            if self not in failed:
                failed.append(self)
                raise ValueError("a defect")
            await run(self)

        return run_later

    for kind in (Dispatcher, Writer, Sender, BreakerMeter, Throughputs, ShutdownSignal, UrlFetcher):
        monkeypatch.setattr(kind, "run", fails_once(kind.run))
    monkeypatch.setattr(application, "_stop_claiming", fails_once(application._stop_claiming))
    async with running_gateway(settings, authority) as gateway:
        assert (await gateway.ended(await gateway.submit()))["status"] == "COMPLETED"
        assert len(failed) == len(BACKGROUND)
        document = (await gateway.client.get("/readyz?verbose")).json()
        assert document["background"] == dict.fromkeys(BACKGROUND, "ready")
        service_of(gateway).shutdown.set()
        await until(
            lambda: all(dispatcher._closing.is_set() for dispatcher in service_of(gateway).dispatchers.values())
        )


async def test_a_task_that_cannot_be_kept_up_is_named_by_readyz_and_fails_the_replica(
    settings: Settings, authority: DevIssuerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_: Throughputs) -> None:
        raise ValueError(SECRET)

    monkeypatch.setattr(supervisor, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(Throughputs, "run", broken)
    async with running_gateway(settings, authority) as gateway:

        async def failing() -> bool:
            answer = await gateway.client.get("/readyz?verbose")
            return answer.status_code == 503 and answer.json()["background"]["Rates"] == "failing"

        await until(failing)
        assert SECRET not in (await gateway.client.get("/readyz?verbose")).text
        known = (await gateway.get("/readyz?verbose")).json()["background"]
        assert known["Rates"] == f"failing: ValueError({SECRET!r})"
        assert {name for name, state in known.items() if state == "ready"} == BACKGROUND - {"Rates"}
        with pytest.raises(ReplicaLost, match="Rates"):
            await check_health(gateway.application)


async def test_a_gateway_whose_background_is_kept_up_is_healthy(settings: Settings, authority: DevIssuerServer) -> None:
    await check_health(None)  # Serve may ask before the application is made
    async with running_gateway(settings, authority) as gateway:
        await check_health(gateway.application)


async def check_health(application: Starlette | None) -> None:
    """As Serve asks the replica that has this application."""
    await cast(Any, Gateway).func_or_class.check_health(SimpleNamespace(_application=application))
