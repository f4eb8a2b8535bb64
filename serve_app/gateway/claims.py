"""What a token's verified claims must say: its times, whom it is for, and that it is an access token.

Each check returns the sentence that `semapi token check` shows for it, or raises `TokenInvalid` with the reason.
"""

from __future__ import annotations

import time
from typing import Any, Final

from serve_app.errors import TokenInvalid
from serve_app.settings import IssuerRule

Claims = dict[str, Any]

LEEWAY_S: Final = 60
NUMERIC_DATE_MAX: Final = 253_402_300_799
"""The end of the year 9999. A larger number is no time, for example one in milliseconds."""

ACCESS_TOKEN_TYPES: Final = frozenset({"at+jwt", "application/at+jwt"})
NEUTRAL_TYPES: Final = frozenset({"jwt"})
OTHER_KINDS: Final = frozenset({"id", "refresh", "offline", "logout"})
"""Values of the claims `typ` (Keycloak) and `token_use` (Cognito) of tokens that open no API."""
ID_TOKEN_MARKS: Final = ("at_hash", "c_hash", "nonce")
"""Claims that OpenID Connect Core defines for ID tokens. Dex and Authentik write them into access tokens too."""
SESSION_CLAIMS: Final = ("nonce", "c_hash", "auth_time", "acr", "amr", "sid", "jti")
"""What other issuers write into ID tokens beside `at_hash`: INDIGO IAM the `jti` alone. Dex writes none of these, but
for a nonce that its client sent."""
WITHOUT_AUDIENCE: Final = (("access", None), (None, "Bearer"))
"""`token_use` and `typ` of access tokens that may lack `aud`: Cognito's always do, Keycloak's do without a mapper. They
are for whatever their client may do, so the client is what an operator then names as the audience."""
CLIENT_CLAIMS: Final = ("azp", "client_id", "cid", "appid")
"""Where issuers name the client that the token was given to: OpenID Connect, RFC 9068, Okta, Entra v1."""


def check_times(claims: Claims) -> str:
    """RFC 7519 section 4.1: `exp` and `nbf` bound the token, `iat` does not. All must be times where they are there."""
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
    """A NumericDate: seconds since 1970, with or without a fraction. None where the claim is missing."""
    value = claims.get(name)
    if value is None and name not in claims:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= NUMERIC_DATE_MAX:
        raise TokenInvalid(f"The token's {name} is not a time.")
    return float(value)


def check_audience(claims: Claims, rule: IssuerRule) -> str:
    """That one of the rule's audiences is in its claim. Without audiences every token of the issuer is for us."""
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
    """That the token is what the rule accepts: an access token, or where the rule says so an ID token.

    An ID token tells a client who signed in; it is no permission to call an API (RFC 9068 section 4)."""
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower() not in ACCESS_TOKEN_TYPES | NEUTRAL_TYPES:
        raise TokenInvalid("The token's type (header typ) is not that of an access token.")
    if "events" in claims:  # RFC 8417 section 2.2; OpenID Connect Back-Channel Logout puts the same audience into it
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
    """A token that does not say its kind. The audience of an ID token is the client that it was given to (OpenID
    Connect Core section 2): one with marks of an ID token must be for somebody else than `azp`, which names the client.

    Without `azp` nobody can tell. Then `at_hash` alone is borne, which is in every token of Dex, unless the token names
    its audience as its client by another claim."""
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
    """OpenID Connect Core section 3.1.3.7: the ID token was given to a client of ours."""
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
    """By which claim the token says that it is an access token; empty where it does not say."""
    if claims.get("typ") == "Bearer":
        return "claim typ is Bearer"
    if claims.get("token_use") == "access":
        return "token_use is access"
    return next((f"it has {name}" for name in ("scope", "scp") if claims.get(name)), "")


def _texts(claims: Claims, name: str) -> list[str]:
    """The texts of a claim: one, or a list of nothing else."""
    value = claims.get(name)
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        return []
    return [text for text in found if text]
