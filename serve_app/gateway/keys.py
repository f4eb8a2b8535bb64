"""The public keys of the accepted token issuers, by OpenID Connect Discovery 1.0 and RFC 7517.

Keys are cached; an unknown key id asks the issuer again, at most every 30 seconds; one fetch at a time;
while an issuer is away its last good keys stay in use. A key the issuer withdrew is forgotten with the next refresh.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2
from jwt import PyJWK
from jwt.exceptions import PyJWTError

from serve_app.errors import KeysUnavailable, TokenInvalid
from serve_app.settings import MIB, Settings

FETCH_TIMEOUT_S: Final = 3.0
FRESH_S: Final = 600.0
"""After this age keys are fetched again beside the requests, which also bounds how long a withdrawn key is trusted."""
UNKNOWN_KEY_COOL_DOWN_S: Final = 30.0
FAILURE_COOL_DOWN_S: Final = 5.0
DOCUMENT_MAX_BYTES: Final = 1 * MIB
KEYS_MAX: Final = 100
RSA_MIN_BITS: Final = 2048
ALGORITHM_OF_KEY: Final = {("RSA", None): "RS256", ("EC", "P-256"): "ES256", ("OKP", "Ed25519"): "EdDSA"}

_log = logging.getLogger(__name__)


class _KeysUnreadable(ValueError):
    """The issuer answered, but not with what it should; the text goes to the log, never to a client."""


@dataclass(frozen=True, slots=True)
class Key:
    """One verification key. A refresh makes new objects, so identity tells whether a cached verdict still holds."""

    issuer: str
    id: str
    verifier: PyJWK


class IssuerKeys:
    """The keys of one issuer."""

    def __init__(self, issuer: str, *, plain_http: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self.issuer = issuer
        self._plain_http = plain_http
        self._clock = clock
        self._keys: dict[str, Key] | None = None
        self._fetched_at = self._failed_at = self._unknown_until = float("-inf")
        self._refresh: asyncio.Task[None] | None = None

    async def find(self, key_id: str) -> Key:
        """The key of this id. Raises `TokenInvalid` for one that the issuer does not have, `KeysUnavailable` for one
        that cannot be looked up while the issuer is away."""
        if self._keys is None:
            await self._fetch_once()
        elif key_id not in self._keys and self._clock() >= self._unknown_until:
            await self._fetch_once()
            if key_id not in self._keys and not self._away:
                self._unknown_until = self._clock() + UNKNOWN_KEY_COOL_DOWN_S
        elif self._clock() - self._fetched_at >= FRESH_S:
            self._start_fetch()
        if self._keys is not None and (key := self._keys.get(key_id)):
            return key
        if self._keys is None or self._away:
            raise KeysUnavailable("The token issuer cannot be reached. Try again in a moment.", retry_after=5)
        raise TokenInvalid("The token is signed with a key that its issuer does not publish.")

    @property
    def _away(self) -> bool:
        """Whether the last fetch failed."""
        return self._failed_at > self._fetched_at

    async def close(self) -> None:
        """End a fetch that is under way."""
        if self._refresh is not None:
            self._refresh.cancel()
            await asyncio.wait([self._refresh])

    async def _fetch_once(self) -> None:
        self._start_fetch()
        if self._refresh is not None:
            # A caller that goes away must not cancel the fetch that others wait for.
            await asyncio.shield(self._refresh)

    def _start_fetch(self) -> None:
        if self._refresh is None and self._clock() - self._failed_at >= FAILURE_COOL_DOWN_S:
            self._refresh = asyncio.create_task(self._fetch())

    async def _fetch(self) -> None:
        try:
            async with asyncio.timeout(FETCH_TIMEOUT_S):
                keys = await self._read_keys()
        except (OSError, ValueError, httpx2.HTTPError, httpx2.InvalidURL) as error:
            self._failed_at = self._clock()
            _log.warning("keys of issuer %s could not be read: %s: %s", self.issuer, type(error).__name__, error)
        else:
            self._keys, self._fetched_at = keys, self._clock()
        finally:
            self._refresh = None

    async def _read_keys(self) -> dict[str, Key]:
        # A proxy from the environment may stand between us and a remote issuer, never before one on this machine.
        remote = urlsplit(self.issuer).hostname not in ("localhost", "127.0.0.1", "::1")
        async with httpx2.AsyncClient(trust_env=remote, follow_redirects=False, timeout=FETCH_TIMEOUT_S) as client:
            discovery = await self._read(client, self.issuer.rstrip("/") + "/.well-known/openid-configuration")
            if discovery.get("issuer") != self.issuer:
                raise _KeysUnreadable("the discovery document names another issuer")
            address = discovery.get("jwks_uri")
            if not isinstance(address, str):
                raise _KeysUnreadable("the discovery document has no jwks_uri")
            return usable_keys(self.issuer, await self._read(client, address))

    async def _read(self, client: httpx2.AsyncClient, url: str) -> dict[str, Any]:
        if urlsplit(url).scheme != "https" and not self._plain_http:
            raise _KeysUnreadable(f"{url} is not https")
        body = bytearray()
        async with client.stream("GET", url, headers={"Accept": "application/json"}) as response:
            if response.status_code != 200:
                raise _KeysUnreadable(f"{url} answered {response.status_code}")
            async for piece in response.aiter_bytes():
                body += piece
                if len(body) > DOCUMENT_MAX_BYTES:
                    raise _KeysUnreadable(f"{url} is larger than {DOCUMENT_MAX_BYTES} bytes")
        try:
            document = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise _KeysUnreadable(f"{url} is not JSON") from error
        if not isinstance(document, dict):
            raise _KeysUnreadable(f"{url} is not a JSON object")
        return document


class KeyRing:
    """The keys of every accepted issuer."""

    def __init__(self, settings: Settings) -> None:
        plain_http = settings.environment in ("local", "dev")
        self._issuers = {name: IssuerKeys(name, plain_http=plain_http) for name in settings.oidc_issuers}

    async def find(self, issuer: str, key_id: str) -> Key:
        """The key; raises `TokenInvalid` for an issuer that is not accepted, else as `IssuerKeys.find`."""
        if keys := self._issuers.get(issuer):
            return await keys.find(key_id)
        raise TokenInvalid("The token comes from an issuer that is not accepted here.")

    async def close(self) -> None:
        for keys in self._issuers.values():
            await keys.close()


def usable_keys(issuer: str, document: dict[str, Any]) -> dict[str, Key]:
    """Signature keys of a JWK set that this service would verify with; everything else in it is skipped."""
    entries = document.get("keys")
    if not isinstance(entries, list) or len(entries) > KEYS_MAX:
        raise _KeysUnreadable(f"the key set is not a list of at most {KEYS_MAX} keys")
    keys = {}
    for entry in entries:
        if isinstance(entry, dict) and (verifier := _verifier(entry)):
            keys[entry["kid"]] = Key(issuer, entry["kid"], verifier)
    if not keys:
        raise _KeysUnreadable("the key set has no usable key")
    return keys


def _verifier(entry: dict[str, Any]) -> PyJWK | None:
    kind = (entry.get("kty"), None if entry.get("kty") == "RSA" else entry.get("crv"))
    if not all(isinstance(part, str | None) for part in kind) or not isinstance(entry.get("kid"), str):
        return None
    algorithm = ALGORITHM_OF_KEY.get(kind)  # type: ignore[arg-type]
    if algorithm is None or entry.get("alg", algorithm) != algorithm or entry.get("use", "sig") != "sig":
        return None
    if "d" in entry:  # an issuer that publishes a private key has lost it
        return None
    try:
        verifier = PyJWK(entry, algorithm)
    except (PyJWTError, ValueError, TypeError):
        return None
    return None if algorithm == "RS256" and verifier.key.key_size < RSA_MIN_BITS else verifier
