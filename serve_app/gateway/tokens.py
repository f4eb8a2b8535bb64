"""Bearer tokens to principals: OIDC access tokens, checked as RFC 8725 and RFC 9068 ask.

What the token says about where its key is (`jku`, `x5u`, `jwk`) is never looked at; keys come from the issuer alone.
Reasons name the check that failed and never repeat the token.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import jwt
from jwt import exceptions as refusals

from serve_app.contracts import Principal
from serve_app.errors import TokenInvalid
from serve_app.gateway.keys import Key, KeyRing
from serve_app.settings import Settings

ALGORITHMS: Final = ("RS256", "ES256", "EdDSA")
LEEWAY_S: Final = 30
TOKEN_MAX_BYTES: Final = 16 * 1024
CACHED_MAX: Final = 4096
SUBJECT_MAX_CHARACTERS: Final = 1024
ACCESS_TOKEN_TYPES: Final = frozenset({"jwt", "at+jwt", "application/at+jwt"})

_REASONS: Final = (
    (refusals.ExpiredSignatureError, "The token has expired."),
    (refusals.ImmatureSignatureError, "The token is not valid yet."),
    (refusals.InvalidAudienceError, "The token is for another audience."),
    (refusals.InvalidIssuerError, "The token comes from an issuer that is not accepted here."),
    (refusals.InvalidSignatureError, "The token's signature does not match."),
    (refusals.InvalidAlgorithmError, "The token's signature algorithm is not accepted; use RS256, ES256 or EdDSA."),
    (refusals.InvalidSubjectError, "The token's subject is not a text."),
)


@dataclass(frozen=True, slots=True)
class _Verdict:
    principal: Principal
    key: Key
    expires_at: int


class TokenVerifier:
    """Verifies bearer tokens; what passed once is remembered by hash until it expires or its key goes."""

    def __init__(self, settings: Settings, keys: KeyRing) -> None:
        self._audience = settings.oidc_audience or None
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
        if verdict is None or await self._keys.find(verdict.key.issuer, verdict.key.id) is not verdict.key:
            verdict = await self._judge(token)
            self._remember(digest, verdict)
        if time.time() >= verdict.expires_at + LEEWAY_S:
            self._verdicts.pop(digest, None)
            raise TokenInvalid("The token has expired.")
        return verdict.principal

    def _remember(self, digest: bytes, verdict: _Verdict) -> None:
        self._verdicts[digest] = verdict
        if len(self._verdicts) > CACHED_MAX:
            self._verdicts.popitem(last=False)

    async def _judge(self, token: str) -> _Verdict:
        header, issuer = _peek(token)
        key = await self._keys.find(issuer, header["kid"])
        try:
            claims = jwt.decode(
                token,
                key.verifier,
                algorithms=ALGORITHMS,
                audience=self._audience,
                issuer=issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iss", "sub"], "verify_aud": self._audience is not None},
            )
        except refusals.PyJWTError as error:
            raise TokenInvalid(_reason(error)) from error
        _refuse_id_token(header, claims)
        return _Verdict(principal_of(claims, self._settings), key, int(claims["exp"]))


def principal_of(claims: dict[str, Any], settings: Settings) -> Principal:
    """Who verified claims speak of. The id depends on issuer and subject alone; all else may change or be shared.

    The group is the text of its claim, or the first text of its list; None where there is none.
    """
    issuer, subject = claims["iss"], claims["sub"]
    if not subject.strip() or len(subject) > SUBJECT_MAX_CHARACTERS:
        raise TokenInvalid(f"The token's subject must have 1 to {SUBJECT_MAX_CHARACTERS} characters.")
    names = (claims.get("preferred_username"), claims.get("name"), subject)
    name = next(text for text in names if isinstance(text, str) and text.strip())
    digest = hashlib.sha256(json.dumps([issuer, subject]).encode()).hexdigest()
    roles = roles_of(claims, settings.oidc_roles_claims)
    return Principal(
        id=digest[:32],
        name=name,
        group=_first_text(claims.get(settings.oidc_group_claim)),
        roles=roles,
        is_admin=settings.oidc_admin_role in roles,
    )


def roles_of(claims: dict[str, Any], paths: Sequence[str]) -> frozenset[str]:
    """The roles in all the claims that `paths` name: the texts of a list, or the words of a text (as in `scope`).

    A claim's whole name counts before its dots: names that are URLs have some.
    """
    found = (claims[path] if path in claims else _inside(claims, path.split(".")) for path in paths)
    return frozenset(role for value in found for role in _texts(value))


def _inside(value: object, names: Sequence[str]) -> object:
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return value.split()
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


def _first_text(value: object) -> str | None:
    values = value if isinstance(value, list) else [value]
    return next((text for text in values if isinstance(text, str) and text.strip()), None)


def _peek(token: str) -> tuple[dict[str, Any], str]:
    """Header and issuer as the token claims them, to find the key that must prove them."""
    try:
        parts = jwt.decode_complete(token, options={"verify_signature": False})
    except (refusals.PyJWTError, ValueError, RecursionError) as error:
        raise TokenInvalid("The token is not a signed JSON Web Token.") from error
    header, issuer = parts["header"], parts["payload"].get("iss")
    if header.get("alg") not in ALGORITHMS:
        raise TokenInvalid("The token's signature algorithm is not accepted; use RS256, ES256 or EdDSA.")
    if not isinstance(issuer, str):
        raise TokenInvalid("The token names no issuer.")
    if not isinstance(header.get("kid"), str):
        raise TokenInvalid("The token names no key (header kid).")
    return header, issuer


def _refuse_id_token(header: dict[str, Any], claims: dict[str, Any]) -> None:
    """An ID token tells a client who signed in; it is no permission to call an API (RFC 9068 section 4)."""
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower() not in ACCESS_TOKEN_TYPES:
        raise TokenInvalid("The token's type is not that of an access token.")
    # Some issuers put a nonce into access tokens too, and say by type that they are access tokens.
    declared = kind.lower() != "jwt" or claims.get("typ") == "Bearer"
    marked = claims.get("token_use") == "id" or str(claims.get("typ")).lower() == "id"
    if marked or any(name in claims for name in ("at_hash", "c_hash")) or ("nonce" in claims and not declared):
        raise TokenInvalid("This is an ID token; send the access token.")


def _reason(error: refusals.PyJWTError) -> str:
    if isinstance(error, refusals.MissingRequiredClaimError):
        return f"The token lacks the claim {error.claim}."
    return next((text for kind, text in _REASONS if isinstance(error, kind)), "The token is not a valid access token.")
