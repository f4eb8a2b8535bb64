"""The signing keys of the development issuer, kept in files so that tokens outlive a restart."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from serve_app.contracts import Json
from serve_app.local.state import LocalError, write_private

Algorithm = Literal["RS256", "ES256"]
PrivateKey = RSAPrivateKey | EllipticCurvePrivateKey

THUMBPRINT_MEMBERS = {"RSA": ("e", "kty", "n"), "EC": ("crv", "kty", "x", "y")}  # RFC 7638 section 3.2


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key and how it is published."""

    private: PrivateKey
    algorithm: Algorithm
    id: str
    public: Json
    """The JSON Web Key of RFC 7517 with `kid`, `alg` and `use`."""


class SigningKeys:
    """The current key and the one before it, in `folder`. Another process sees a rotation when it makes its own."""

    def __init__(self, folder: Path, algorithm: Algorithm = "RS256") -> None:
        self._current = folder / "current.pem"
        self._previous = folder / "previous.pem"
        self._algorithm = algorithm
        if not self._current.exists():
            write_private(self._current, _new_key(algorithm))
        self.keys = self._load()

    @property
    def current(self) -> SigningKey:
        return self.keys[0]

    def rotate(self) -> None:
        """Sign with a new key from now on; tokens of the old one stay valid until the next rotation."""
        write_private(self._previous, self._current.read_text())
        write_private(self._current, _new_key(self._algorithm))
        self.keys = self._load()

    def published(self) -> Json:
        """The JSON Web Key Set that verifiers read."""
        return {"keys": [key.public for key in self.keys]}

    def _load(self) -> tuple[SigningKey, ...]:
        found = {key.id: key for path in (self._current, self._previous) if path.exists() for key in (_read_key(path),)}
        return tuple(found.values())


def _new_key(algorithm: Algorithm) -> str:
    private: PrivateKey
    if algorithm == "RS256":
        private = generate_rsa_key(public_exponent=65537, key_size=2048)
    else:
        private = generate_private_key(SECP256R1())
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _read_key(path: Path) -> SigningKey:
    private = load_pem_private_key(path.read_bytes(), password=None)
    algorithm: Algorithm
    if isinstance(private, RSAPrivateKey):
        algorithm, public = "RS256", RSAAlgorithm.to_jwk(private.public_key(), as_dict=True)
    elif isinstance(private, EllipticCurvePrivateKey):
        algorithm, public = "ES256", ECAlgorithm.to_jwk(private.public_key(), as_dict=True)
    else:
        raise LocalError(f"{path} holds a key of another kind; remove the file and a new key is made.")
    members = {name: public[name] for name in THUMBPRINT_MEMBERS[public["kty"]]}
    digest = hashlib.sha256(json.dumps(members, sort_keys=True, separators=(",", ":")).encode()).digest()
    key_id = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    return SigningKey(private, algorithm, key_id, {**public, "kid": key_id, "alg": algorithm, "use": "sig"})
