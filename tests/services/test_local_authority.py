"""The development issuer over HTTP, checked as any OIDC client would."""

import httpx2
import jwt
import psutil

from serve_app.local.issuer import DevIssuerServer

FORM = {"grant_type": "client_credentials", "scope": "openid", "client_id": "alice", "client_secret": "test-secret"}


def ask(authority: DevIssuerServer, path: str) -> dict[str, object]:
    answer = httpx2.get(authority.url + path, trust_env=False).raise_for_status()
    found: dict[str, object] = answer.json()
    return found


def token(authority: DevIssuerServer, **extra: str) -> str:
    # The source system's clients name the issuer of its cluster here; the token must say ours all the same.
    headers = {"Host": "mock-oidc:8080"}
    answer = httpx2.post(authority.url + "/token", data=FORM | extra, headers=headers, trust_env=False)
    assert answer.status_code == 200
    assert answer.json()["token_type"] == "Bearer"
    assert answer.json()["expires_in"] == 3600
    return str(answer.json()["access_token"])


def verified(authority: DevIssuerServer, signed: str, audience: str = "sem-image-classifier") -> dict[str, object]:
    found = ask(authority, "/.well-known/openid-configuration")
    assert found["issuer"] == authority.url
    assert str(found["description"]).startswith("development issuer")
    assert str(found["jwks_uri"]).startswith(authority.url)
    keys = jwt.PyJWKSet.from_dict(ask(authority, "/jwks"))
    key = keys[jwt.get_unverified_header(signed)["kid"]]
    claims: dict[str, object] = jwt.decode(
        signed, key, algorithms=["RS256"], audience=audience, issuer=authority.url, options={"require": ["exp", "sub"]}
    )
    return claims


def test_a_token_verifies_by_discovery(authority: DevIssuerServer) -> None:
    claims = verified(authority, token(authority))
    assert claims["sub"] == "alice"
    assert claims["scope"] == "openid"
    assert verified(authority, token(authority, audience="elsewhere"), "elsewhere")["aud"] == "elsewhere"
    assert verified(authority, authority.mint("bob"))["sub"] == "bob"


def test_tokens_outlive_a_rotation_and_a_crash(authority: DevIssuerServer) -> None:
    before = token(authority)
    rotated = httpx2.post(authority.url + "/rotate", trust_env=False).json()["kid"]
    after = token(authority)
    assert jwt.get_unverified_header(after)["kid"] == rotated != jwt.get_unverified_header(before)["kid"]
    process = psutil.Process(authority.pid)
    authority.kill()
    authority.start()
    assert not process.is_running()
    for signed in (before, after, authority.mint("alice")):
        assert verified(authority, signed)["sub"] == "alice"
