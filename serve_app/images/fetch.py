"""Fetches `image_url`, with a few redirects that are each checked like the first URL; bounded in bytes and time.

`outbound` decides which URLs are allowed and how to connect. A refused URL opens no connection.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import httpx2

from serve_app.errors import ImageTooLarge, ImageUrlFailed, ImageUrlForbidden, ImageUrlInvalid, RequestError
from serve_app.outbound.connect import Broken, OutboundRequest, Resolver, Unreachable, exchange
from serve_app.outbound.url import Policy, read_url
from serve_app.settings import MIB, Settings
from serve_app.texts import number

DEADLINE_S: Final = 10.0
MAX_REDIRECTS: Final = 3
CONTENT_TYPES: Final = ("image/", "application/octet-stream", "binary/octet-stream")
ASK: Final = OutboundRequest("GET", DEADLINE_S, {"Accept": "image/*", "Accept-Encoding": "identity"})


async def fetch(
    url: str,
    settings: Settings,
    *,
    owner: str = "",
    arrived: Callable[[int], None] = lambda _: None,
    resolver: Resolver | None = None,
    deadline_s: float = DEADLINE_S,
) -> bytes:
    """The bytes at `url`, at most `image_max_bytes`, within `deadline_s` seconds in all.

    `owner` is the user, whose concurrent name look-ups are limited. `arrived` is called with the number of bytes
    received so far, and may raise to end the fetch. The bytes are in memory once.

    Raises `ImageUrlInvalid`, `ImageUrlForbidden`, `ImageUrlFailed` or `ImageTooLarge`. None of them reveals what a
    private network answers or whether a name exists there."""
    try:
        async with asyncio.timeout(deadline_s):
            return await _follow(url, settings, replace(ASK, owner=owner), arrived, resolver)
    except TimeoutError:
        raise ImageUrlFailed(f"The image was not fetched within {deadline_s:g} seconds.") from None
    except Unreachable:
        raise ImageUrlFailed("The server of the image URL could not be reached.") from None
    except Broken as error:
        raise ImageUrlFailed(
            "The server of the image URL broke off or answered with something else than HTTP."
        ) from error


async def _follow(
    url: str, settings: Settings, ask: OutboundRequest, arrived: Callable[[int], None], resolver: Resolver | None
) -> bytes:
    policy = Policy("image URL", ImageUrlInvalid, ImageUrlForbidden, settings.image_url_private_hosts)

    async def read(response: httpx2.Response) -> bytes | str:
        if response.status_code in (301, 302, 303, 307, 308):
            return str(target.url.join(response.headers.get("location", "")))
        return await _read_image(response, settings.image_max_bytes, arrived)

    for _ in range(MAX_REDIRECTS + 1):
        target = read_url(url, policy)
        found = await exchange(target, ask, read, resolver)
        if isinstance(found, bytes):
            return found
        url = found
    raise ImageUrlFailed(f"The URL redirects more than {MAX_REDIRECTS} times.")


async def _read_image(response: httpx2.Response, max_bytes: int, arrived: Callable[[int], None]) -> bytes:
    _check_response(response, max_bytes)
    body = io.BytesIO()
    async for part in response.aiter_raw():
        if body.tell() + len(part) > max_bytes:
            raise _too_large(max_bytes)
        arrived(body.tell() + len(part))
        body.write(part)
    return body.getvalue()  # CPython returns the buffer itself; bytes(bytearray) would copy it


def _check_response(response: httpx2.Response, max_bytes: int) -> None:
    if response.status_code != 200:
        raise ImageUrlFailed(f"The server of the image URL answered with status {response.status_code}.")
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise ImageUrlFailed("The server of the image URL sent a compressed body, which was not asked for.")
    kind = response.headers.get("content-type", "image/").lower()
    if not kind.startswith(CONTENT_TYPES):
        raise ImageUrlFailed("The image URL does not return an image (by its Content-Type).")
    length = response.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > max_bytes:
        raise _too_large(max_bytes)


def _too_large(max_bytes: int) -> RequestError:
    return ImageTooLarge(f"The image behind the URL has more than {number(max_bytes / MIB)} MiB.")
