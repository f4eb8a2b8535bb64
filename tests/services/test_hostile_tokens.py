"""Tokens that no one may come in with, by family, and good ones that must pass: what refuses is the fault alone."""

from __future__ import annotations

import logging
import re
import time
from pathlib import Path
from typing import Any, Final

import pytest
from forged import FAMILIES
from gateway_parts import Running, listening, running_gateway

from serve_app.gateway.auth import TOKEN_MAX_BYTES
from serve_app.local.issuer import DevIssuerServer, Issuer, SigningKeys, issuer_app
from serve_app.settings import Settings

PATH: Final = "/api/v1/models"
TAIL: Final = 24
"""Characters at the end of a token that are looked for where no token may be."""


def good(now: int) -> dict[str, dict[str, Any]]:
    """The claims and headers, by what they are, of tokens that are good at this time."""
    return {
        "as the issuer mints it": {},
        "of the plain type": {"header": {"typ": "JWT"}},
        "of the long type": {"header": {"typ": "application/at+jwt"}},
        "of the type in capitals": {"header": {"typ": "AT+JWT"}},
        "for a list of readers": {"aud": ["sem-image-classifier"]},
        "for us among others": {"aud": ["account", "sem-image-classifier", "else"]},
        "just expired": {"exp": now - 5},
        "nearly valid": {"nbf": now + 15},
        "of a fast clock": {"iat": now + 45},
        "issued tomorrow, valid today": {"iat": now + 86_400},
        "expired by less than clocks may differ": {"exp": now - 45},
        "valid in less than clocks may differ": {"nbf": now + 45},
        "without the time it was issued": {"iat": None, "nbf": None},
        "with a preferred name": {"preferred_username": "ada"},
        "with a name": {"name": "Ada Lovelace"},
        "with a name in another script": {"preferred_username": "Ада 👩‍🔬"},
        "with a name that is none": {"preferred_username": 7, "name": ""},
        "with groups and roles": {"groups": ["sem"], "realm_access": {"roles": ["user"]}, "scope": "openid"},
        "with a nonce, said to be for access": {"nonce": "n"},
        "with a nonce, said to be a bearer's": {"header": {"typ": "JWT"}, "nonce": "n", "typ": "Bearer"},
        "with a thumbprint nobody needs": {"header": {"x5t": "AA"}},
        "that says where keys are": {"header": {"jku": "http://127.0.0.1:9/"}},
        "of much text": {"padding": "x" * 9000},
        "of 300 groups": {"groups": [f"/facility/beamline-{n:03}/proposal-2026-{n:04}/members" for n in range(300)]},
        "of nearly 64 kB": {"padding": "x" * (TOKEN_MAX_BYTES * 3 // 4 - 800)},
        "with a fraction of a second": {"exp": now + 600.5},
        "without an id": {"jti": None},
    }


def test_there_are_enough_of_them() -> None:
    assert len(FAMILIES) >= 12
    assert sum(map(len, FAMILIES.values())) >= 250
    assert len(good(0)) >= 20


@pytest.mark.parametrize("family", FAMILIES)
async def test_it_is_refused_and_leaves_nothing(
    family: str, gateway: Running, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    let_in = []
    for number, forge in enumerate(FAMILIES[family]):
        header = forge(gateway.issuer)
        answer = await gateway.client.get(PATH, headers=[(b"Authorization", header)])
        slug = "token-invalid" if re.match(rb"(?i)bearer +[^ ]", header) else "token-missing"
        found = (answer.status_code, answer.json()["type"], answer.headers["content-type"])
        if found != (401, f"/problems/{slug}", "application/problem+json") or not answer.json()["detail"]:
            let_in.append(f"{number}: {found} for {header[:300]!r}")
        tail = header[-TAIL:].decode("latin-1")
        if len(header) > 4 * TAIL:
            assert tail not in answer.text + str(answer.headers) + caplog.text, number
    assert let_in == []
    assert await gateway.keys() == set()
    assert await gateway.usage() == []


@pytest.mark.parametrize("where", [{"params": "access_token"}, {"cookies": "access_token"}])
async def test_a_good_token_elsewhere_is_none(gateway: Running, where: dict[str, str]) -> None:
    parts: dict[str, Any] = {place: {name: gateway.issuer.mint("ada")} for place, name in where.items()}
    if cookies := parts.pop("cookies", None):
        parts["headers"] = {"Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())}
    answer = await gateway.client.get(PATH, **parts)
    assert (answer.status_code, answer.json()["type"]) == (401, "/problems/token-missing")


@pytest.mark.parametrize("name", good(0))
async def test_a_good_one_passes(name: str, gateway: Running) -> None:
    answer = await gateway.client.get(PATH, headers=gateway.bearer(**good(int(time.time()))[name]))
    assert answer.status_code == 200, answer.text


async def test_a_scheme_is_known_in_any_case(gateway: Running) -> None:
    token = gateway.issuer.mint("ada")
    for scheme in ("bearer", "BEARER", "Bearer "):
        assert (await gateway.client.get(PATH, headers={"Authorization": f"{scheme} {token}"})).status_code == 200


async def test_a_second_issuer_may_sign_by_curve(settings: Settings, authority: DevIssuerServer, folder: Path) -> None:
    curve = Issuer("http://127.0.0.1/default", SigningKeys(folder, "ES256"))
    async with listening(issuer_app(curve)) as url:
        curve.url = f"{url}/default"
        async with running_gateway(settings, authority, oidc_issuers=(authority.url, curve.url)) as gateway:
            mine = {"Authorization": f"Bearer {curve.mint('ada')}"}
            assert (await gateway.client.get(PATH, headers=mine)).status_code == 200
            assert (await gateway.get(PATH)).status_code == 200
            crossed = {"Authorization": f"Bearer {curve.mint('ada', iss=authority.url)}"}
            assert (await gateway.client.get(PATH, headers=crossed)).status_code == 401
