"""Tokens as the issuers of research facilities make them get in, and their tokens for something else do not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from gateway_parts import AUDIENCE, Running, running_gateway
from issuer_families import ACCEPTED, REFUSED, FakeIssuer, issuers, new_key, published
from jwt.utils import base64url_decode, base64url_encode

from serve_app.local.issuer import DevIssuerServer
from serve_app.settings import TOKEN_ALGORITHMS, IssuerRule, Settings

PATH = "/api/v1/models"
RULES = {
    "authentik-own": IssuerRule(access_token_claim="uid"),
    "entra-own/v2.0": IssuerRule(access_token_claim="azp"),
    "dex-single": IssuerRule(access_token_claim="at_hash"),
    "google": IssuerRule(accept="id_token", audience=("1234.apps.googleusercontent.com",)),
    "orcid": IssuerRule(accept="id_token", audience=("APP-0123456789ABCDEF",)),
}
FAMILIES = sorted({name for name, _, _ in [*ACCEPTED.values(), *REFUSED.values()]})
KINDS: dict[str, dict[str, Any]] = {
    "alg null": {"members": {"alg": None}},
    "use null": {"members": {"use": None}},
    "all optional members null": {"members": dict.fromkeys(("alg", "use", "key_ops", "x5u", "x5c", "x5t"))},
    "a certificate beside the key": {"members": {"x5c": ["MIIBjunk"], "x5t": "junk"}},
    "no id, one key": {"kid": None, "members": {}},
    "no id in the token alone": {"kid": None, "members": {"kid": "key-1"}},
    "the same key twice": {"kid": None, "members": {}, "more": ["ITSELF"]},
    "beside keys that cannot be read": {
        "more": [
            7,
            None,
            {"kty": "oct", "k": "c2VjcmV0", "kid": "key-1"},
            {"kty": "RSA", "x5c": ["MIIB"], "kid": "old"},
            {"kty": "AKP", "alg": "ML-DSA-44", "kid": "new"},
            {"kty": "EC", "crv": "P-256", "x": 1, "y": 2, "kid": "odd"},
        ]
    },
    "Ed25519 by its new name in the key": {"algorithm": "EdDSA", "members": {"alg": "Ed25519", "use": "sig"}},
    "Ed25519 by its old name in the key": {"algorithm": "Ed25519", "members": {"alg": "EdDSA"}},
    "no id beside a key of another type": {"kid": None, "members": {}, "more": ["P-256"]},
}


@pytest.fixture
async def field(settings: Settings, authority: DevIssuerServer) -> AsyncIterator[tuple[Running, dict[str, FakeIssuer]]]:
    """One gateway that accepts an issuer of every family."""
    found = {name: FakeIssuer() for name in FAMILIES}
    async with issuers(found):
        urls = tuple(issuer.url for issuer in found.values())
        rules = {found[name].url: rule for name, rule in RULES.items()}
        audiences = (AUDIENCE, f"api://{AUDIENCE}")
        changes = {"oidc_issuers": urls, "oidc_issuer_rules": rules, "oidc_audience": audiences}
        async with running_gateway(settings, authority, **changes) as running:
            yield running, found


async def ask(running: Running, token: str) -> tuple[int, str]:
    answer = await running.client.get(PATH, headers={"Authorization": f"Bearer {token}"})
    return answer.status_code, answer.text


async def test_what_the_families_issue_for_this_service_is_accepted(
    field: tuple[Running, dict[str, FakeIssuer]],
) -> None:
    running, found = field
    refused = {}
    for name, (issuer, claims, header) in ACCEPTED.items():
        status, text = await ask(running, found[issuer].mint(claims, header))
        if status != 200:
            refused[name] = text
    assert refused == {}


async def test_what_the_families_issue_for_something_else_is_refused(
    field: tuple[Running, dict[str, FakeIssuer]],
) -> None:
    running, found = field
    let_in = {}
    for name, (issuer, claims, header) in REFUSED.items():
        status, text = await ask(running, found[issuer].mint(claims, header))
        if status != 401:
            let_in[name] = text
    assert let_in == {}


@pytest.mark.parametrize("token", ["ya29.a0AfH6SMBx-opaque", "f5af9f51-07e6-4332-8f1a-c0c11c1e3728"])
async def test_an_opaque_token_is_refused_with_words(token: str, field: tuple[Running, dict[str, FakeIssuer]]) -> None:
    status, text = await ask(field[0], token)
    assert (status, "not a signed JSON Web Token" in text) == (401, True)


def issuer_of(kind: dict[str, Any]) -> FakeIssuer:
    issuer = FakeIssuer(**kind)
    if issuer.algorithm != "RS256":
        issuer.key = new_key(issuer.algorithm)
    named = {"ITSELF": lambda: issuer.key, "P-256": lambda: new_key("ES256"), "RSA": lambda: new_key("RS256")}
    kid = {"kid": issuer.kid} if issuer.kid else {}
    issuer.more = [{**published(named[entry]()), **kid} if isinstance(entry, str) else entry for entry in issuer.more]
    return issuer


async def test_every_way_to_publish_and_to_use_a_key_is_accepted(
    settings: Settings, authority: DevIssuerServer
) -> None:
    found = {name.replace(" ", "-"): issuer_of(kind) for name, kind in KINDS.items()}
    found |= {algorithm: FakeIssuer(algorithm=algorithm, key=new_key(algorithm)) for algorithm in TOKEN_ALGORITHMS}
    refused = {}
    async with (
        issuers(found),
        running_gateway(settings, authority, oidc_issuers=tuple(issuer.url for issuer in found.values())) as running,
    ):
        for name, issuer in found.items():
            status, text = await ask(running, issuer.mint({"aud": AUDIENCE}))
            if status != 200:
                refused[name] = text
    assert refused == {}


async def test_a_signature_of_any_shape_but_the_right_one_is_refused_under_every_algorithm(
    settings: Settings, authority: DevIssuerServer
) -> None:
    found = {algorithm: FakeIssuer(algorithm=algorithm, key=new_key(algorithm)) for algorithm in TOKEN_ALGORITHMS}
    let_in = []
    async with (
        issuers(found),
        running_gateway(settings, authority, oidc_issuers=tuple(issuer.url for issuer in found.values())) as running,
    ):
        for algorithm, issuer in found.items():
            signed, _, signature = issuer.mint({"aud": AUDIENCE}).rpartition(".")
            right = base64url_decode(signature.encode())
            wrong = (b"", b"x", bytes(len(right)), right[:-1], right + b"\0", right[::-1], b"\xff" * len(right))
            for forged in wrong:
                status, text = await ask(running, f"{signed}.{base64url_encode(forged).decode()}")
                if status != 401:
                    let_in.append(f"{algorithm} {forged[:8]!r} {status} {text}")
    assert let_in == []


UNSURE: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "two keys fit a token without an id": ({"more": ["RSA"]}, {"kid": None}, "2 keys of its issuer fit"),
    "two keys without ids fit": ({"kid": None, "members": {}, "more": ["RSA"]}, {}, "2 keys of its issuer fit"),
    "the key has no id and the token names one": ({"kid": None, "members": {}}, {"kid": "other"}, "not publish"),
    "two keys of one id fit": ({"more": ["RSA"]}, {}, "2 keys of its issuer fit"),
    "no key can be read": ({"members": {"use": "enc"}}, {}, "not publish"),
    "its key is for another algorithm": ({"algorithm": "PS256", "members": {"alg": "RS256"}}, {}, "not publish"),
    "its algorithm is switched off": ({"algorithm": "RS384"}, {}, "use one of RS256, PS256"),
}


async def test_a_token_whose_key_is_unsure_is_refused_and_its_issuer_is_not_away(
    settings: Settings, authority: DevIssuerServer
) -> None:
    found = {name.replace(" ", "-"): issuer_of(kind) for name, (kind, _, _) in UNSURE.items()}
    async with issuers(found):
        urls = tuple(issuer.url for issuer in found.values())
        changes: dict[str, Any] = {"oidc_issuers": urls, "oidc_algorithms": ("RS256", "PS256")}
        async with running_gateway(settings, authority, **changes) as running:
            for issuer, (_, header, words) in zip(found.values(), UNSURE.values(), strict=True):
                status, text = await ask(running, issuer.mint({"aud": AUDIENCE}, header))
                assert (status, words in text) == (401, True), text


async def test_a_key_replaced_under_its_old_id_works_at_once_and_the_old_one_no_more(
    settings: Settings, authority: DevIssuerServer
) -> None:
    found = {
        "same": FakeIssuer(key=new_key("RS256")),
        "none": FakeIssuer(key=new_key("RS256"), kid=None, members={}),
    }
    async with (
        issuers(found),
        running_gateway(settings, authority, oidc_issuers=tuple(issuer.url for issuer in found.values())) as running,
    ):
        for issuer in found.values():
            of_rsa = issuer.mint({"aud": AUDIENCE})
            assert (await ask(running, of_rsa))[0] == 200  # and its verdict is remembered
            issuer.algorithm, issuer.key = "ES256", new_key("ES256")
            of_curve = issuer.mint({"aud": AUDIENCE})
            assert (await ask(running, of_curve))[0] == 200  # a key of another type
            assert (await ask(running, of_rsa))[0] == 401
            issuer.key = new_key("ES256")
            assert (await ask(running, issuer.mint({"aud": AUDIENCE})))[0] == 200  # a key of the same type
            assert (await ask(running, of_curve))[0] == 401
            assert issuer.asked == 5
            issuer.key = new_key("ES256")
            assert (await ask(running, issuer.mint({"aud": AUDIENCE})))[0] == 401  # within the cool-down
            assert issuer.asked == 5


async def test_tokens_with_wrong_signatures_ask_the_issuer_once(settings: Settings, authority: DevIssuerServer) -> None:
    issuer, forger = FakeIssuer(), FakeIssuer(key=new_key("RS256"))
    async with issuers({"lab": issuer}), running_gateway(settings, authority, oidc_issuers=(issuer.url,)) as running:
        forger.url = issuer.url
        good = issuer.mint({"aud": AUDIENCE})
        assert (await ask(running, good))[0] == 200
        for n in range(50):
            assert (await ask(running, forger.mint({"aud": AUDIENCE, "jti": str(n)})))[0] == 401
        assert issuer.asked == 2
        assert (await ask(running, good))[0] == 200


async def test_one_issuer_s_rule_is_no_other_s(field: tuple[Running, dict[str, FakeIssuer]]) -> None:
    running, found = field
    as_google: dict[str, Any] = {"aud": "1234.apps.googleusercontent.com", "azp": "1234.apps.googleusercontent.com"}
    for name in set(FAMILIES) - {"google"}:
        assert (await ask(running, found[name].mint({**as_google, "nonce": "n"})))[0] == 401, name
