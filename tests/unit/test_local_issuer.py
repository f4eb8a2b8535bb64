"""Tokens and keys of the development issuer, without a server."""

from pathlib import Path

import jwt
import pytest
from starlette.testclient import TestClient

from serve_app.local.issuer import Algorithm, Issuer, SigningKeys, issuer_app

URL = "http://localhost:18080/default"


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    return Issuer(URL, SigningKeys(tmp_path, "ES256"))


def verified(issuer: Issuer, token: str) -> dict[str, object]:
    keys = jwt.PyJWKSet.from_dict(issuer.keys.published())
    key = keys[jwt.get_unverified_header(token)["kid"]]
    claims: dict[str, object] = jwt.decode(
        token, key, algorithms=[key.algorithm_name], audience="sem-image-classifier", issuer=URL
    )
    return claims


@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
def test_a_token_verifies_with_the_published_keys(tmp_path: Path, algorithm: Algorithm) -> None:
    issuer = Issuer(URL, SigningKeys(tmp_path, algorithm))
    token = issuer.mint("alice")
    claims = verified(issuer, token)
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


def test_a_token_outlives_a_restart_and_one_rotation(issuer: Issuer, tmp_path: Path) -> None:
    token = issuer.mint("alice")
    restarted = Issuer(URL, SigningKeys(tmp_path))
    assert verified(restarted, token)["sub"] == "alice"
    restarted.keys.rotate()
    assert verified(restarted, token)["sub"] == "alice"
    assert verified(restarted, restarted.mint("bob"))["sub"] == "bob"
    restarted.keys.rotate()
    with pytest.raises(KeyError):
        verified(restarted, token)


def test_keys_are_private_files(issuer: Issuer, tmp_path: Path) -> None:
    issuer.keys.rotate()
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        "current.pem": 0o600,
        "previous.pem": 0o600,
    }


GRANT = {"grant_type": "client_credentials", "client_id": "alice", "client_secret": "test-secret"}


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({}, "unsupported_grant_type"),
        (GRANT | {"grant_type": "password"}, "unsupported_grant_type"),
        (GRANT | {"client_id": ""}, "invalid_request"),
        (GRANT | {"client_id": "a" * 256}, "invalid_request"),
        (GRANT | {"scope": "a" * 20_000}, "unsupported_grant_type"),
        (GRANT | {f"field{number}": "x" for number in range(40)}, "unsupported_grant_type"),
    ],
)
def test_a_bad_grant_is_refused(issuer: Issuer, form: dict[str, str], error: str) -> None:
    answer = TestClient(issuer_app(issuer)).post("/default/token", data=form)
    assert answer.status_code == 400
    assert answer.json()["error"] == error


def test_bytes_that_are_no_form_are_refused(issuer: Issuer) -> None:
    answer = TestClient(issuer_app(issuer)).post("/default/token", content=b"\xff\xfe\x00")
    assert answer.status_code == 400
