"""Every spelling of a place that is not the public Internet is refused before anything is looked up or connected to."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

import httpx2
import pytest

from serve_app.errors import ImageUrlFailed, ImageUrlForbidden, ImageUrlInvalid
from serve_app.images.fetch import ASK, fetch
from serve_app.outbound.address import is_public
from serve_app.outbound.connect import LOOKUPS_AT_ONCE, exchange
from serve_app.outbound.url import read_url
from serve_app.settings import Settings
from serve_app.webhooks.attempt import policy_of

SETTINGS = Settings()

FORBIDDEN = [
    "http://127.0.0.1/",
    "http://127.0.0.2/",
    "http://127.255.255.254/",
    "http://0.0.0.0/",
    "http://0.1.2.3/",
    "http://10.0.0.1/",
    "http://10.255.255.255/",
    "http://172.16.0.1/",
    "http://172.31.255.255/",
    "http://192.168.0.1/",
    "http://192.168.255.255/",
    "http://169.254.169.254/latest/meta-data/",
    "http://169.254.0.1/",
    "http://100.64.0.1/",
    "http://100.100.100.200/",
    "http://100.127.255.255/",
    "http://192.0.0.1/",
    "http://192.0.0.192/",
    "http://192.0.2.1/",
    "http://198.51.100.1/",
    "http://203.0.113.1/",
    "http://198.18.0.1/",
    "http://198.19.255.255/",
    "http://192.88.99.1/",
    "http://168.63.129.16/",
    "http://224.0.0.1/",
    "http://239.255.255.250/",
    "http://240.0.0.1/",
    "http://255.255.255.255/",
    "http://[::]/",
    "http://[::1]/",
    "http://[0:0:0:0:0:0:0:1]/",
    "http://[fe80::1]/",
    "http://[fc00::1]/",
    "http://[fd00:ec2::254]/",
    "http://[fec0::1]/",
    "http://[ff02::1]/",
    "http://[ff0e::1]/",
    "http://[100::1]/",
    "http://[2001:db8::1]/",
    "http://[3fff::1]/",
    "http://[2001::1]/",
    "http://[2001:0:a9fe:a9fe::1]/",
    "http://[2001:10::1]/",
    "http://[2001:20::1]/",
    "http://[2002:a9fe:a9fe::]/",
    "http://[2002:7f00:1::]/",
    "http://[2002:808:808::1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:169.254.169.254]/",
    "http://[::ffff:7f00:1]/",
    "http://[::ffff:0:127.0.0.1]/",
    "http://[::127.0.0.1]/",
    "http://[::a9fe:a9fe]/",
    "http://[::8.8.8.8]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[64:ff9b::169.254.169.254]/",
    "http://[64:ff9b::10.0.0.1]/",
    "http://[64:ff9b:1::1]/",
    "http://[64:ff9b:1::808:808]/",
    "http://[5f00::1]/",
    "http://[4000::1]/",
    "http://localhost/",
    "http://LOCALHOST/",
    "http://localhost./",
    "http://a.localhost/",
    "http://redis/",
    "http://redis-0.redis.svc/",
    "http://postgres.default.svc.cluster.local/",
    "http://metadata.google.internal/",
    "http://printer.local/",
    "http://router.lan/",
    "http://nas.home.arpa/",
    "http://host.docker.internal/",
    "http://kubernetes.default.svc/",
    "http://x.corp/",
    "http://8.8.8.8:22/",
    "http://8.8.8.8:6379/",
    "http://example.org:8080/",
    "https://example.org:8443/",
    "http://[2620:fe::fe]:25/",
]

INVALID = [
    "ftp://example.org/a.png",
    "file:///etc/passwd",
    "gopher://example.org/",
    "dict://example.org:11211/",
    "data:image/png;base64,AAAA",
    "jar:http://example.org/",
    "//example.org/a.png",
    "example.org/a.png",
    "/etc/passwd",
    "http:///",
    "http://",
    "https://?a",
    "http:example.org",
    "http://user@example.org/",
    "http://user:password@example.org/",
    "http://@example.org/",
    "http://example.org@127.0.0.1/",
    "http://127.0.0.1@example.org/",
    "http://%31@example.org/",
    "http://127.1/",
    "http://127.0.1/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0x7f.1/",
    "http://0177.0.0.1/",
    "http://017700000001/",
    "http://0x7f.0x0.0x0.0x1/",
    "http://127.0.0.1.1/",
    "http://169.254.43518/",
    "http://1.2.3.256/",
    "http://[::1",
    "http://[::1%25eth0]/",
    "http://[fe80::1%25lo]/",
    "http://example.org:99999/",
    "http://example.org:x/",
    "http://exa_mple\\@127.0.0.1/",
    "http://example.org\\.local/",
]

WRITTEN_ODDLY = [
    "",
    " http://example.org/",
    "http://example.org/\n",
    "http://exam\tple.org/",
    "http://example.org/\x00",
    "http://127.0.0.1\r\nHost: x/",
    "http://" + "a" * 3000 + ".org/",
    "http://" + "a" * 70 + ".org/",
    "http://１２７.0.0.1/",
    "http://①②⑦.⓪.⓪.①/",
    "http://127。0。0。1/",
    "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/",
    "http://127%2e0%2e0%2e1/",
    "http://%6c%6f%63%61%6c%68%6f%73%74/",
    "http://\ud800.org/",
]


async def unused(host: str, port: int) -> list[str]:
    raise AssertionError(f"{host} was looked up")


def test_the_matrix_is_as_large_as_promised() -> None:
    assert len(FORBIDDEN) + len(INVALID) + len(WRITTEN_ODDLY) >= 120


@pytest.mark.parametrize("url", FORBIDDEN)
async def test_places_inside_are_refused_without_a_look_up(url: str) -> None:
    with pytest.raises(ImageUrlForbidden):
        await fetch(url, SETTINGS, resolver=unused)


@pytest.mark.parametrize("url", [*INVALID, *WRITTEN_ODDLY])
async def test_what_is_no_plain_web_address_is_refused_without_a_look_up(url: str) -> None:
    with pytest.raises((ImageUrlInvalid, ImageUrlForbidden)):
        await fetch(url, SETTINGS, resolver=unused)


@pytest.mark.parametrize(
    "found",
    [
        ["10.0.0.1"],
        ["93.184.215.14", "127.0.0.1"],
        ["2606:4700::1111", "::1"],
        ["::ffff:10.0.0.1"],
        ["fe80::1%eth0"],
        ["not an address"],
        [],
    ],
)
async def test_a_name_is_refused_by_any_address_of_it(found: list[str]) -> None:
    async def resolver(host: str, port: int) -> list[str]:
        return found

    with pytest.raises(ImageUrlForbidden) as caught:
        await fetch("http://images.example.org/a.png", SETTINGS, resolver=resolver)
    assert caught.value.detail == "The image URL does not lead to a public address."


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
    assert answers[0] == answers[1]


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


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "93.184.215.14", "2606:4700:4700::1111", "2a00:1450::1", "::ffff:8.8.8.8", "64:ff9b::808:808"],
)
def test_public_addresses_pass(address: str) -> None:
    assert is_public(address)
