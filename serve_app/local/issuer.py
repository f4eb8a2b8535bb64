"""The development issuer: gives a token for any user name to anyone who can reach it, by default on loopback only.

It signs its configured issuer whatever the request's Host header says, so that clients may reach it by any name.
OpenID Connect Discovery 1.0, RFC 7517 key sets, RFC 6749 section 4.4 client credentials, RFC 9068 access tokens."""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import json
import os
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

import httpx2
import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from serve_app.contracts import SERVICE_NAME, Json
from serve_app.local.server import NotReady, Server
from serve_app.local.state import LocalError, write_private

Algorithm = Literal["RS256", "ES256"]
PrivateKey = RSAPrivateKey | EllipticCurvePrivateKey

THUMBPRINT_MEMBERS = {"RSA": ("e", "kty", "n"), "EC": ("crv", "kty", "x", "y")}  # RFC 7638 section 3.2
DESCRIPTION = "development issuer: gives a token to anyone who can reach it; never accept it in production"
LIFETIME_S = 3600
BODY_MAX_BYTES = 16 * 1024
BODY_TIMEOUT_S = 10
USER_MAX_CHARACTERS = 255
CHECK_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key and its public form."""

    private: PrivateKey
    algorithm: Algorithm
    id: str
    public: Json
    """The JSON Web Key of RFC 7517 with `kid`, `alg` and `use`."""


class SigningKeys:
    """The current and the previous key, kept in `folder` so that tokens outlive a restart. Another process sees a
    rotation only when it creates its own `SigningKeys`."""

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
        """Sign with a new key from now on; tokens of the old key stay valid until the next rotation."""
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


class Issuer:
    """Mints access tokens of the issuer `url`."""

    def __init__(self, url: str, keys: SigningKeys, audience: str = SERVICE_NAME) -> None:
        self.url = url
        self.keys = keys
        self._audience = audience

    def mint(self, user: str, *, header: Json | None = None, **claims: Any) -> str:
        """A token with subject `user`. `claims` and `header` replace the defaults; None leaves a claim out."""
        now = int(time.time())
        standard = {
            "iss": self.url,
            "sub": user,
            "aud": self._audience,
            "client_id": user,
            "iat": now,
            "nbf": now,
            "exp": now + LIFETIME_S,
            "jti": uuid.uuid4().hex,
        }
        key = self.keys.current
        payload = {name: value for name, value in {**standard, **claims}.items() if value is not None}
        return jwt.encode(payload, key.private, key.algorithm, {"typ": "at+jwt", "kid": key.id, **(header or {})})


def issuer_app(issuer: Issuer) -> Starlette:
    """The issuer's routes, below the path of its URL."""

    async def discovery(_: Request) -> JSONResponse:
        return JSONResponse(_discovery(issuer))

    async def key_set(_: Request) -> JSONResponse:
        return JSONResponse(issuer.keys.published())

    async def rotate(_: Request) -> JSONResponse:
        await run_in_threadpool(issuer.keys.rotate)
        return JSONResponse({"kid": issuer.keys.current.id})

    async def token(request: Request) -> JSONResponse:
        form = await _form(request)
        user = form.get("client_id", "")
        if form.get("grant_type") != "client_credentials":
            return _refusal("unsupported_grant_type", "grant_type must be client_credentials")
        if not user.strip() or len(user) > USER_MAX_CHARACTERS:
            return _refusal("invalid_request", f"client_id names the user, 1 to {USER_MAX_CHARACTERS} characters")
        wanted: Json = {
            claim: form[name] for claim, name in (("scope", "scope"), ("aud", "audience")) if form.get(name)
        }
        signed = await run_in_threadpool(issuer.mint, user, **wanted)
        answer = {"access_token": signed, "token_type": "Bearer", "expires_in": LIFETIME_S}
        if "scope" in wanted:
            answer["scope"] = wanted["scope"]
        return JSONResponse(answer, headers={"Cache-Control": "no-store"})

    routes = [
        Route("/.well-known/openid-configuration", discovery),
        Route("/jwks", key_set),
        Route("/token", token, methods=["POST"]),
        Route("/rotate", rotate, methods=["POST"]),
    ]
    return Starlette(routes=[Mount(urlsplit(issuer.url).path, routes=routes)])


def _discovery(issuer: Issuer) -> Json:
    return {
        "issuer": issuer.url,
        "description": DESCRIPTION,
        "jwks_uri": f"{issuer.url}/jwks",
        "token_endpoint": f"{issuer.url}/token",
        "grant_types_supported": ["client_credentials"],
        "token_endpoint_auth_methods_supported": ["client_secret_post"],
        "response_types_supported": [],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": [issuer.keys.current.algorithm],
    }


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form body; empty if it is too large, too slow or not a form."""
    body = b""
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > BODY_MAX_BYTES:
                    return {}
        return dict(parse_qsl(body.decode(), max_num_fields=32))
    except (TimeoutError, ValueError):
        return {}


def _refusal(code: str, description: str) -> JSONResponse:
    """An error in the form of RFC 6749 section 5.2."""
    return JSONResponse({"error": code, "error_description": description}, status_code=400)


def main() -> None:
    """Serve until stopped."""
    import uvicorn

    parser = argparse.ArgumentParser(description=DESCRIPTION)
    parser.add_argument("--host", default="127.0.0.1", help="where to listen; a pod that others ask: 0.0.0.0")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--issuer", required=True, help="the issuer URL to sign; its path is where the routes are")
    parser.add_argument("--folder", type=Path, required=True, help="where the keys are kept")
    options = parser.parse_args()
    app = issuer_app(Issuer(options.issuer, SigningKeys(options.folder)))
    uvicorn.run(
        app,
        host=options.host,
        port=options.port,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=2,
        lifespan="off",
    )


if __name__ == "__main__":
    main()


class DevIssuerServer(Server):
    """The development issuer in its own process, with its keys in the data folder."""

    title = "The development issuer"
    process_names = ("python", "Python")
    as_service = False  # `nobody` may not be able to read this interpreter

    @property
    def url(self) -> str:
        """The issuer's URL in tokens."""
        return f"http://localhost:{self.port}/default"

    def mint(self, user: str, **claims: Any) -> str:
        """A token signed with the current key, with claims as in `Issuer.mint`. Also works while the server is down."""
        return Issuer(self.url, SigningKeys(self.data)).mint(user, **claims)

    def _environment(self) -> dict[str, str]:
        return dict(os.environ)  # our own code under our own account: it needs our interpreter's environment

    def _prepare(self) -> None:
        self._make_data_folder(self.data)

    def _command(self) -> list[str]:
        options = [f"--port={self.port}", f"--issuer={self.url}", f"--folder={self.data}"]
        return [sys.executable, "-P", "-m", "serve_app.local.issuer", *options]

    def _check(self) -> None:
        address = f"http://127.0.0.1:{self.port}/default/.well-known/openid-configuration"
        try:
            httpx2.get(address, timeout=CHECK_TIMEOUT_S, trust_env=False).raise_for_status()
        except httpx2.HTTPError as error:
            raise NotReady from error
