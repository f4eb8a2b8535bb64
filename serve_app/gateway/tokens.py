"""Bearer tokens to principals: OIDC access tokens, checked as RFC 8725 and RFC 9068 ask.

What the token says about where its key is (`jku`, `x5u`, `jwk`) is never looked at; keys come from the issuer alone.
Reasons name the check that failed and never repeat the token.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import jwt
from jwt import exceptions as refusals
from jwt.algorithms import OKPAlgorithm

from serve_app.contracts import Principal
from serve_app.errors import TokenInvalid
from serve_app.gateway.claims import LEEWAY_S, check_audience, check_kind, check_times, seconds
from serve_app.gateway.keys import Key, KeyRing
from serve_app.settings import Settings

TOKEN_MAX_BYTES: Final = 64 * 1024
"""Serve's proxies and the edge must let such a header through: docs/operations.md, "Large tokens"."""
CACHED_MAX: Final = 4096
SUBJECT_MAX_CHARACTERS: Final = 1024

Note = Callable[[str, str], None]
"""Is told the name of each check that passed, and what it found."""

_jws: Final = jwt.PyJWS()
for _name in ("Ed25519", "Ed448"):  # RFC 9864; which of the two a key is, `keys.ALGORITHMS_OF_KEY` has decided
    _jws.register_algorithm(_name, OKPAlgorithm())


@dataclass(frozen=True, slots=True)
class _Verdict:
    principal: Principal
    key: Key
    key_id: str | None
    """As the token names it."""
    algorithm: str
    expires_at: float


class TokenVerifier:
    """Verifies bearer tokens; what passed once is remembered by hash until it expires or its key goes."""

    def __init__(self, settings: Settings, keys: KeyRing) -> None:
        self._settings = settings
        self._keys = keys
        self._verdicts: OrderedDict[bytes, _Verdict] = OrderedDict()

    async def verify(self, token: str) -> Principal:
        """The principal of an access token. Raises `TokenInvalid`, or `KeysUnavailable` when its issuer is away."""
        if len(token) > TOKEN_MAX_BYTES:
            raise TokenInvalid(f"The token is larger than {TOKEN_MAX_BYTES} bytes.")
        if not token.isascii():
            raise TokenInvalid("The token is not a signed JSON Web Token.")
        digest = hashlib.sha256(token.encode()).digest()
        verdict = self._verdicts.get(digest)
        if verdict is not None:
            self._verdicts.move_to_end(digest)
        if verdict is None or await self._find(verdict) is not verdict.key:
            verdict = await self._judge(token, _nobody)
            self._remember(digest, verdict)
        if time.time() >= verdict.expires_at + LEEWAY_S:
            self._verdicts.pop(digest, None)
            raise TokenInvalid("The token has expired.")
        return verdict.principal

    async def examine(self, token: str, note: Note) -> Principal:
        """As `verify`, from the beginning: each check that passes is told to `note`, the first that fails is raised."""
        if len(token) > TOKEN_MAX_BYTES:
            raise TokenInvalid(f"The token is larger than {TOKEN_MAX_BYTES} bytes.")
        return (await self._judge(token, note)).principal

    async def _find(self, verdict: _Verdict) -> Key:
        return await self._keys.find(verdict.key.issuer, verdict.key_id, verdict.algorithm)

    def _remember(self, digest: bytes, verdict: _Verdict) -> None:
        self._verdicts[digest] = verdict
        if len(self._verdicts) > CACHED_MAX:
            self._verdicts.popitem(last=False)

    async def _judge(self, token: str, note: Note) -> _Verdict:
        header, claims, signature = read_unproven(token)
        issuer, key_id, algorithm = self._named(header, claims)
        note("algorithm", algorithm)
        key = await self._keys.find(issuer, key_id, algorithm)
        note("issuer", issuer)
        note("key", f"kid {key_id}" if key_id is not None else "no kid in the token; the one key that fits")
        signed = token.rpartition(".")[0].encode()
        if not _signed_by(key, algorithm, signed, signature):
            key = await self._replaced(key, key_id, algorithm, signed, signature)
        note("signature", "matches")
        note("times", check_times(claims))
        rule = self._settings.issuer_rule(issuer)
        note("audience", check_audience(claims, rule))
        note("kind", check_kind(header, claims, rule))
        expires_at = seconds(claims, "exp") or 0.0
        return _Verdict(principal_of(claims, self._settings), key, key_id, algorithm, expires_at)

    def _named(self, header: dict[str, Any], claims: dict[str, Any]) -> tuple[str, str | None, str]:
        """The issuer, key id and algorithm that the token names, to find the key that must prove them."""
        algorithm, issuer, key_id = header.get("alg"), claims.get("iss"), header.get("kid")
        accepted = self._settings.oidc_algorithms
        if not isinstance(algorithm, str) or algorithm not in accepted:
            raise TokenInvalid(f"The token's signature algorithm is not accepted; use one of {', '.join(accepted)}.")
        if not isinstance(issuer, str):
            raise TokenInvalid("The token names no issuer.")
        if not isinstance(key_id, str | None):
            raise TokenInvalid("The token's key id (header kid) is not a text.")
        return issuer, key_id, algorithm

    async def _replaced(self, key: Key, key_id: str | None, algorithm: str, signed: bytes, signature: bytes) -> Key:
        """The key that its issuer has put in the place of `key`, if that is what signed the token."""
        replacement = await self._keys.find_replacement(key_id, algorithm, key)
        if replacement is None or not _signed_by(replacement, algorithm, signed, signature):
            raise TokenInvalid("The token's signature does not match.")
        return replacement


def _nobody(name: str, found: str) -> None:
    """Checks of the service's own are told to nobody."""


def _signed_by(key: Key, algorithm: str, signed: bytes, signature: bytes) -> bool:
    """Whether the key made this signature. The token is not read again: of 64 kB that takes 9 ms."""
    verifier = _jws.get_algorithm_by_name(algorithm)
    return verifier.verify(signed, verifier.prepare_key(key.public), signature)


def principal_of(claims: dict[str, Any], settings: Settings) -> Principal:
    """Who verified claims speak of. The id depends on issuer and subject alone; all else may change or be shared.

    The group is the text of its claim, or the first text of its list; None where there is none.
    """
    issuer, subject = claims["iss"], claims.get("sub")
    if not isinstance(subject, str):
        raise TokenInvalid("The token's subject (sub) is missing or not a text.")
    if not subject.strip() or len(subject) > SUBJECT_MAX_CHARACTERS:
        raise TokenInvalid(f"The token's subject must have 1 to {SUBJECT_MAX_CHARACTERS} characters.")
    names = (claims.get("preferred_username"), claims.get("name"), subject)
    name = next(text for text in names if isinstance(text, str) and text.strip())
    digest = hashlib.sha256(json.dumps([issuer, subject]).encode()).hexdigest()
    roles = roles_of(claims, settings.oidc_roles_claims)
    return Principal(
        id=digest[:32],
        name=name,
        group=_first_text(_claim(claims, settings.oidc_group_claim)),
        roles=roles,
        is_admin=settings.oidc_admin_role in roles,
    )


def roles_of(claims: dict[str, Any], paths: Sequence[str]) -> frozenset[str]:
    """The roles in all the claims that `paths` name: the texts of a list, or the words of a text (as in `scope`)."""
    return frozenset(role for path in paths for role in _texts(_claim(claims, path)))


def _claim(claims: dict[str, Any], path: str) -> object:
    """The claim of this whole name, else what its dots lead to: names that are URLs have dots of their own."""
    if path in claims:
        return claims[path]
    value: object = claims
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return value.split()
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


def _first_text(value: object) -> str | None:
    values = value if isinstance(value, list) else [value]
    return next((text for text in values if isinstance(text, str) and text.strip()), None)


def read_unproven(token: str) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """Header, claims and signature as the token has them: nothing is proven. Raises `TokenInvalid` for what is none."""
    try:
        parts = jwt.decode_complete(token, options={"verify_signature": False})
    except (refusals.PyJWTError, ValueError, RecursionError) as error:
        raise TokenInvalid("The token is not a signed JSON Web Token.") from error
    return parts["header"], parts["payload"], parts["signature"]
