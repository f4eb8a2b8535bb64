"""image_url: a slow server, a name that does not resolve and a large image are trouble of the user who names them."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from gateway_parts import PICTURE, listening, running_gateway, service_of, until
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from serve_app.errors import ImageUrlForbidden, StoreFull
from serve_app.gateway.background.url_fetcher import AT_ONCE_PER_USER
from serve_app.gateway.uploads import FETCHES_MAX_PER_USER
from serve_app.images.fetch import fetch
from serve_app.local.issuer import DevIssuerServer
from serve_app.outbound import connect
from serve_app.settings import MIB, Settings

RATES = {"rate_submits_per_s": 10_000.0, "rate_house_submits_per_s": 10_000.0}


class Web:
    """A server that answers /good at once, /hung when it is let, and /large piece by piece."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.hanging: Counter[str] = Counter()
        self.url = ""

    @property
    def host(self) -> str:
        return self.url.removeprefix("http://")

    async def hung(self, request: Request) -> Response:
        who = request.path_params["who"]
        self.hanging[who] += 1
        await self.go_on.wait()
        return Response(PICTURE, media_type="image/png")

    async def good(self, request: Request) -> Response:
        return Response(PICTURE, media_type="image/png")

    async def large(self, request: Request) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(40):
                yield bytes(MIB // 2)

        return StreamingResponse(pieces(), media_type="image/png")


@asynccontextmanager
async def web() -> AsyncIterator[Web]:
    served = Web()
    routes = [Route("/hung/{who}", served.hung), Route("/good", served.good), Route("/large", served.large)]
    async with listening(Starlette(routes=routes)) as served.url:
        try:
            yield served
        finally:
            served.go_on.set()


async def test_one_slow_server_holds_back_its_user_alone(settings: Settings, authority: DevIssuerServer) -> None:
    async with (
        web() as server,
        running_gateway(settings, authority, image_url_private_hosts=(server.host,), **RATES) as gateway,
    ):
        hung = {"image_url": f"{server.url}/hung/ada"}
        asks = [asyncio.create_task(gateway.post("/api/v1/jobs", "ada", json=hung)) for _ in range(20)]
        await until(lambda: server.hanging["ada"] == FETCHES_MAX_PER_USER)
        begun = time.monotonic()
        for user in ("bob", "eve"):
            answer = await gateway.post("/api/v1/jobs", user, json={"image_url": f"{server.url}/good"})
            assert answer.status_code == 202, answer.text
        assert time.monotonic() - begun < 3
        assert server.hanging["ada"] == FETCHES_MAX_PER_USER
        assert service_of(gateway).budget.held == 0  # nothing has come, so nothing is held
        server.go_on.set()
        assert {answer.status_code for answer in await asyncio.gather(*asks)} == {202}


async def test_a_batch_of_slow_urls_holds_back_its_user_alone(settings: Settings, authority: DevIssuerServer) -> None:
    async with (
        web() as server,
        running_gateway(settings, authority, image_url_private_hosts=(server.host,), **RATES) as gateway,
    ):
        slow = {"items": [{"image_url": f"{server.url}/hung/ada"} for _ in range(40)]}
        assert (await gateway.post("/api/v1/batches", "ada", json=slow)).status_code == 202
        await until(lambda: server.hanging["ada"] == AT_ONCE_PER_USER)
        good = {"items": [{"image_url": f"{server.url}/good"} for _ in range(40)]}
        batch_id = (await gateway.post("/api/v1/batches", "bob", json=good)).json()["batch_id"]

        async def fetched() -> bool:
            counts = (await gateway.get(f"/api/v1/batches/{batch_id}", "bob")).json()["counts"]
            return bool(counts["fetching"] == 0)

        begun = time.monotonic()
        await until(fetched)
        assert time.monotonic() - begun < 5
        assert server.hanging["ada"] == AT_ONCE_PER_USER


async def test_fetched_bytes_count_while_they_arrive_and_are_in_memory_once() -> None:
    async with web() as server:
        settings, seen = Settings(image_url_private_hosts=(server.host,)), []
        tracemalloc.start()
        try:
            data = await fetch(f"{server.url}/large", settings, arrived=seen.append)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert len(data) == 20 * MIB
        assert seen == sorted(seen)
        assert (len(seen) > 20, seen[-1]) == (True, 20 * MIB)
        assert peak < 1.6 * len(data)  # a second copy would make it two; a buffer that grows has room to spare

        def full(total: int) -> None:
            if total > 2 * MIB:
                raise StoreFull("There is no room.")

        with pytest.raises(StoreFull):
            await fetch(f"{server.url}/large", settings, arrived=full)


async def test_names_that_hang_hold_the_look_ups_of_their_user_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the requests that asked for them are over: the thread goes on until the resolver gives up."""
    answered, looked, count = threading.Event(), threading.Lock(), Counter[str]()

    def getaddrinfo(host: str, *_: Any, **__: Any) -> list[Any]:
        with looked:
            count[host] += 1
        if host.startswith("hung"):
            answered.wait(30)
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    async def ask(host: str, owner: str, deadline_s: float) -> None:
        await fetch(f"http://{host}/", Settings(), owner=owner, deadline_s=deadline_s)

    try:
        first = [asyncio.create_task(ask("hung.example.org", "ada", 0.3)) for _ in range(2 * connect.LOOKUPS_AT_ONCE)]
        await asyncio.gather(*first, return_exceptions=True)
        await asyncio.gather(*(ask("hung.example.org", "ada", 0.1) for _ in range(10)), return_exceptions=True)
        assert count["hung.example.org."] == connect.LOOKUPS_PER_OWNER
        with pytest.raises(ImageUrlForbidden):
            await ask("images.example.org", "bob", 5)
        assert count["images.example.org."] == 1
    finally:
        answered.set()

    async def free_again() -> bool:
        with pytest.raises(ImageUrlForbidden):
            await ask("other.example.org", "ada", 5)
        return True

    assert await free_again()
