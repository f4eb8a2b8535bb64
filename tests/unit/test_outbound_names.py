"""Names are looked up so that they tell nothing of the inside, and one that hangs keeps nobody else waiting."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

import httpx2
import pytest

from serve_app.errors import ImageUrlFailed, ImageUrlForbidden
from serve_app.images.fetch import ASK, fetch
from serve_app.outbound.connect import LOOKUPS_AT_ONCE, exchange
from serve_app.outbound.url import read_url
from serve_app.settings import Settings
from serve_app.webhooks.sender import policy_of

SETTINGS = Settings()


async def test_an_unknown_name_and_a_private_one_get_the_same_answer() -> None:
    async def unknown(host: str, port: int) -> list[str]:
        raise OSError("Name or service not known")

    async def private(host: str, port: int) -> list[str]:
        return ["10.1.2.3"]

    answers = []
    for resolver in (unknown, private):
        with pytest.raises(ImageUrlForbidden) as caught:
            await fetch("http://db.facility.example.org/", SETTINGS, resolver=resolver)
        answers.append(caught.value.detail)
    assert answers == ["The image URL does not lead to a public address."] * 2


async def test_names_are_looked_up_without_the_search_domains() -> None:
    asked = []

    async def resolver(host: str, port: int) -> list[str]:
        asked.append((host, port))
        return []

    for url in ("https://Images.Example.org/a", "http://bücher.example/"):
        with pytest.raises(ImageUrlForbidden):
            await fetch(url, SETTINGS, resolver=resolver)
    assert asked == [("images.example.org.", 443), ("xn--bcher-kva.example.", 80)]


async def test_a_hung_look_up_ends_at_the_deadline() -> None:
    async def hung(host: str, port: int) -> list[str]:
        await asyncio.Event().wait()
        return []

    with pytest.raises(ImageUrlFailed, match=r"within 0\.05 seconds"):
        await fetch("http://images.example.org/", SETTINGS, resolver=hung, deadline_s=0.05)


async def test_hung_look_ups_of_webhooks_keep_no_image_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that hangs holds the thread, whatever deadline its caller had."""
    answered, hung = threading.Event(), threading.Semaphore(0)

    def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        if host.startswith("hung"):
            hung.release()
            answered.wait(30)
        return [(None, None, None, "", ("10.0.0.1", port))]

    async def nothing_to_read(response: httpx2.Response) -> None:
        raise AssertionError

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    webhooks = read_url("http://hung.example.org/", policy_of(SETTINGS))
    asks = [asyncio.create_task(exchange(webhooks, ASK, nothing_to_read)) for _ in range(2 * LOOKUPS_AT_ONCE)]
    try:
        async with asyncio.timeout(10):
            for _ in range(LOOKUPS_AT_ONCE):
                assert await asyncio.to_thread(hung.acquire, timeout=10)
            with pytest.raises(ImageUrlForbidden):
                await fetch("http://images.example.org/", SETTINGS)
    finally:
        answered.set()
        await asyncio.gather(*asks, return_exceptions=True)
