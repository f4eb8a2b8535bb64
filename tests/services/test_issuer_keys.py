"""Issuer keys over real HTTP: cached, refreshed with a cool-down, kept while the issuer is away, withdrawn in time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from serve_app.errors import KeysUnavailable, TokenInvalid
from serve_app.gateway.jwks import COOL_DOWN_S, DOCUMENT_MAX_BYTES, FAILURE_COOL_DOWN_S, FRESH_S, IssuerKeys
from serve_app.local.issuer import SigningKeys


class KeyServer:
    """An issuer that counts what it is asked and can go away."""

    def __init__(self, folder: Path) -> None:
        self.signing = SigningKeys(folder)
        self.asked: list[str] = []
        self.answers: dict[str, bytes] = {}
        self.port = 0
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/default"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    def publish(self, keys: list[Any]) -> None:
        self.answers["/default/jwks"] = _answer(json.dumps({"keys": keys}).encode())

    def replace(self, key_id: str) -> None:
        """Another key under the same id."""
        self.signing.rotate()
        self.publish([{**self.signing.published()["keys"][0], "kid": key_id}])

    def document(self, path: str) -> bytes:
        if path in self.answers:
            return self.answers[path]
        found: dict[str, Any] = {
            "/default/.well-known/openid-configuration": {"issuer": self.url, "jwks_uri": f"{self.url}/jwks"},
            "/default/jwks": self.signing.published(),
        }[path]
        return _answer(json.dumps(found).encode())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        path = head.split()[1].decode()
        self.asked.append(path)
        writer.write(self.document(path))
        await writer.drain()
        writer.close()


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def issuer(tmp_path: Path) -> AsyncIterator[KeyServer]:
    server = KeyServer(tmp_path)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def keys_of(issuer: KeyServer, clock: Clock, *, plain_http: bool = True) -> IssuerKeys:
    return IssuerKeys(issuer.url, plain_http=plain_http, clock=clock)


async def test_many_first_requests_share_one_fetch_and_later_ones_make_none(issuer: KeyServer, clock: Clock) -> None:
    keys, key_id = keys_of(issuer, clock), issuer.signing.current.id
    found = await asyncio.gather(*(keys.find(key_id, "RS256") for _ in range(50)))
    assert {key.id for key in found} == {key_id}
    assert len(issuer.asked) == 2  # discovery and key set


async def test_a_flood_of_unknown_keys_asks_the_issuer_once_in_the_cool_down(issuer: KeyServer, clock: Clock) -> None:
    keys = keys_of(issuer, clock)
    await keys.find(issuer.signing.current.id, "RS256")
    issuer.asked.clear()
    for round_ in range(3):
        refusals = await asyncio.gather(
            *(keys.find(f"unknown-{round_}-{n}", "RS256") for n in range(30)), return_exceptions=True
        )
        assert {type(refusal) for refusal in refusals} == {TokenInvalid}
    assert len(issuer.asked) == 2
    clock.now += COOL_DOWN_S
    with pytest.raises(TokenInvalid):
        await keys.find("unknown", "RS256")
    assert len(issuer.asked) == 4


async def test_a_rotated_key_is_found_at_once_and_the_old_one_stays(issuer: KeyServer, clock: Clock) -> None:
    keys, old = keys_of(issuer, clock), issuer.signing.current.id
    await keys.find(old, "RS256")
    issuer.signing.rotate()
    assert (await keys.find(issuer.signing.current.id, "RS256")).id != old
    assert (await keys.find(old, "RS256")).id == old


async def test_a_withdrawn_key_is_refused_after_the_next_refresh(issuer: KeyServer, clock: Clock) -> None:
    keys, withdrawn = keys_of(issuer, clock), issuer.signing.current.id
    await keys.find(withdrawn, "RS256")
    issuer.signing.rotate()
    issuer.signing.rotate()
    await keys.find(withdrawn, "RS256")  # cached, and trusted until the refresh
    clock.now += FRESH_S
    await keys.find(withdrawn, "RS256")  # starts the refresh beside the request
    async with asyncio.timeout(5):
        while True:
            try:
                await keys.find(withdrawn, "RS256")
            except TokenInvalid:
                break
            await asyncio.sleep(0.01)


async def test_a_refresh_keeps_the_object_of_an_unchanged_key(issuer: KeyServer, clock: Clock) -> None:
    keys, key_id = keys_of(issuer, clock), issuer.signing.current.id
    before = await keys.find(key_id, "RS256")
    with pytest.raises(TokenInvalid):
        await keys.find("unknown", "RS256")  # fetches again
    assert len(issuer.asked) == 4
    assert await keys.find(key_id, "RS256") is before


async def test_a_flood_of_wrong_signatures_asks_the_issuer_once_in_the_cool_down(
    issuer: KeyServer, clock: Clock
) -> None:
    keys, key_id = keys_of(issuer, clock), issuer.signing.current.id
    key = await keys.find(key_id, "RS256")
    issuer.asked.clear()
    for _ in range(3):
        assert {*await asyncio.gather(*(keys.find_replacement(key_id, "RS256", key) for _ in range(30)))} == {None}
    assert len(issuer.asked) == 2
    clock.now += COOL_DOWN_S
    assert await keys.find_replacement(key_id, "RS256", key) is None
    assert len(issuer.asked) == 4


async def test_unknown_keys_use_up_no_question_about_a_replaced_one(issuer: KeyServer, clock: Clock) -> None:
    keys, key_id = keys_of(issuer, clock), issuer.signing.current.id
    old = await keys.find(key_id, "RS256")
    with pytest.raises(TokenInvalid):
        await keys.find("unknown", "RS256")
    issuer.replace(key_id)
    assert await keys.find_replacement(key_id, "RS256", old) is not None


async def test_a_replaced_key_is_fetched_once_for_all_who_met_the_old_one(issuer: KeyServer, clock: Clock) -> None:
    keys, key_id = keys_of(issuer, clock), issuer.signing.current.id
    old = await keys.find(key_id, "RS256")
    issuer.replace(key_id)
    issuer.asked.clear()
    found = await asyncio.gather(*(keys.find_replacement(key_id, "RS256", old) for _ in range(30)))
    found.append(await keys.find_replacement(key_id, "RS256", old))  # one who comes late
    assert len(issuer.asked) == 2
    assert {key and key.digest for key in found} == {(await keys.find(key_id, "RS256")).digest}
    assert old not in found


async def test_a_wrong_signature_while_the_issuer_is_away_is_a_wrong_signature(issuer: KeyServer, clock: Clock) -> None:
    keys, key_id = keys_of(issuer, clock), issuer.signing.current.id
    key = await keys.find(key_id, "RS256")
    await issuer.stop()
    assert await keys.find_replacement(key_id, "RS256", key) is None
    assert await keys.find(key_id, "RS256") is key
    await issuer.start()


async def test_two_keys_without_an_id_are_one_again_after_the_cool_down(issuer: KeyServer, clock: Clock) -> None:
    keys = keys_of(issuer, clock)
    issuer.signing.rotate()
    two = [{**key, "kid": None} for key in issuer.signing.published()["keys"]]
    issuer.publish(two)
    with pytest.raises(TokenInvalid, match="2 keys of its issuer fit"):
        await keys.find(None, "RS256")
    issuer.publish(two[:1])
    clock.now += COOL_DOWN_S
    assert await keys.find(None, "RS256")


async def test_a_set_without_a_usable_key_is_no_issuer_that_is_away(issuer: KeyServer, clock: Clock) -> None:
    issuer.publish([{"kty": "RSA", "x5c": ["MIIB"], "kid": "one"}, "x"])
    with pytest.raises(TokenInvalid, match="does not publish"):
        await keys_of(issuer, clock).find("one", "RS256")


async def test_last_good_keys_stay_while_the_issuer_is_away(issuer: KeyServer, clock: Clock) -> None:
    keys, key_id = keys_of(issuer, clock), issuer.signing.current.id
    await keys.find(key_id, "RS256")
    await issuer.stop()
    for _ in range(5):
        clock.now += FRESH_S
        assert (await keys.find(key_id, "RS256")).id == key_id
        with pytest.raises(KeysUnavailable):
            await keys.find("unknown", "RS256")
    await issuer.start()


async def test_a_key_made_while_the_issuer_was_away_is_found_as_soon_as_it_is_back(
    issuer: KeyServer, clock: Clock
) -> None:
    keys = keys_of(issuer, clock)
    await keys.find(issuer.signing.current.id, "RS256")
    await issuer.stop()
    issuer.signing.rotate()
    clock.now += 1
    with pytest.raises(KeysUnavailable):
        await keys.find(issuer.signing.current.id, "RS256")
    await issuer.start()
    clock.now += FAILURE_COOL_DOWN_S
    assert await keys.find(issuer.signing.current.id, "RS256")


async def test_before_the_first_key_an_issuer_that_is_away_is_asked_rarely(issuer: KeyServer, clock: Clock) -> None:
    keys, key_id = keys_of(issuer, clock), issuer.signing.current.id
    await issuer.stop()
    with pytest.raises(KeysUnavailable):
        await keys.find(key_id, "RS256")
    await issuer.start()
    with pytest.raises(KeysUnavailable):
        await keys.find(key_id, "RS256")
    assert issuer.asked == []
    clock.now += FAILURE_COOL_DOWN_S
    assert (await keys.find(key_id, "RS256")).id == key_id


def _answer(body: bytes, status: bytes = b"200 OK", more: bytes = b"") -> bytes:
    return b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\n\r\n%b" % (status, more, len(body), body)


UNREADABLE = {
    "another issuer": ("openid-configuration", _answer(b'{"issuer":"http://elsewhere","jwks_uri":"http://elsewhere"}')),
    "no key address": ("openid-configuration", _answer(b'{"issuer":"ISSUER"}')),
    "a broken address": ("openid-configuration", _answer(b'{"issuer":"ISSUER","jwks_uri":"http://[::"}')),
    "a file address": ("openid-configuration", _answer(b'{"issuer":"ISSUER","jwks_uri":"file:///etc/passwd"}')),
    "an endless document": ("jwks", _answer(b" " * (DOCUMENT_MAX_BYTES + 1))),
    "no JSON": ("jwks", _answer(b"<html>")),
    "deep JSON": ("jwks", _answer(b"[" * 200_000)),
    "a list": ("jwks", _answer(b"[]")),
    "no keys": ("jwks", _answer(b'{"keys":[]}')),
    "a redirect": ("jwks", _answer(b"", b"302 Found", b"Location: http://127.0.0.1:9/\r\n")),
    "a failure": ("jwks", _answer(b"", b"500 No")),
    "no HTTP": ("jwks", b"hello\r\n\r\n"),
}


@pytest.mark.parametrize("name", UNREADABLE)
async def test_an_unreadable_issuer_is_an_issuer_without_keys(name: str, issuer: KeyServer, clock: Clock) -> None:
    document, answer = UNREADABLE[name]
    path = {"jwks": "/default/jwks", "openid-configuration": "/default/.well-known/openid-configuration"}[document]
    body = answer.partition(b"\r\n\r\n")[2].replace(b"ISSUER", issuer.url.encode())
    issuer.answers[path] = _answer(body) if b"ISSUER" in answer else answer
    with pytest.raises(KeysUnavailable):
        await keys_of(issuer, clock).find(issuer.signing.current.id, "RS256")


async def test_plain_http_is_for_development_only(issuer: KeyServer, clock: Clock) -> None:
    with pytest.raises(KeysUnavailable):
        await keys_of(issuer, clock, plain_http=False).find(issuer.signing.current.id, "RS256")
    assert issuer.asked == []
