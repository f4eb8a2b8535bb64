"""Which keys of a published key set are ever verified with."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from serve_app.gateway.keys import usable_keys

RSA = rsa.generate_private_key(65537, 2048)
GOOD = {
    "RS256": json.loads(RSAAlgorithm.to_jwk(RSA.public_key())),
    "ES256": json.loads(ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()).public_key())),
    "EdDSA": json.loads(OKPAlgorithm.to_jwk(ed25519.Ed25519PrivateKey.generate().public_key())),
}
BAD = {
    "short RSA": json.loads(RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 1024).public_key())),  # noqa: S505
    "private": json.loads(RSAAlgorithm.to_jwk(RSA)),
    "symmetric": {"kty": "oct", "k": "c2VjcmV0"},
    "another curve": json.loads(ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP384R1()).public_key())),
    "for encryption": {**GOOD["RS256"], "use": "enc"},
    "another algorithm": {**GOOD["RS256"], "alg": "RS512"},
    "confused type": {**GOOD["ES256"], "kty": "RSA"},
    "id that is no text": {**GOOD["RS256"], "kid": 7},
    "type that is no text": {**GOOD["RS256"], "kty": ["RSA"]},
    "numbers that are none": {**GOOD["RS256"], "n": "!!"},
}


@pytest.mark.parametrize("algorithm", GOOD)
def test_a_key_of_each_accepted_kind_is_usable(algorithm: str) -> None:
    keys = usable_keys("issuer", {"keys": [{**GOOD[algorithm], "kid": "one"}]})
    assert keys["one"].verifier.algorithm_name == algorithm


@pytest.mark.parametrize("name", BAD)
def test_a_bad_key_is_skipped_and_harms_no_other(name: str) -> None:
    good: dict[str, Any] = {**GOOD["ES256"], "kid": "good"}
    assert usable_keys("issuer", {"keys": [{"kid": "bad", **BAD[name]}, good]}).keys() == {"good"}


@pytest.mark.parametrize("document", [{}, {"keys": None}, {"keys": []}, {"keys": ["x"]}, {"keys": [{}] * 101}])
def test_a_set_without_a_usable_key_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="key set"):
        usable_keys("issuer", document)
