"""Signatures by the rules of Standard Webhooks 1.0.0: HMAC-SHA256 over `id.timestamp.body`, base64, `v1,` in front."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping
from typing import Final

from serve_app.webhooks.limits import SECRET_BYTES

PREFIX: Final = "whsec_"


def new_secret() -> str:
    """A secret as its owner keeps it: base64 behind `whsec_`."""
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode("ascii")


def sign(keys: Iterable[str], message: str, timestamp: int, body: bytes) -> Mapping[str, str]:
    """The three headers; one signature for each secret, so that a receiver that knows any of them can verify."""
    signed = f"{message}.{timestamp}.".encode() + body
    return {
        "webhook-id": message,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(_signature(secret, signed) for secret in keys),
    }


def _signature(secret: str, signed: bytes) -> str:
    raw = base64.b64decode(secret.removeprefix(PREFIX))
    return "v1," + base64.b64encode(hmac.digest(raw, signed, hashlib.sha256)).decode("ascii")
