"""The development issuer: its tokens, keys and refusals, over HTTP as any OIDC client sees them."""

from pathlib import Path

import httpx2
import jwt
import psutil
import pytest
from starlette.testclient import TestClient

from serve_app.local.issuer import Algorithm, DevIssuerServer, Issuer, SigningKeys, issuer_app

URL = "http://localhost:18080/default"
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
    return decoded(ask(authority, "/jwks"), authority.url, signed, audience)


def decoded(
    published: dict[str, object], issuer: str, signed: str, audience: str = "sem-image-classifier"
) -> dict[str, object]:
    key = jwt.PyJWKSet.from_dict(published)[jwt.get_unverified_header(signed)["kid"]]
    required = {"require": ["exp", "sub"]}
    claims: dict[str, object] = jwt.decode(
        signed, key, algorithms=[key.algorithm_name], audience=audience, issuer=issuer, options=required
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


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    return Issuer(URL, SigningKeys(tmp_path, "ES256"))


@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
def test_a_token_verifies_with_the_published_keys(tmp_path: Path, algorithm: Algorithm) -> None:
    issuer = Issuer(URL, SigningKeys(tmp_path, algorithm))
    token = issuer.mint("alice")
    claims = decoded(issuer.keys.published(), URL, token)
    assert claims["sub"] == claims["client_id"] == "alice"
    assert set(claims) == {"iss", "sub", "aud", "client_id", "iat", "nbf", "exp", "jti"}
    assert jwt.get_unverified_header(token) == {"typ": "at+jwt", "alg": algorithm, "kid": issuer.keys.current.id}
    assert not {"d", "p", "q"} & set(issuer.keys.published()["keys"][0])


def test_a_hostile_token_can_be_made(issuer: Issuer) -> None:
    token = issuer.mint("alice", exp=1, jti=None, header={"kid": "nobody's"})
    payload = jwt.decode(token, options={"verify_signature": False})
    assert payload["exp"] == 1
    assert "jti" not in payload
    assert jwt.get_unverified_header(token)["kid"] == "nobody's"


def test_the_second_rotation_withdraws_a_key(issuer: Issuer) -> None:
    token = issuer.mint("alice")
    issuer.keys.rotate()
    assert decoded(issuer.keys.published(), URL, token)["sub"] == "alice"
    issuer.keys.rotate()
    with pytest.raises(KeyError):
        decoded(issuer.keys.published(), URL, token)


def test_keys_are_private_files(issuer: Issuer, tmp_path: Path) -> None:
    issuer.keys.rotate()
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        "current.pem": 0o600,
        "previous.pem": 0o600,
    }


@pytest.mark.parametrize(
    ("form", "error"),
    [
        (b"\xff\xfe\x00", "unsupported_grant_type"),
        ({}, "unsupported_grant_type"),
        (FORM | {"grant_type": "password"}, "unsupported_grant_type"),
        (FORM | {"client_id": ""}, "invalid_request"),
        (FORM | {"client_id": "a" * 256}, "invalid_request"),
        (FORM | {"scope": "a" * 20_000}, "unsupported_grant_type"),
        (FORM | {f"field{number}": "x" for number in range(40)}, "unsupported_grant_type"),
    ],
)
def test_a_bad_grant_is_refused(issuer: Issuer, form: dict[str, str] | bytes, error: str) -> None:
    answer = TestClient(issuer_app(issuer)).post(
        "/default/token", **{"content" if isinstance(form, bytes) else "data": form}
    )
    assert answer.status_code == 400
    assert answer.json()["error"] == error
