"""Issuers as facilities run them, on one port: each with keys of its own kind and tokens of its own shape.

The shapes are those of the products' documentation and source; none of these tokens was made by the product itself.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from gateway_parts import AUDIENCE, listening
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from serve_app.contracts import Json

RSA_KEY: Final = rsa.generate_private_key(65537, 2048)
CURVES: Final = {"ES256": ec.SECP256R1, "ES256K": ec.SECP256K1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1}
EDWARDS: Final = {
    "EdDSA": ed25519.Ed25519PrivateKey,
    "Ed25519": ed25519.Ed25519PrivateKey,
    "Ed448": ed448.Ed448PrivateKey,
}
_jws: Final = jwt.PyJWS()
for _name in ("Ed25519", "Ed448"):
    _jws.register_algorithm(_name, OKPAlgorithm())


def new_key(algorithm: str) -> Any:
    if algorithm in CURVES:
        return ec.generate_private_key(CURVES[algorithm]())
    return EDWARDS[algorithm].generate() if algorithm in EDWARDS else rsa.generate_private_key(65537, 2048)


def published(key: Any) -> Json:
    """The public key as a JWK of its type's members alone."""
    kind: Any = OKPAlgorithm
    if isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        kind = RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm
    jwk: Json = json.loads(kind.to_jwk(key.public_key()))
    jwk.pop("key_ops", None)
    return jwk


@dataclass
class FakeIssuer:
    """One issuer: how it signs, what it publishes, and what its tokens hold beside `iss`, `iat` and `exp`."""

    algorithm: str = "RS256"
    kid: str | None = "key-1"
    key: Any = RSA_KEY
    url: str = ""
    asked: int = 0
    """Key sets that were fetched."""
    more: list[Any] = field(default_factory=list)
    """Entries of the key set beside its own key."""
    members: Json = field(default_factory=lambda: {"use": "sig"})
    """Members of its own entry beside those of the key's type."""

    def key_set(self) -> Json:
        own = {**published(self.key), **({"kid": self.kid} if self.kid else {}), **self.members}
        return {"keys": [*self.more, own]}

    def mint(self, claims: Json, header: Json | None = None) -> str:
        """A token; None leaves a claim or a member of the header out."""
        now = int(time.time())
        body = {"iss": self.url, "sub": "ada", "iat": now, "exp": now + 600, **claims}
        head = {"typ": "JWT", "kid": self.kid, **(header or {})}
        kept = {name: value for name, value in head.items() if value is not None or name == "typ"}
        text = json.dumps({name: value for name, value in body.items() if value is not None}).encode()
        return _jws.encode(text, self.key, self.algorithm, kept)


@asynccontextmanager
async def issuers(found: dict[str, FakeIssuer]) -> AsyncIterator[None]:
    """Serve these issuers; their URLs end as the products' own do."""

    async def discovery(request: Request) -> JSONResponse:
        issuer = found[request.path_params["name"]]
        return JSONResponse({"issuer": issuer.url, "jwks_uri": f"{issuer.url.rstrip('/')}/jwks"})

    async def jwks(request: Request) -> JSONResponse:
        issuer = found[request.path_params["name"]]
        issuer.asked += 1
        return JSONResponse(issuer.key_set())

    routes = [
        Route("/{name:path}/.well-known/openid-configuration", discovery),
        Route("/{name:path}/jwks", jwks),
    ]
    async with listening(Starlette(routes=routes)) as url:
        for name, issuer in found.items():
            issuer.url = f"{url}/{name}" + ("/" if name in TRAILING_SLASH else "")
        yield


TRAILING_SLASH: Final = ("authentik", "authentik-own", "entra-v1", "indigo-iam")
HOUR_AGO: Final = int(time.time()) - 3600
PERSON: Final = {"preferred_username": "ada", "name": "Ada Lovelace", "email": "ada@lab.org", "email_verified": True}
KEYCLOAK: Final = {
    "jti": "onrtac:5f", "auth_time": HOUR_AGO, "typ": "Bearer", "azp": "portal", "sid": "s", "acr": "1",
    "allowed-origins": ["https://portal.lab.org"], "realm_access": {"roles": ["offline_access", "user"]},
    "resource_access": {"account": {"roles": ["view-profile"]}}, "scope": "openid profile email", **PERSON,
}  # fmt: skip
AUTHENTIK: Final = {
    "auth_time": HOUR_AGO, "acr": "goauthentik.io/providers/oauth2/default", "amr": ["pwd", "mfa"], "nonce": "n",
    "sid": "d4735e3a", "groups": ["em"], "nickname": "ada", "uid": "VxWtFvTgnPGgSbzZ", **PERSON,
}  # fmt: skip
DEX: Final = {
    "sub": "CiQwOGE4Njg0Yi1kYjg4LTRiNzMSBWxvY2Fs", "at_hash": "p2Kx9Wb0Zk0oTzQmQ3u4-A", "nonce": "n", "groups": ["em"],
    **PERSON,
}  # fmt: skip
ENTRA: Final = {
    "nbf": HOUR_AGO, "aio": "AXQAi/8IAAAA", "oid": "690222be-ff1a-4d56-abd1-7e4f7d38e474", "tid": "9122040d",
    "uti": "JkOA", "sub": "HKZpfaHyWadeOouYlitjrI", "name": "Ada Lovelace", "scp": "classify", "roles": ["sem-user"],
}  # fmt: skip
COGNITO: Final = {
    "sub": "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee", "cognito:groups": ["em"], "origin_jti": "o", "event_id": "e",
    "token_use": "access", "scope": "openid profile", "auth_time": HOUR_AGO, "jti": "j", "username": "ada",
}  # fmt: skip
WLCG: Final = {
    "wlcg.ver": "1.0", "nbf": HOUR_AGO, "jti": "j", "scope": "openid profile wlcg.groups", "client_id": "oidc-agent",
    "wlcg.groups": ["/em", "/em/operators"],
}  # fmt: skip
EGI: Final = {
    **KEYCLOAK, "sub": "e9c37aa0@egi.eu", "eduperson_entitlement": ["urn:mace:egi.eu:group:em:role=member#aai.egi.eu"],
    "voperson_id": "e9c37aa0@egi.eu",
}  # fmt: skip
GOOGLE: Final = {
    "azp": "1234.apps.googleusercontent.com", "aud": "1234.apps.googleusercontent.com", "sub": "107691503500",
    "at_hash": "HK6E_P6Dh8Y93mRNtsDB1Q", "nonce": "n", "name": "Ada Lovelace", "email": "ada@lab.org", "hd": "lab.org",
}  # fmt: skip
ORCID: Final = {
    "aud": "APP-0123456789ABCDEF", "sub": "0000-0001-5109-3700", "at_hash": "h", "auth_time": HOUR_AGO, "amr": "pwd",
    "given_name": "Ada", "family_name": "Lovelace", "jti": "j", "nonce": "n",
}  # fmt: skip
BACKCHANNEL_LOGOUT: Final[Json] = {"http://schemas.openid.net/event/backchannel-logout": {}}
BARE: Final = {"typ": None}
"""The header of issuers that write no type."""

ACCEPTED: Final[dict[str, tuple[str, Json, Json]]] = {
    "keycloak: access token": ("realms/lab", {**KEYCLOAK, "aud": [AUDIENCE, "account"]}, {}),
    "keycloak before 24: with the nonce": ("realms/lab", {**KEYCLOAK, "aud": AUDIENCE, "nonce": "n"}, {}),
    "keycloak: without a mapper, for the client alone": ("realms/lab", {**KEYCLOAK, "azp": AUDIENCE}, {}),
    "keycloak: a service account": ("realms/lab", {**KEYCLOAK, "aud": AUDIENCE, "azp": "robot", "sid": None}, {}),
    "keycloak: RFC 9068 on": ("realms/lab", {**KEYCLOAK, "aud": AUDIENCE}, {"typ": "at+jwt"}),
    "authentik: for a client of another provider": ("authentik", {**AUTHENTIK, "aud": AUDIENCE, "azp": "portal"}, {}),
    "authentik: for its own client, by rule": ("authentik-own", {**AUTHENTIK, "aud": AUDIENCE, "azp": AUDIENCE}, {}),
    "dex: for its only client": ("dex", {**DEX, "aud": AUDIENCE, "nonce": None}, BARE),
    "dex: for its only client, with a nonce, by rule": ("dex-single", {**DEX, "aud": AUDIENCE}, BARE),
    "dex: across clients": ("dex", {**DEX, "aud": [AUDIENCE, "portal"], "azp": "portal"}, BARE),
    "entra v2": ("entra/v2.0", {**ENTRA, "aud": AUDIENCE, "azp": "portal", "azpacr": "1", "ver": "2.0"}, {"x5t": "t"}),
    "entra v2: one registration for page and service": (
        "entra/v2.0", {**ENTRA, "aud": AUDIENCE, "azp": AUDIENCE, "ver": "2.0"}, {},
    ),
    "entra v1": (
        "entra-v1", {**ENTRA, "aud": f"api://{AUDIENCE}", "appid": "portal", "ver": "1.0"}, {"x5t": "t"},
    ),
    "okta: a custom authorization server": (
        "oauth2/default",
        {"ver": 1, "jti": "AT.x", "aud": f"api://{AUDIENCE}", "cid": "portal", "uid": "u", "scp": ["openid"],
         "sub": "ada@lab.org", "auth_time": HOUR_AGO},
        BARE,
    ),
    "cognito: without an audience": ("cognito", {**COGNITO, "client_id": AUDIENCE}, BARE),
    "cognito: bound to a resource": ("cognito", {**COGNITO, "client_id": "portal", "aud": AUDIENCE}, BARE),
    "indigo iam: wlcg profile": ("indigo-iam", {**WLCG, "aud": AUDIENCE}, BARE),
    "entra v2: one registration for page and service, by rule": (
        "entra-own/v2.0", {**ENTRA, "aud": AUDIENCE, "azp": AUDIENCE, "azpacr": "0", "ver": "2.0"}, {},
    ),
    "entra v2: an app's own token, by rule": (
        "entra-own/v2.0",
        {**ENTRA, "aud": AUDIENCE, "azp": "robot", "azpacr": "1", "ver": "2.0", "scp": None, "name": None},
        {},
    ),
    "egi check-in": ("realms/egi", {**EGI, "aud": AUDIENCE}, {}),
    "egi check-in: without a mapper": ("realms/egi", {**EGI, "azp": AUDIENCE}, {}),
    "google: an ID token, by rule": ("google", GOOGLE, {}),
    "orcid: an ID token, by rule": ("orcid", ORCID, BARE),
}  # fmt: skip

REFUSED: Final[dict[str, tuple[str, Json, Json]]] = {
    "keycloak: ID token": ("realms/lab", {**KEYCLOAK, "typ": "ID", "aud": AUDIENCE, "azp": AUDIENCE, "nonce": "n"}, {}),
    "keycloak: refresh token": ("realms/lab", {**KEYCLOAK, "typ": "Refresh", "aud": AUDIENCE}, {}),
    "keycloak: for another service": ("realms/lab", {**KEYCLOAK, "aud": "account", "azp": AUDIENCE}, {}),
    "authentik: ID token, by rule": (
        "authentik-own", {**AUTHENTIK, "aud": AUDIENCE, "uid": None, "at_hash": "h"}, {},
    ),
    "authentik: ID token, without the rule": (
        "authentik", {**AUTHENTIK, "aud": AUDIENCE, "uid": None, "at_hash": "h"}, {},
    ),
    "authentik: for its own client, without the rule": (
        "authentik", {**AUTHENTIK, "aud": AUDIENCE, "azp": AUDIENCE}, {},
    ),
    "dex: for its only client, with a nonce, without the rule": ("dex", {**DEX, "aud": AUDIENCE}, BARE),
    "dex: of another client, with the rule": ("dex-single", {**DEX, "aud": "portal"}, BARE),
    "dex: of another client": ("dex", {**DEX, "aud": "portal"}, BARE),
    "dex: across clients, where ours is the one that asked": (
        "dex", {**DEX, "aud": ["portal", AUDIENCE], "azp": AUDIENCE}, BARE,
    ),
    "entra: ID token of the page": ("entra/v2.0", {"aud": "portal", "nonce": "n", "ver": "2.0"}, {}),
    "entra: ID token of one registration for page and service": (
        "entra/v2.0", {"aud": AUDIENCE, "nonce": "n", "tid": "9122040d", "name": "Ada Lovelace", "ver": "2.0"}, {},
    ),
    "entra: ID token of one registration without a nonce, by rule": (
        "entra-own/v2.0", {**ENTRA, "aud": AUDIENCE, "scp": None, "ver": "2.0"}, {},
    ),
    "entra: for Microsoft Graph": ("entra/v2.0", {**ENTRA, "aud": "00000003-0000-0000-c000-000000000000"}, {}),
    "okta: ID token for a client of the service's name": (
        "oauth2/default", {"ver": 1, "aud": AUDIENCE, "at_hash": "h", "amr": ["pwd"], "auth_time": HOUR_AGO}, BARE,
    ),
    "okta: ID token": ("oauth2/default", {"ver": 1, "aud": "portal", "at_hash": "h", "amr": ["pwd"]}, BARE),
    "cognito: ID token": ("cognito", {**COGNITO, "token_use": "id", "aud": AUDIENCE, "at_hash": "h"}, BARE),
    "cognito: of another client": ("cognito", {**COGNITO, "client_id": "portal"}, BARE),
    "indigo iam: for any service": ("indigo-iam", {**WLCG, "aud": "https://wlcg.cern.ch/jwt/v1/any"}, BARE),
    "indigo iam: ID token for a client of the service's name": (
        "indigo-iam", {"aud": AUDIENCE, "jti": "j", "at_hash": "h", "name": "Ada Lovelace", "groups": ["em"]}, BARE,
    ),
    "google: of another client": ("google", {**GOOGLE, "aud": "9.apps.googleusercontent.com"}, {}),
    "google: given to another client": ("google", {**GOOGLE, "azp": "9.apps.googleusercontent.com"}, {}),
    "google: for OIDC_AUDIENCE, which the rule replaces": ("google", {**GOOGLE, "aud": AUDIENCE}, {}),
    "google: an access token where ID tokens are accepted": ("google", {**GOOGLE, "scope": "openid"}, {}),
    "keycloak, authentik, okta: logout token": (
        "realms/lab", {"aud": AUDIENCE, "jti": "j", "sid": "s", "events": BACKCHANNEL_LOGOUT}, {},
    ),
    "google: logout token": ("google", {"aud": GOOGLE["aud"], "jti": "j", "events": BACKCHANNEL_LOGOUT}, {}),
    "google: by type an access token": ("google", GOOGLE, {"typ": "at+jwt"}),
    "orcid: of another client": ("orcid", {**ORCID, "aud": "APP-OTHER"}, BARE),
    "orcid: without the rule": ("dex", {**ORCID, "aud": AUDIENCE}, BARE),
    "google: without the rule": ("dex", {**GOOGLE, "aud": AUDIENCE, "azp": AUDIENCE}, {}),
}  # fmt: skip
