"""Which values of the header Idempotency-Key are keys, and which of them are the same one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request

from serve_app.errors import IdempotencyKeyInvalid
from serve_app.gateway.idempotency import identify, read_key

UUID = "8e03978e-40d5-43e8-bc93-6894a57f9324"


def call(*values: str, user: str = "ada", path: str = "/api/v1/jobs") -> Any:
    headers = [(b"idempotency-key", value.encode("latin-1")) for value in values]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
    return SimpleNamespace(request=Request(scope), caller=SimpleNamespace(id=user))


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (UUID, UUID),
        (f'"{UUID}"', UUID),
        (f'  "{UUID}"\t', UUID),
        ('"two words; and, more"', "two words; and, more"),
        (r'"a \"quote\" and \\"', 'a "quote" and \\'),
        ("YWJj/+==", "YWJj/+=="),
        ("x" * 255, "x" * 255),
        ('"' + "x" * 255 + '"', "x" * 255),
    ],
)
def test_a_text_in_quotes_and_a_bare_word_are_keys(value: str, key: str) -> None:
    assert read_key(call(value).request) == key


@pytest.mark.parametrize(
    "value",
    [
        *("", " ", '""', "two words", '"open', 'open"', '"a"b', r'"a\b"', '"a";x=1', "a,b", "é", '"é"'),
        *("x" * 256, '"' + "x" * 256 + '"', '"a\x7fb"', "(1 2)"),
    ],
)
def test_nothing_else_is(value: str) -> None:
    with pytest.raises(IdempotencyKeyInvalid):
        read_key(call(value).request)


def test_one_key_or_none() -> None:
    assert read_key(call().request) is None
    with pytest.raises(IdempotencyKeyInvalid):
        read_key(call("a", "a").request)


async def test_a_key_is_its_users_and_its_routes_and_the_fingerprint_is_of_all_that_is_asked() -> None:
    asked = {"model": "m", "params": {"a": 1, "b": 2}}
    first = await identify(call(), UUID, asked, b"image")
    assert await identify(call(), UUID, {"params": {"b": 2, "a": 1}, "model": "m"}, b"image") == first
    names = {first.hash} | {
        (await identify(one, key, asked, b"image")).hash
        for one, key in ((call(user="bob"), UUID), (call(path="/api/v1/inference"), UUID), (call(), "other"))
    }
    assert len(names) == 4
    others = [
        ({**asked, "model": "n"}, b"image"),
        ({**asked, "params": {}}, b"image"),
        (asked, b"Image"),
        (asked, None),
    ]
    fingerprints = {(await identify(call(), UUID, *other)).fingerprint for other in others}
    assert len({*fingerprints, first.fingerprint}) == 5
    large = b"x" * 2**20
    assert await identify(call(), UUID, asked, large) == await identify(call(), UUID, asked, bytes(large))
    assert (await identify(call(), UUID, asked, large)).fingerprint not in fingerprints
