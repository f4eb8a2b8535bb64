"""Bearer tokens to principals: OIDC access tokens, checked as RFC 8725 and RFC 9068 require.

The token's own references to its key (`jku`, `x5u`, `jwk`) are ignored; keys come only from the issuer. Reasons name
the failed check and never repeat the token. Each `check_…` of the claims returns the sentence that `semapi token check`
shows for it, or raises `TokenInvalid` with the reason.
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
from starlette.types import Scope

from serve_app.contracts import Principal
from serve_app.errors import TokenInvalid, TokenMissing
from serve_app.gateway.jwks import Key, KeyRing
from serve_app.settings import IssuerRule, Settings

TOKEN_MAX_BYTES: Final = 64 * 1024
"""Serve's proxies and the edge must pass headers of this size: docs/operations.md, "Large tokens"."""
CACHED_MAX: Final = 4096
SUBJECT_MAX_CHARACTERS: Final = 1024

Note = Callable[[str, str], None]
"""Called with the name of each passed check and its finding."""

Claims = dict[str, Any]

LEEWAY_S: Final = 60
NUMERIC_DATE_MAX: Final = 253_402_300_799
"""The end of the year 9999. A larger number is not in seconds; it may be in milliseconds."""

ACCESS_TOKEN_TYPES: Final = frozenset({"at+jwt", "application/at+jwt"})
NEUTRAL_TYPES: Final = frozenset({"jwt"})
OTHER_KINDS: Final = frozenset({"id", "refresh", "offline", "logout"})
"""Values of the claims `typ` (Keycloak) and `token_use` (Cognito) in tokens that are not access tokens."""
ID_TOKEN_MARKS: Final = ("at_hash", "c_hash", "nonce")
"""Claims that OpenID Connect Core defines for ID tokens. Dex and Authentik write them into access tokens too."""
SESSION_CLAIMS: Final = ("nonce", "c_hash", "auth_time", "acr", "amr", "sid", "jti")
"""Claims that other issuers write into ID tokens besides `at_hash`; INDIGO IAM only `jti`. Dex writes none of these,
except a nonce that its client sent."""
WITHOUT_AUDIENCE: Final = (("access", None), (None, "Bearer"))
"""`token_use` and `typ` of access tokens that may lack `aud`: Cognito's always do, Keycloak's do without a mapper. They
are valid for everything that their client may do, so operators then name the client as the audience."""
CLIENT_CLAIMS: Final = ("azp", "client_id", "cid", "appid")
"""Claims in which issuers name the client of the token: OpenID Connect, RFC 9068, Okta, Entra v1."""

_jws: Final = jwt.PyJWS()
for _name in ("Ed25519", "Ed448"):  # RFC 9864; `jwks.ALGORITHMS_OF_KEY` has decided which of the two a key is
    _jws.register_algorithm(_name, OKPAlgorithm())


@dataclass(frozen=True, slots=True)
class _Verdict:
    principal: Principal
    key: Key
    key_id: str | None
    """As in the token's header."""
    algorithm: str
    expires_at: float


class TokenVerifier:
    """Verifies bearer tokens. A verified token is cached by its hash until it expires or its key is withdrawn."""

    def __init__(self, settings: Settings, keys: KeyRing) -> None:
        self._settings = settings
        self._keys = keys
        self._verdicts: OrderedDict[bytes, _Verdict] = OrderedDict()

    async def verify(self, token: str) -> Principal:
        """The principal of an access token. Raises `TokenInvalid`, or `KeysUnavailable` when its issuer is down."""
        if len(token) > TOKEN_MAX_BYTES:
            raise TokenInvalid(f"The token is larger than {TOKEN_MAX_BYTES} bytes.")
        if not token.isascii():
            raise TokenInvalid("The token is not a signed JSON Web Token.")
        digest = hashlib.sha256(token.encode()).digest()
        verdict = self._verdicts.get(digest)
        if verdict is not None:
            self._verdicts.move_to_end(digest)
        if verdict is None or await self._find(verdict) is not verdict.key:
            verdict = await self._judge(token, _no_note)
            self._remember(digest, verdict)
        if time.time() >= verdict.expires_at + LEEWAY_S:
            self._verdicts.pop(digest, None)
            raise TokenInvalid("The token has expired.")
        return verdict.principal

    async def examine(self, token: str, note: Note) -> Principal:
        """As `verify`, without the cache: calls `note` for each check that passes, and raises at the first that
        fails."""
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
        """The issuer, key id and algorithm named in the token, to find the key that must prove them."""
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
        """The key that its issuer has published in place of `key`, if that key signed the token."""
        replacement = await self._keys.find_replacement(key_id, algorithm, key)
        if replacement is None or not _signed_by(replacement, algorithm, signed, signature):
            raise TokenInvalid("The token's signature does not match.")
        return replacement


def _no_note(name: str, found: str) -> None:
    """For `verify`, which does not report its checks."""


def _signed_by(key: Key, algorithm: str, signed: bytes, signature: bytes) -> bool:
    """Whether the key made this signature. The token is not parsed again: for 64 kB that takes 9 ms."""
    verifier = _jws.get_algorithm_by_name(algorithm)
    return verifier.verify(signed, verifier.prepare_key(key.public), signature)


def principal_of(claims: dict[str, Any], settings: Settings) -> Principal:
    """The principal of verified claims. The id depends on issuer and subject only; everything else may change or be
    shared.

    The group is the text of its claim, or the first text of its list; otherwise None.
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
    return frozenset(role for path in paths for role in _words(_claim(claims, path)))


def _claim(claims: dict[str, Any], path: str) -> object:
    """The claim of this whole name, otherwise the member that its dots lead to: names that are URLs contain dots
    themselves."""
    if path in claims:
        return claims[path]
    value: object = claims
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _words(value: object) -> list[str]:
    if isinstance(value, str):
        return value.split()
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


def _first_text(value: object) -> str | None:
    values = value if isinstance(value, list) else [value]
    return next((text for text in values if isinstance(text, str) and text.strip()), None)


def read_unproven(token: str) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """Header, claims and signature of the token; nothing is verified. Raises `TokenInvalid` for a malformed token."""
    try:
        parts = jwt.decode_complete(token, options={"verify_signature": False})
    except (refusals.PyJWTError, ValueError, RecursionError) as error:
        raise TokenInvalid("The token is not a signed JSON Web Token.") from error
    return parts["header"], parts["payload"], parts["signature"]


def bearer_token(scope: Scope) -> str:
    """The token of the Authorization header (RFC 6750). Raises `TokenMissing`, `TokenInvalid`."""
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    if not values:
        raise TokenMissing("Send the header Authorization: Bearer with an access token.")
    if len(values) > 1:
        raise TokenInvalid("Send one Authorization header.")
    scheme, _, token = values[0].decode("latin-1").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise TokenMissing("Send the header Authorization: Bearer with an access token.")
    return str(token.strip())


def check_times(claims: Claims) -> str:
    """RFC 7519 section 4.1: `exp` and `nbf` limit the token, `iat` does not. Those present must be valid times."""
    expires_at, not_before = seconds(claims, "exp"), seconds(claims, "nbf")
    seconds(claims, "iat")
    now = time.time()
    if expires_at is None:
        raise TokenInvalid("The token lacks the claim exp.")
    if now >= expires_at + LEEWAY_S:
        raise TokenInvalid("The token has expired.")
    if not_before is not None and now < not_before - LEEWAY_S:
        raise TokenInvalid("The token is not valid yet.")
    return f"expires in {expires_at - now:.0f} s; clocks may differ by {LEEWAY_S} s"


def seconds(claims: Claims, name: str) -> float | None:
    """A NumericDate: seconds since 1970, with or without a fraction. None if the claim is missing."""
    value = claims.get(name)
    if value is None and name not in claims:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= NUMERIC_DATE_MAX:
        raise TokenInvalid(f"The token's {name} is not a time.")
    return float(value)


def check_audience(claims: Claims, rule: IssuerRule) -> str:
    """Check that the claim names one of the rule's audiences. Without configured audiences every token of the issuer
    passes."""
    if not rule.audience:
        return "not checked: OIDC_AUDIENCE is empty"
    named = rule.audience_claim
    if named == "aud" and "aud" not in claims and (claims.get("token_use"), claims.get("typ")) in WITHOUT_AUDIENCE:
        named = next((claim for claim in CLIENT_CLAIMS if claim in claims), "aud")
    found = _texts(claims, named)
    if not found:
        raise TokenInvalid(f"The token lacks the claim {named}.")
    if ours := [audience for audience in found if audience in rule.audience]:
        return f"{named} holds {ours[0]}"
    raise TokenInvalid("The token is for another audience.")


def check_kind(header: dict[str, Any], claims: Claims, rule: IssuerRule) -> str:
    """Check that the token is of the kind that the rule accepts: an access token, or an ID token if the rule says so.

    An ID token tells a client who signed in; it is no permission to call an API (RFC 9068 section 4).
    """
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower() not in ACCESS_TOKEN_TYPES | NEUTRAL_TYPES:
        raise TokenInvalid("The token's type (header typ) is not that of an access token.")
    if "events" in claims:  # RFC 8417 section 2.2; tokens of OpenID Connect Back-Channel Logout have the same audience
        raise TokenInvalid("This is a security event or logout token (events); send the access token.")
    declared = f"header typ is {kind}" if kind.lower() in ACCESS_TOKEN_TYPES else _declared_access(claims)
    if rule.accept == "id_token":
        return _check_id_token(claims, rule, declared)
    for name in ("typ", "token_use"):
        if str(claims.get(name)).lower() in OTHER_KINDS:
            what = "an ID token" if str(claims[name]).lower() == "id" else "not an access token"
            raise TokenInvalid(f"This is {what} ({name}); send the access token.")
    if rule.access_token_claim:
        if claims.get(rule.access_token_claim) is None:
            raise TokenInvalid(
                f"The token lacks {rule.access_token_claim}, by which its issuer's access tokens are known."
            )
        return f"access token: it has {rule.access_token_claim}"
    if declared:
        return f"access token: {declared}"
    return _check_undeclared(claims, rule)


def _check_undeclared(claims: Claims, rule: IssuerRule) -> str:
    """A token that does not declare its kind.

    The audience of an ID token is its client (OpenID Connect Core section 2), which `azp` names: a token with marks of
    an ID token passes only if its audience differs from `azp`. Without `azp` that cannot be decided. Then `at_hash`
    alone is accepted, because every token of Dex has it, unless another claim names the audience as the client.
    """
    marks = [name for name in ID_TOKEN_MARKS if name in claims]
    if not marks:
        return "access token: no mark of an ID token"
    party = claims.get("azp")
    clients = {claims[name] for name in CLIENT_CLAIMS if isinstance(claims.get(name), str)}
    found = set(_texts(claims, rule.audience_claim))
    others = (found & set(rule.audience) if rule.audience else found) - clients
    if others and isinstance(party, str):
        return f"access token: it has {', '.join(marks)}, but was given to {party} (azp) for {min(others)}"
    if others and rule.audience and party is None and not any(name in claims for name in SESSION_CLAIMS):
        return f"access token: it has {', '.join(marks)}, but nothing else of an ID token"
    raise TokenInvalid(f"This looks like an ID token ({', '.join(marks)}); send the access token.")


def _check_id_token(claims: Claims, rule: IssuerRule, declared: str) -> str:
    """OpenID Connect Core section 3.1.3.7: the client of the ID token must be an accepted one."""
    if declared:
        raise TokenInvalid("This is an access token; of this issuer the service takes ID tokens (OIDC_ISSUER_RULES).")
    for name in ("typ", "token_use"):
        if str(claims.get(name)).lower() in OTHER_KINDS - {"id"}:
            raise TokenInvalid(f"This is not an ID token ({name}).")
    party = claims.get("azp", rule.audience[0])
    if party not in rule.audience:
        raise TokenInvalid("The ID token was given to another client (azp).")
    return "ID token, as the rule of its issuer says"


def _declared_access(claims: Claims) -> str:
    """The claim that declares an access token; empty if the token does not declare its kind."""
    if claims.get("typ") == "Bearer":
        return "claim typ is Bearer"
    if claims.get("token_use") == "access":
        return "token_use is access"
    return next((f"it has {name}" for name in ("scope", "scp") if claims.get(name)), "")


def _texts(claims: Claims, name: str) -> list[str]:
    """The texts of a claim: one text, or a list of texts only."""
    value = claims.get(name)
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        return []
    return [text for text in found if text]
