"""A gateway is killed while it fetches the images of a batch: others go on, and every item ends once."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from gateway_parts import IMAGE_MODEL, PICTURE, Running, listening, running_gateway, until
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serve_app.contracts import Json
from serve_app.gateway.background import url_fetcher
from serve_app.local.issuer import DevIssuerServer
from serve_app.settings import Settings

ITEMS = 30
ROOT = str(Path(__file__).parents[2])
RATES: dict[str, Any] = {"rate_submits_per_s": 1000.0, "rate_reads_per_s": 10_000.0, "rate_house_reads_per_s": 10_000.0}


class Web:
    """Pictures that are given when they may be; who asked for what is counted."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.open = asyncio.Event()
        self.given = 0

    async def picture(self, request: Request) -> Response:
        self.asked[request.path_params["name"]] += 1
        if len(self.asked) > ITEMS // 2:  # the first half at once, the others hang
            await self.open.wait()
        self.given += 1
        return Response(PICTURE, media_type="image/png")


@asynccontextmanager
async def serving(web: Web) -> AsyncIterator[str]:
    async with listening(Starlette(routes=[Route("/{name}", web.picture)])) as url:
        yield url
        web.open.set()


async def counts(gateway: Running, batch_id: str) -> Json:
    return dict((await gateway.get(f"/api/v1/batches/{batch_id}")).json()["counts"])


@pytest.mark.fault(reason="a gateway in a process of its own")
async def test_a_killed_gateway_leaves_its_items_to_others(
    settings: Settings, authority: DevIssuerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    web = Web()
    async with serving(web) as url:
        host = url.removeprefix("http://")
        monkeypatch.setattr(url_fetcher, "AT_ONCE", 0)  # this one accepts only
        async with running_gateway(settings, authority, image_url_private_hosts=(host,), **RATES) as first:
            items = [{"image_url": f"{url}/{place}"} for place in range(ITEMS)]
            batch_id = (await first.post("/api/v1/batches", json={"items": items})).json()["batch_id"]
            command = [sys.executable, str(Path(__file__).with_name("gateway_process.py"))]
            command += [settings.redis_url.get_secret_value(), authority.url, host]
            killed = await asyncio.to_thread(subprocess.Popen, command, env={**os.environ, "PYTHONPATH": ROOT})
            try:

                async def hangs() -> bool:
                    fetching = int(await first.redis.zcard("fetching"))
                    return fetching == 4 and web.given == ITEMS // 2

                await until(hangs, 60)
            finally:
                killed.kill()
                await asyncio.to_thread(killed.wait)
            left = await counts(first, batch_id)
            assert 4 <= left["fetching"] < ITEMS
        web.open.set()
        monkeypatch.setattr(url_fetcher, "AT_ONCE", 4)
        async with running_gateway(settings, authority, image_url_private_hosts=(host,), **RATES) as second:
            await until(lambda: counts(second, batch_id), 60, fits=lambda found: found["completed"] == ITEMS)
            ledger = await second.redis.hgetall(f"ledger:{IMAGE_MODEL.name}")
            assert (ledger[b"accepted"], ledger[b"completed"]) == (b"%d" % ITEMS, b"%d" % ITEMS)
            assert await second.redis.get("fetches") == b"0"
            assert await second.redis.zcard("fetching") == 0
