"""Fetch `image_url` without becoming a way into the network the service runs in.

A name is resolved once, every address of it must be public, and the connection goes to that very address: the request's
URL carries the number, its Host header and TLS name the original host, so no second look-up can change the answer.
Every redirect is a new URL, a new check and a new connection. A URL that is refused opens no connection.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_address

import httpx2

from serve_app.errors import ImageTooLarge, ImageUrlFailed, ImageUrlForbidden, ImageUrlInvalid
from serve_app.images.address import is_local_name, is_public
from serve_app.settings import MIB, Settings

Resolver = Callable[[str, int], Awaitable[list[str]]]
"""Host and port to the addresses of the host; raises `OSError`."""

DEADLINE_S = 10.0
CONNECT_S = 3.0
MAX_REDIRECTS = 3
MAX_ADDRESSES = 3
"""Addresses of one host that are tried, in the resolver's order."""
MAX_URL = 2048
PUBLIC_PORTS = (80, 443)
CONTENT_TYPES = ("image/", "application/octet-stream", "binary/octet-stream")
HEADERS = {"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "sem-image-classifier"}

_HOST = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")

# A hung name server holds threads for longer than a request lives; it must not take those of the rest of the process.
_LOOKUPS = ThreadPoolExecutor(max_workers=8, thread_name_prefix="lookup")


@dataclass(frozen=True, slots=True)
class _Target:
    url: httpx2.URL
    host: str
    port: int
    private: bool
    """True where IMAGE_URL_PRIVATE_HOSTS lets it be."""


async def fetch(
    url: str, settings: Settings, *, resolver: Resolver | None = None, deadline_s: float = DEADLINE_S
) -> bytes:
    """The bytes behind `url`, at most `image_max_bytes`, within `deadline_s` seconds for everything together.

    Raises `ImageUrlInvalid`, `ImageUrlForbidden`, `ImageUrlFailed` or `ImageTooLarge`. What a private network answers,
    and whether a name exists there, shows in none of them.
    """
    try:
        async with asyncio.timeout(deadline_s):
            return await _follow(url, settings, resolver or _look_up)
    except TimeoutError:
        raise ImageUrlFailed(f"The image was not fetched within {deadline_s:g} seconds.") from None


async def _follow(url: str, settings: Settings, resolver: Resolver) -> bytes:
    target = _target(url, settings)
    for _ in range(MAX_REDIRECTS + 1):
        addresses = await _addresses(target, resolver)
        found = await _get(target, addresses, settings.image_max_bytes)
        if isinstance(found, bytes):
            return found
        target = _target(found, settings)
    raise ImageUrlFailed(f"The URL redirects more than {MAX_REDIRECTS} times.")


def _target(url: str, settings: Settings) -> _Target:
    if len(url) > MAX_URL:
        raise ImageUrlInvalid(f"The image URL is longer than {MAX_URL} characters.")
    if re.search(r"[\x00-\x20\x7f\\]", url):
        raise ImageUrlInvalid("The image URL holds spaces, control characters or backslashes.")
    try:
        parsed = httpx2.URL(url)
        host = parsed.raw_host.decode("ascii").lower().rstrip(".")
    except (httpx2.InvalidURL, ValueError) as error:
        raise ImageUrlInvalid("The image URL cannot be parsed.") from error
    if parsed.scheme not in ("http", "https") or not host:
        raise ImageUrlInvalid("The image URL must begin with http:// or https:// and name a host.")
    if re.match(r"[^/?#]*//[^/?#]*@", url):
        raise ImageUrlInvalid("The image URL must not carry a user name or a password.")
    if len(host) > 253 or not (_is_address(host) or _HOST.fullmatch(host)):
        raise ImageUrlInvalid("The image URL's host is not a valid host name.")
    port = parsed.port or (443 if parsed.scheme == "https" else 80)
    target = _Target(parsed, host, port, _is_private_exception(host, port, settings))
    if not target.private:
        _check(target)
    return target


def _is_private_exception(host: str, port: int, settings: Settings) -> bool:
    shown = f"[{host}]" if ":" in host else host
    listed = {entry.lower() for entry in settings.image_url_private_hosts}
    return bool({host, shown, f"{shown}:{port}"} & listed)


def _check(target: _Target) -> None:
    if target.port not in PUBLIC_PORTS:
        raise ImageUrlForbidden(f"Port {target.port} is not allowed in an image URL; 80 and 443 are.")
    if _is_address(target.host):
        if not is_public(target.host):
            raise ImageUrlForbidden("The image URL does not lead to a public address.")
    elif re.fullmatch(r"\d+|0x[0-9a-f]*", target.host.rsplit(".", 1)[-1]):
        raise ImageUrlInvalid("The image URL's host is a number, but not an IP address in its usual form.")
    elif is_local_name(target.host):
        raise ImageUrlForbidden("The image URL does not lead to a public address.")


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


async def _look_up(host: str, port: int) -> list[str]:
    loop = asyncio.get_running_loop()
    found = await loop.run_in_executor(_LOOKUPS, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    return [str(entry[4][0]) for entry in found]


async def _addresses(target: _Target, resolver: Resolver) -> list[str]:
    if _is_address(target.host):
        return [target.host]
    # The closing dot keeps the resolver from trying the search domains of the cluster.
    name = target.host if target.private else target.host + "."
    try:
        found = list(dict.fromkeys(await resolver(name, target.port)))
    except (OSError, UnicodeError):
        found = []
    if not found or not (target.private or all(is_public(address) for address in found)):
        raise ImageUrlForbidden("The image URL does not lead to a public address.")
    return found[:MAX_ADDRESSES]


@cache
def _tls() -> ssl.SSLContext:
    return httpx2.create_ssl_context(trust_env=False)


async def _get(target: _Target, addresses: list[str], max_bytes: int) -> bytes | str:
    """The body, or where the server redirects to."""
    for address in addresses:
        try:
            return await _get_from(target, address, max_bytes)
        except (httpx2.ConnectError, httpx2.ConnectTimeout):
            continue
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
            raise ImageUrlFailed(
                "The server of the image URL broke off or answered with something else than HTTP."
            ) from error
    raise ImageUrlFailed("The server of the image URL could not be reached.")


async def _get_from(target: _Target, address: str, max_bytes: int) -> bytes | str:
    pinned = target.url.copy_with(host=address, fragment=None)
    headers = {**HEADERS, "Host": target.url.netloc.decode("ascii")}
    # One client per connection: a pool would reuse a connection whose TLS name was checked for another host.
    tls = await asyncio.to_thread(_tls)  # reads the machine's certificates when first asked
    async with (
        httpx2.AsyncClient(
            verify=tls,
            trust_env=False,
            timeout=httpx2.Timeout(DEADLINE_S, connect=CONNECT_S),
            follow_redirects=False,
        ) as client,
        client.stream("GET", pinned, headers=headers, extensions={"sni_hostname": target.host}) as response,
    ):
        if response.status_code in (301, 302, 303, 307, 308):
            return str(target.url.join(response.headers.get("location", "")))
        _check_response(response, max_bytes)
        body = bytearray()
        async for part in response.aiter_raw():
            body += part
            if len(body) > max_bytes:
                raise _too_large(max_bytes)
        return bytes(body)


def _check_response(response: httpx2.Response, max_bytes: int) -> None:
    if response.status_code != 200:
        raise ImageUrlFailed(f"The server of the image URL answered with status {response.status_code}.")
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise ImageUrlFailed("The server of the image URL sent a compressed body, which was not asked for.")
    kind = response.headers.get("content-type", "image/").lower()
    if not kind.startswith(CONTENT_TYPES):
        raise ImageUrlFailed("The image URL leads to something else than an image (by its Content-Type).")
    length = response.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > max_bytes:
        raise _too_large(max_bytes)


def _too_large(max_bytes: int) -> ImageTooLarge:
    return ImageTooLarge(f"The image behind the URL has more than {max_bytes / MIB:g} MiB.")
