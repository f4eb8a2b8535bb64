"""Which keys of a published key set are ever verified with, and for which algorithms."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm, get_default_algorithms, requires_cryptography
from jwt.utils import base64url_encode

from serve_app.gateway.jwks import ALGORITHMS_OF_KEY, KEYS_MAX, RSA_ALGORITHMS, Key, usable_keys
from serve_app.settings import TOKEN_ALGORITHMS, Settings

RSA = rsa.generate_private_key(65537, 2048)


def curve(kind: ec.EllipticCurve) -> dict[str, Any]:
    return json.loads(ECAlgorithm.to_jwk(ec.generate_private_key(kind).public_key()))


GOOD = {
    "RSA": (json.loads(RSAAlgorithm.to_jwk(RSA.public_key())), RSA_ALGORITHMS),
    "P-256": (curve(ec.SECP256R1()), {"ES256"}),
    "secp256k1": (curve(ec.SECP256K1()), {"ES256K"}),
    "P-384": (curve(ec.SECP384R1()), {"ES384"}),
    "P-521": (curve(ec.SECP521R1()), {"ES512"}),
    "Ed25519": (
        json.loads(OKPAlgorithm.to_jwk(ed25519.Ed25519PrivateKey.generate().public_key())),
        {"EdDSA", "Ed25519"},
    ),
    "Ed448": (json.loads(OKPAlgorithm.to_jwk(ed448.Ed448PrivateKey.generate().public_key())), {"EdDSA", "Ed448"}),
}
GOOD_RSA, GOOD_EC, GOOD_ED = GOOD["RSA"][0], GOOD["P-256"][0], GOOD["Ed25519"][0]
X25519 = x25519.X25519PrivateKey.generate().public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
BAD: dict[str, Any] = {
    "short RSA": json.loads(RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 1024).public_key())),  # noqa: S505
    "private": json.loads(RSAAlgorithm.to_jwk(RSA)),
    "symmetric": {"kty": "oct", "k": "c2VjcmV0"},
    "a curve for key exchange": {"kty": "OKP", "crv": "X25519", "x": base64url_encode(X25519).decode()},
    "a curve nobody knows": {**GOOD_EC, "crv": "P-999"},
    "for encryption": {**GOOD_RSA, "use": "enc"},
    "for encryption, by its operations": {**GOOD_RSA, "key_ops": ["encrypt", "wrapKey"]},
    "operations that are no list": {**GOOD_RSA, "key_ops": 5},
    "an algorithm of encryption": {**GOOD_RSA, "alg": "RSA-OAEP"},
    "an algorithm of another type": {**GOOD_RSA, "alg": "ES256"},
    "an algorithm of another curve": {**GOOD_EC, "alg": "ES384"},
    "the other Edwards curve": {**GOOD_ED, "alg": "Ed448"},
    "a secret's algorithm": {**GOOD_RSA, "alg": "HS256"},
    "no algorithm at all": {**GOOD_RSA, "alg": "none"},
    "confused type": {**GOOD_EC, "kty": "RSA"},
    "id that is no text": {**GOOD_RSA, "kid": 7},
    "type that is no text": {**GOOD_RSA, "kty": ["RSA"]},
    "curve that is no text": {**GOOD_EC, "crv": ["P-256"]},
    "algorithm that is no text": {**GOOD_RSA, "alg": ["RS256"]},
    "type that nobody knows": {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AAAA"},
    "type that is missing": {"n": GOOD_RSA["n"], "e": "AQAB"},
    "numbers that are none": {**GOOD_RSA, "n": "!!"},
    "numbers that are no text": {**GOOD_RSA, "n": 7},
    "numbers of another length": {**GOOD_EC, "x": "AAAA"},
    "a point beside the curve": {**GOOD_EC, "x": GOOD_EC["y"], "y": GOOD_EC["x"]},
    "a certificate and nothing else": {"kty": "RSA", "x5c": ["MIIB"]},
    "all members null": dict.fromkeys(("kty", "alg", "use", "crv", "n", "e", "kid")),
}


def only(*entries: Any) -> list[Key]:
    return usable_keys("issuer", {"keys": list(entries)})[0]


@pytest.mark.parametrize("name", GOOD)
def test_a_key_of_each_type_verifies_the_algorithms_of_its_type(name: str) -> None:
    entry, algorithms = GOOD[name]
    [key] = only({**entry, "kid": "one", "use": None, "alg": None, "x5c": ["junk"]})
    assert (key.id, key.algorithms) == ("one", algorithms)


@pytest.mark.parametrize("algorithm", sorted(RSA_ALGORITHMS))
def test_a_key_with_an_algorithm_verifies_no_other(algorithm: str) -> None:
    assert [key.algorithms for key in only({**GOOD_RSA, "alg": algorithm})] == [{algorithm}]


@pytest.mark.parametrize("algorithm", ["EdDSA", "Ed25519"])
def test_both_names_of_an_edwards_key_mean_the_same(algorithm: str) -> None:
    assert [key.algorithms for key in only({**GOOD_ED, "alg": algorithm})] == [{"EdDSA", "Ed25519"}]


@pytest.mark.parametrize("name", BAD)
def test_a_bad_key_is_skipped_by_name_and_harms_no_other(name: str) -> None:
    bad = {"kid": "bad", **BAD[name]}
    keys, skipped = usable_keys("issuer", {"keys": [bad, {**GOOD_EC, "kid": "good"}]})
    assert [key.id for key in keys] == ["good"]
    assert len(skipped) == 1
    assert skipped[0].startswith("key 1, ")
    assert only(bad) == []


@pytest.mark.parametrize("entry", ["x", None, 7, []])
def test_an_entry_that_is_no_key_is_skipped(entry: Any) -> None:
    assert [key.id for key in only(entry, {**GOOD_EC, "kid": "good"})] == ["good"]


@pytest.mark.parametrize("document", [{}, {"keys": None}, {"keys": {}}, {"keys": []}])
def test_what_is_no_key_set_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="key set"):
        usable_keys("issuer", document)


def test_of_a_set_with_too_many_keys_the_first_ones_count() -> None:
    entries = [{**GOOD_EC, "kid": str(number)} for number in range(KEYS_MAX + 5)]
    keys, skipped = usable_keys("issuer", {"keys": entries})
    assert (len(keys), keys[-1].id) == (KEYS_MAX, str(KEYS_MAX - 1))
    assert skipped == (f"5 more than {KEYS_MAX} keys",)


def test_every_asymmetric_algorithm_of_pyjwt_is_accepted_and_no_other() -> None:
    ours = {*TOKEN_ALGORITHMS} - {"Ed25519", "Ed448"}
    assert ours == requires_cryptography - {"ES521"}  # PyJWT's own second name of ES512, in no specification
    assert ours < get_default_algorithms().keys()
    assert Settings().oidc_algorithms == TOKEN_ALGORITHMS
    assert {name for names in ALGORITHMS_OF_KEY.values() for name in names} == {*TOKEN_ALGORITHMS}
