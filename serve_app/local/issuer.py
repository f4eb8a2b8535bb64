"""The development issuer: gives a token for any user name to anyone who can reach it, by default on loopback only.

It signs its configured issuer whatever the request's Host header says, so that clients may reach it by any name.
OpenID Connect Discovery 1.0, RFC 7517 key sets, RFC 6749 section 4.4 client credentials, RFC 9068 access tokens.
"""

from __future__ import annotations

import argparse
import asyncio
import time
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import jwt
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from serve_app.contracts import SERVICE_NAME, Json
from serve_app.local.keys import SigningKeys

DESCRIPTION = "development issuer: gives a token to anyone who can reach it; never accept it in production"
LIFETIME_S = 3600
BODY_MAX_BYTES = 16 * 1024
BODY_TIMEOUT_S = 10
USER_MAX_CHARACTERS = 255


class Issuer:
    """Mints access tokens of the issuer `url`."""

    def __init__(self, url: str, keys: SigningKeys, audience: str = SERVICE_NAME) -> None:
        self.url = url
        self.keys = keys
        self._audience = audience

    def mint(self, user: str, *, header: Json | None = None, **claims: Any) -> str:
        """A token with subject `user`. `claims` and `header` replace what it would hold; None leaves a claim out."""
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
    """The fields of a form body; empty when it is too large, too slow or no form."""
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
    """An error as RFC 6749 section 5.2 shapes it."""
    return JSONResponse({"error": code, "error_description": description}, status_code=400)


def main() -> None:
    """Serve until told to end."""
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
