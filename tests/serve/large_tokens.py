"""The largest token that the service takes, what it looks like when it was changed, and a larger one."""

from __future__ import annotations

from collections.abc import Callable

import httpx2

from serve_app.gateway.auth import TOKEN_MAX_BYTES

PATH = "/api/v1/models"


def large_tokens(mint: Callable[..., str]) -> list[str]:
    """A token of 64 kB less a few bytes, the same with another signature, and one that is too large."""
    padding = (TOKEN_MAX_BYTES - len(mint("ada", padding=""))) * 3 // 4 - 4  # base64 makes four of three
    largest, too_large = mint("ada", padding="x" * padding), mint("ada", padding="x" * (padding + 8))
    assert TOKEN_MAX_BYTES - 8 < len(largest) <= TOKEN_MAX_BYTES < len(too_large)
    return [largest, f"{largest[:-40]}{'BA'[largest[-40] == 'B']}{largest[-39:]}", too_large]


def check_large_tokens(url: str, tokens: list[str]) -> None:
    """Each is answered by the service itself, in words: no proxy before it stops one."""
    wanted = ((200, "models"), (401, "signature does not match"), (401, f"larger than {TOKEN_MAX_BYTES} bytes"))
    for token, (status, words) in zip(tokens, wanted, strict=True):
        answer = httpx2.get(f"{url}{PATH}", headers={"Authorization": f"Bearer {token}"}, trust_env=False)
        assert (answer.status_code, words in answer.text) == (status, True), answer.text[:300]
