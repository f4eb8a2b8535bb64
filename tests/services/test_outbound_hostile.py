"""No URL that a user hands in reaches the inside: neither as an image nor as a webhook, checked at the socket.

Every attempt to connect of this process is seen; a listener inside must never be reached. Redirects and rebinding are
played by a name server of the test's own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from receiver import Receiver, receiving
from url_families import FAMILIES, GOOD, INSIDE, PLACES

from serve_app.errors import (
    ImageUrlFailed,
    ImageUrlForbidden,
    ImageUrlInvalid,
    RequestError,
    WebhookUrlForbidden,
    WebhookUrlInvalid,
)
from serve_app.images.fetch import fetch
from serve_app.outbound.url import is_public, read_url
from serve_app.settings import Settings
from serve_app.webhooks.sender import attempt, policy_of
from serve_app.webhooks.store import Claimed, Delivery, Webhook

SETTINGS = Settings()
REFUSALS = (ImageUrlForbidden, ImageUrlInvalid, WebhookUrlForbidden, WebhookUrlInvalid)
PUBLIC = "93.184.215.14"

Reach = Callable[[str, "NameServer"], Awaitable[str]]


class NameServer:
    """Answers what it is told, and keeps what it was asked."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        if not self.answers:
            raise AssertionError(f"{host} was looked up")
        return self.answers.pop(0)


@dataclass
class Wire:
    """Every connection that this process tried to open while a test ran; none of them is made."""

    tried: list[tuple[str, int]] = field(default_factory=list)


@pytest.fixture
async def inside() -> AsyncIterator[Receiver]:
    async with receiving() as one:
        yield one
        assert one.connections == 0


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    """The sockets of the event loop, which all connections go through: tells of each, and refuses it."""
    seen = Wire()

    async def refuse(loop: Any, sock: Any, address: tuple[Any, ...]) -> None:
        seen.tried.append((address[0], address[1]))
        raise ConnectionRefusedError

    monkeypatch.setattr(asyncio.selector_events.BaseSelectorEventLoop, "sock_connect", refuse)
    return seen


async def as_image(url: str, names: NameServer, settings: Settings = SETTINGS) -> str:
    """Why the image was not fetched."""
    with pytest.raises((*REFUSALS, ImageUrlFailed)) as caught:
        await fetch(url, settings, resolver=names)
    return caught.value.slug


async def as_webhook(url: str, names: NameServer, settings: Settings = SETTINGS) -> str:
    """Why the webhook was not delivered, though it had somehow been registered."""
    endpoint = Webhook("e", "ann", url, ("job.failed",), ("whsec_AAAA",), 0, None, None, "", None, 0, slow=False)
    delivery = Delivery("msg_1", "e", "job.failed", 0, "waiting", 0, "j", "FAILED", "m", ())
    done = await attempt(Claimed("t", endpoint, delivery), policy_of(settings), str, names)
    assert done.verdict == "retry"
    told = str(done.record["error"])
    refused = refusal(url, settings)
    return refused.slug if refused and refused.detail == told else told


def refusal(url: str, settings: Settings) -> RequestError | None:
    """What registering a webhook with this URL is answered; None where it passes."""
    try:
        read_url(url, policy_of(settings))
    except RequestError as error:
        return error
    return None


WAYS = pytest.mark.parametrize("reach", [as_image, as_webhook])
ALL = [(family, url) for family, urls in FAMILIES.items() for url in urls]


def test_the_suite_is_as_large_as_promised() -> None:
    assert len(FAMILIES) >= 12
    assert len({url for _, url in ALL}) == len(ALL) >= 100
    assert len(set(GOOD)) >= 20


@WAYS
@pytest.mark.parametrize(("family", "url"), ALL)
async def test_what_leads_inside_is_refused_before_any_look_up(
    reach: Reach, family: str, url: str, inside: Receiver, wire: Wire
) -> None:
    slug = await reach(url.replace("{port}", str(inside.port)), NameServer())
    assert slug.endswith("-url-forbidden" if family in PLACES else ("-url-forbidden", "-url-invalid"))
    assert wire.tried == []


@WAYS
@pytest.mark.parametrize("name", INSIDE)
async def test_names_that_lead_inside_are_refused_after_one_look_up(reach: Reach, name: str, wire: Wire) -> None:
    names = NameServer(INSIDE[name], [PUBLIC])
    told = await reach(f"https://{name}/", names)
    assert told in ("image-url-forbidden", "The webhook URL does not lead to a public address.")
    assert names.asked == [f"{name}."]
    assert wire.tried == []


@WAYS
async def test_a_name_that_turns_private_after_the_check_is_not_asked_again(reach: Reach, wire: Wire) -> None:
    """DNS rebinding: the connection goes to the number that was checked, whatever the name means by then."""
    names = NameServer([PUBLIC], ["127.0.0.1"])
    assert await reach("https://rebinding.example.org/", names) in (
        "image-url-failed",
        "The receiver could not be reached.",
    )
    assert wire.tried == [(PUBLIC, 443)]
    assert names.asked == ["rebinding.example.org."]


@WAYS
@pytest.mark.parametrize("url", GOOD)
async def test_good_urls_are_connected_to_where_their_name_leads(reach: Reach, url: str, wire: Wire) -> None:
    production = SETTINGS.model_copy(update={"environment": "prod"})
    told = await reach(url, NameServer([PUBLIC]), production)  # type: ignore[call-arg]
    assert told in ("image-url-failed", "The receiver could not be reached.")
    [(address, port)] = wire.tried
    assert is_public(address)
    assert port in (80, 443)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("way", ["image", "webhook"])
async def test_redirects_inside_are_refused(family: str, way: str, inside: Receiver) -> None:
    """An image's are checked like first URLs; a webhook's are not followed at all."""
    async with receiving() as outside:
        for number, url in enumerate(FAMILIES[family], start=1):
            target = url.replace("{port}", str(inside.port))
            if not target or any(character in target for character in "\r\n\x00\ud800"):
                target = f"http://{inside.here}/"  # what no header can carry
            answer = f"HTTP/1.1 307 Go\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n"
            outside.answers = [answer.encode()]
            hosts = {"image_url_private_hosts": (outside.here,), "webhook_private_hosts": (outside.here,)}
            settings = SETTINGS.model_copy(update=hosts)
            if way == "webhook":
                assert "redirect" in await as_webhook(outside.url, NameServer(), settings)
                assert len(outside.got) == number
            else:
                assert await redirected(outside, settings)


async def redirected(outside: Receiver, settings: Settings) -> bool:
    """Whether an image's redirect ended in a refusal, or, relative, came back to where it may.

    Joining tidies a few targets up to a public name. It is looked up, and leads inside here.
    """
    slug = await as_image(outside.url, NameServer(["10.0.0.1"]), settings)
    return slug in ("image-url-forbidden", "image-url-invalid", "image-url-failed")


def not_public() -> st.SearchStrategy[IPv4Address | IPv6Address]:
    networks = ["10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"]
    networks += [
        "224.0.0.0/4",
        "240.0.0.0/4",
        "0.0.0.0/8",
        "fc00::/7",
        "fe80::/10",
        "ff00::/8",
        "2002::/16",
        "2001::/32",
    ]
    networks += ["::/8", "64:ff9b:1::/48"]
    return (
        st.sampled_from(networks)
        .map(ip_network)
        .flatmap(
            lambda network: st.integers(int(network.network_address), int(network.broadcast_address)).map(
                lambda number: type(network.network_address)(number)
            )
        )
    )


@given(not_public())
def test_no_address_of_a_closed_network_is_public(address: IPv4Address | IPv6Address) -> None:
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return  # counts as the IPv4 address it holds: the next test
    assert not is_public(str(address))


@given(not_public().filter(lambda address: address.version == 4))
def test_nor_is_it_inside_ipv6(address: IPv4Address) -> None:
    for prefix in ("::ffff:0:0", "64:ff9b::"):
        assert not is_public(str(ip_address(int(ip_address(prefix)) + int(address))))


@given(st.text(max_size=80), st.sampled_from(["https://{}/", "https://example.org{}", "{}", "https://{}.example.org/"]))
def test_any_text_passes_or_is_refused_in_our_words(text: str, form: str) -> None:
    url = form.format(text)
    if refused := refusal(url, SETTINGS):
        assert refused.slug in ("webhook-url-invalid", "webhook-url-forbidden")
        return
    target = read_url(url, policy_of(SETTINGS))
    assert target.port in (80, 443)
    assert not target.is_address or is_public(target.host)
