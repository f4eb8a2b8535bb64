"""The one way out to a URL that a user handed in, without becoming a way into the network the service runs in.

A name is resolved once, every address of it must be public, and the connection goes to that very address: the request's
URL carries the number, its Host header and TLS name the original host, so no second look-up can change the answer.
Redirects are never followed here: each would be a new URL, a new check and a new connection.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Final, Literal, TypeVar
from weakref import WeakValueDictionary

import httpx2

from serve_app.contracts import SERVICE_NAME
from serve_app.outbound.url import Target, is_public

T = TypeVar("T")
Resolver = Callable[[str, int], Awaitable[list[str]]]
"""Host and port to the addresses of the host; raises `OSError`."""

CONNECT_S: Final = 3.0
MAX_ADDRESSES: Final = 3
"""Addresses of one host that are tried, in the resolver's order."""

LOOKUPS_AT_ONCE: Final = 32
"""Names that are looked up at once for one kind of URL."""
LOOKUPS_PER_OWNER: Final = 4
"""Of those, for one user: names whose server does not answer hold the look-ups of who asks for them."""


class Unreachable(Exception):
    """No address of the host took the connection."""


class Broken(Exception):
    """The server broke off, or answered with something else than HTTP."""


@dataclass(frozen=True, slots=True)
class OutboundRequest:
    """What is sent. `silence_s`: most time between two signs of life of the server. `owner`: whose URL it is."""

    method: Literal["GET", "POST"]
    silence_s: float
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    owner: str = ""


async def exchange(
    target: Target,
    ask: OutboundRequest,
    read: Callable[[httpx2.Response], Awaitable[T]],
    resolver: Resolver | None = None,
) -> T:
    """What `read` makes of the answer, of which it has seen the head alone. The whole is for the caller to limit.

    Raises the policy's `forbidden`, `Unreachable` or `Broken`. What a private network answers shows in none of them.
    """
    for address in await _addresses(target, resolver or partial(_look_up, target.policy.name, ask.owner)):
        try:
            async with _connected(target, address, ask) as response:
                return await read(response)
        except (httpx2.ConnectError, httpx2.ConnectTimeout):
            continue
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
            raise Broken from error
    raise Unreachable


@cache
def _threads(kind: str) -> ThreadPoolExecutor:
    """A hung name server holds threads for longer than a request lives: not those of another kind of URL."""
    return ThreadPoolExecutor(LOOKUPS_AT_ONCE, thread_name_prefix=f"lookup of {kind}")


_gates: WeakValueDictionary[tuple[asyncio.AbstractEventLoop, str, str], asyncio.Semaphore] = WeakValueDictionary()
"""By kind of URL and owner, while somebody waits or looks up."""


async def _look_up(kind: str, owner: str, host: str, port: int) -> list[str]:
    loop = asyncio.get_running_loop()
    gate = _gates.setdefault((loop, kind, owner), asyncio.Semaphore(LOOKUPS_PER_OWNER if owner else LOOKUPS_AT_ONCE))
    await gate.acquire()
    looking = _threads(kind).submit(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)

    def release(_: object) -> None:
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(gate.release)

    # Not when the caller gives up: the thread goes on, and a gate that let the next one in would bound nothing.
    looking.add_done_callback(release)
    return [str(entry[4][0]) for entry in await asyncio.wrap_future(looking)]


async def _addresses(target: Target, resolver: Resolver) -> list[str]:
    if target.is_address:
        return [target.host]
    # The closing dot keeps the resolver from trying the search domains of the cluster.
    name = target.host if target.private else target.host + "."
    try:
        found = list(dict.fromkeys(await resolver(name, target.port)))
    except (OSError, UnicodeError):
        found = []
    if not found or not (target.private or all(is_public(address) for address in found)):
        raise target.policy.not_public()
    return found[:MAX_ADDRESSES]


@cache
def _tls() -> ssl.SSLContext:
    return httpx2.create_ssl_context(trust_env=False)


@asynccontextmanager
async def _connected(target: Target, address: str, ask: OutboundRequest) -> AsyncIterator[httpx2.Response]:
    pinned = target.url.copy_with(host=address, fragment=None)
    headers = {"User-Agent": SERVICE_NAME, **ask.headers, "Host": target.url.netloc.decode("ascii")}
    # One client per connection: a pool would reuse a connection whose TLS name was checked for another host.
    tls = await asyncio.to_thread(_tls)  # reads the machine's certificates when first asked
    async with (
        httpx2.AsyncClient(
            verify=tls,
            trust_env=False,
            timeout=httpx2.Timeout(ask.silence_s, connect=CONNECT_S),
            follow_redirects=False,
        ) as client,
        client.stream(
            ask.method, pinned, headers=headers, content=ask.body, extensions={"sni_hostname": target.host}
        ) as response,
    ):
        yield response
