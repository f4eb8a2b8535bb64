"""The public keys of the accepted token issuers, by OpenID Connect Discovery 1.0 and RFC 7517.

Keys are cached. An unknown key id, or a signature that does not match, asks the issuer again, each at most every 30
seconds, with one fetch at a time. While an issuer is down, its last good keys stay in use. A key that the issuer
withdrew is dropped with the next refresh.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt import PyJWK
from jwt.exceptions import PyJWTError

from serve_app.errors import KeysUnavailable, TokenInvalid
from serve_app.settings import MIB, Settings

FETCH_TIMEOUT_S: Final = 3.0
FRESH_S: Final = 600.0
"""Keys older than this are fetched again in the background, which also limits how long a withdrawn key is trusted."""
COOL_DOWN_S: Final = 30.0
FAILURE_COOL_DOWN_S: Final = 5.0
DOCUMENT_MAX_BYTES: Final = 1 * MIB
KEYS_MAX: Final = 1000
"""Keys of one issuer; each takes some 20 µs to read. Further ones are ignored."""
RSA_MIN_BITS: Final = 2048
RSA_ALGORITHMS: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
ALGORITHMS_OF_KEY: Final = {
    ("RSA", None): RSA_ALGORITHMS,
    ("EC", "P-256"): frozenset({"ES256"}),
    ("EC", "secp256k1"): frozenset({"ES256K"}),
    ("EC", "P-384"): frozenset({"ES384"}),
    ("EC", "P-521"): frozenset({"ES512"}),
    ("OKP", "Ed25519"): frozenset({"EdDSA", "Ed25519"}),
    ("OKP", "Ed448"): frozenset({"EdDSA", "Ed448"}),
}
"""Algorithms that a key of this type and curve may verify (RFC 7518, RFC 8037, RFC 8812); `Ed25519` and `Ed448` are the
names that RFC 9864 gives to `EdDSA` with one of the curves."""

_log = logging.getLogger(__name__)


class _KeysUnreadable(ValueError):
    """The issuer's answer is not what it should be; the text goes to the log, never to a client."""


class _KeySkipped(ValueError):
    """One entry of a key set cannot verify anything here; the text gives the reason, for the log."""


@dataclass(frozen=True, slots=True)
class Key:
    """One verification key. A refresh keeps the object of an unchanged key, so identity shows whether a cached verdict
    is still valid."""

    issuer: str
    id: str | None
    algorithms: frozenset[str]
    """Its permitted algorithms, by its type and its `alg`."""
    digest: str
    """SHA-256 of the public key: entries with the same digest are one key."""
    public: Any = field(compare=False, repr=False)


class IssuerKeys:
    """The keys of one issuer."""

    def __init__(self, issuer: str, *, plain_http: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self.issuer = issuer
        self._plain_http = plain_http
        self._clock = clock
        self._keys: tuple[Key, ...] | None = None
        self._skipped: tuple[str, ...] = ()
        self._fetched_at = self._failed_at = float("-inf")
        self._unknown_until = self._mismatch_until = float("-inf")
        self._refresh: asyncio.Task[None] | None = None

    async def find(self, key_id: str | None, algorithm: str) -> Key:
        """The key of this id that fits the algorithm; without an id the only key that fits (RFC 7515 section 4.1.4).

        Raises `TokenInvalid` if there is none or more than one, and `KeysUnavailable` for a key that cannot be looked
        up while the issuer is down.
        """
        if self._keys is None:
            await self._fetch_once()
        elif len(self._fitting(key_id, algorithm)) != 1 and self._clock() >= self._unknown_until:
            await self._fetch_once()
            if len(self._fitting(key_id, algorithm)) != 1 and not self._is_down:
                self._unknown_until = self._clock() + COOL_DOWN_S
        elif self._clock() - self._fetched_at >= FRESH_S:
            self._start_fetch()
        found = self._fitting(key_id, algorithm)
        if len(found) == 1:
            return found[0]
        if found:
            several = "names no key (header kid)" if key_id is None else "names a key by an id that is not unique"
            raise TokenInvalid(f"The token {several}, and {len(found)} keys of its issuer fit.")
        if self._keys is None or self._is_down:
            raise KeysUnavailable("The token issuer cannot be reached. Try again in a moment.", retry_after=5)
        raise TokenInvalid("The token is signed with a key that its issuer does not publish.")

    async def find_replacement(self, key_id: str | None, algorithm: str, failed: Key) -> Key | None:
        """The key that has replaced one whose signature check failed; None if nothing has changed.

        An issuer may publish a new key under an old id. It is asked at most once per cool-down, so that tokens with
        wrong signatures cannot overload it. This cool-down is separate from that of unknown ids, which anybody can use
        up.
        """
        if self._fitting(key_id, algorithm) == [failed] and self._clock() >= self._mismatch_until:
            await self._fetch_once()
            if self._fitting(key_id, algorithm) == [failed] and not self._is_down:
                self._mismatch_until = self._clock() + COOL_DOWN_S
        found = self._fitting(key_id, algorithm)
        return found[0] if len(found) == 1 and found[0] != failed else None

    def _fitting(self, key_id: str | None, algorithm: str) -> list[Key]:
        """The keys that could verify: one entry for each public key.

        A key without an id does not match a token that names an id (RFC 7517 section 4.5).
        """
        fitting = (key for key in self._keys or () if algorithm in key.algorithms)
        return list({key.digest: key for key in fitting if key_id is None or key.id == key_id}.values())

    @property
    def _is_down(self) -> bool:
        """Whether the last fetch failed."""
        return self._failed_at > self._fetched_at

    async def close(self) -> None:
        """Cancel a running fetch."""
        if self._refresh is not None:
            self._refresh.cancel()
            await asyncio.wait([self._refresh])

    async def _fetch_once(self) -> None:
        self._start_fetch()
        if self._refresh is not None:
            # A caller that disconnects must not cancel the fetch for which others wait.
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
            known = {key: key for key in self._keys or ()}
            self._keys, self._fetched_at = tuple(known.get(key, key) for key in keys), self._clock()
        finally:
            self._refresh = None

    async def _read_keys(self) -> Sequence[Key]:
        # Use a proxy of the environment for remote issuers, never for one on this machine.
        remote = urlsplit(self.issuer).hostname not in ("localhost", "127.0.0.1", "::1")
        async with httpx2.AsyncClient(trust_env=remote, follow_redirects=False, timeout=FETCH_TIMEOUT_S) as client:
            discovery = await self._read(client, self.issuer.rstrip("/") + "/.well-known/openid-configuration")
            if discovery.get("issuer") != self.issuer:
                raise _KeysUnreadable("the discovery document names another issuer")
            address = discovery.get("jwks_uri")
            if not isinstance(address, str):
                raise _KeysUnreadable("the discovery document has no jwks_uri")
            keys, skipped = usable_keys(self.issuer, await self._read(client, address))
        if skipped != self._skipped:
            self._skipped = skipped
            _log.info("keys of issuer %s that are not used: %s", self.issuer, "; ".join(skipped) or "none")
        return keys

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

    async def find(self, issuer: str, key_id: str | None, algorithm: str) -> Key:
        """As `IssuerKeys.find`; raises `TokenInvalid` for an issuer that is not accepted."""
        return await self._of(issuer).find(key_id, algorithm)

    async def find_replacement(self, key_id: str | None, algorithm: str, failed: Key) -> Key | None:
        """As `IssuerKeys.find_replacement`, at the failed key's issuer."""
        return await self._of(failed.issuer).find_replacement(key_id, algorithm, failed)

    def _of(self, issuer: str) -> IssuerKeys:
        if keys := self._issuers.get(issuer):
            return keys
        raise TokenInvalid("The token comes from an issuer that is not accepted here.")

    async def close(self) -> None:
        for keys in self._issuers.values():
            await keys.close()


def usable_keys(issuer: str, document: dict[str, Any]) -> tuple[list[Key], tuple[str, ...]]:
    """The usable keys of a JWK set, and the reasons why others were skipped. A key that cannot be read does not affect
    the others.

    Raises ValueError for anything but a key set, and for an empty one: a starting issuer may publish that briefly, and
    its last good keys stay in use.
    """
    entries = document.get("keys")
    if not isinstance(entries, list) or not entries:
        raise _KeysUnreadable("the key set is not a list of keys")
    keys, skipped = [], []
    for number, entry in enumerate(entries[:KEYS_MAX], 1):
        try:
            keys.append(_read_key(issuer, entry))
        except _KeySkipped as reason:
            skipped.append(f"key {number}, {reason}")
    if len(entries) > KEYS_MAX:
        skipped.append(f"{len(entries) - KEYS_MAX} more than {KEYS_MAX} keys")
    return keys, tuple(skipped)


def _read_key(issuer: str, entry: Any) -> Key:
    """One key of the set. Members that are null count as missing, because some issuers write every member."""
    if not isinstance(entry, dict):
        raise _KeySkipped("not an object")
    members = {name: value for name, value in entry.items() if value is not None}
    key_id = members.get("kid")
    if not isinstance(key_id, str | None):
        raise _KeySkipped("its kid is not a text")
    if "d" in members:  # an issuer that publishes a private key has leaked it
        raise _KeySkipped(f"kid {key_id!r:.80}: it is private")
    operations = members.get("key_ops", ["verify"])  # some issuers write `sign`, which is their own use of the key
    verifies = isinstance(operations, list) and any(operation in ("verify", "sign") for operation in operations)
    if members.get("use", "sig") != "sig" or not verifies:
        raise _KeySkipped(f"kid {key_id!r:.80}: not for signatures")
    algorithms = _algorithms(members)
    try:
        # PyJWT needs the name of an algorithm to read a key; any of those that fit will do.
        public = PyJWK(members, "EdDSA" if "EdDSA" in algorithms else min(algorithms)).key
        encoded = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (PyJWTError, UnsupportedAlgorithm, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise _KeySkipped(f"kid {key_id!r:.80}: it cannot be read ({type(error).__name__})") from error
    if members["kty"] == "RSA" and public.key_size < RSA_MIN_BITS:
        raise _KeySkipped(f"kid {key_id!r:.80}: less than {RSA_MIN_BITS} bits")
    return Key(issuer, key_id, algorithms, hashlib.sha256(encoded).hexdigest(), public)


def _algorithms(members: dict[str, Any]) -> frozenset[str]:
    """The algorithms of the key's type and curve, restricted by its `alg` (RFC 8725 section 3.1)."""
    kind, curve = members.get("kty"), members.get("crv")
    fitting = None
    if isinstance(kind, str) and isinstance(curve, str | None):
        fitting = ALGORITHMS_OF_KEY.get((kind, None if kind == "RSA" else curve))
    if fitting is None:
        raise _KeySkipped(f"kid {members.get('kid')!r:.80}: of a type or curve that is not used here")
    algorithm = members.get("alg")
    if algorithm is None:
        return fitting
    if not isinstance(algorithm, str) or algorithm not in fitting:
        raise _KeySkipped(f"kid {members.get('kid')!r:.80}: its alg does not fit its type, or is not for signatures")
    return fitting if "EdDSA" in fitting else frozenset({algorithm})  # for an OKP key both names mean the same
