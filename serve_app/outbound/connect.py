"""The only way to request a URL from a user, without giving access to the network that the service runs in.

A name is resolved once, all of its addresses must be public, and the connection goes to one of these addresses: the
request's URL holds the address, its Host header and TLS name hold the original host, so that no second look-up can
change the answer. Redirects are not followed here: each is a new URL with a new check and a new connection.
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
"""Most addresses of one host that are tried, in the resolver's order."""

LOOKUPS_AT_ONCE: Final = 32
"""Concurrent look-ups for one kind of URL."""
LOOKUPS_PER_OWNER: Final = 4
"""Concurrent look-ups for one user: names whose server does not answer delay only their user."""


class Unreachable(Exception):
    """No address of the host accepted the connection."""


class Broken(Exception):
    """The server closed the connection early, or did not answer with HTTP."""


@dataclass(frozen=True, slots=True)
class OutboundRequest:
    """A request. `silence_s`: read timeout in seconds. `owner`: the user whose URL it is."""

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
    """Send a request and return what `read` makes of the response, which is passed with its body unread. The caller
    limits the total time.

    Raises the policy's `forbidden`, `Unreachable` or `Broken`. None of them reveals what a private network answers.
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
    """Threads of one kind of URL: a hung name server holds them for longer than a request lasts, and must not block
    others."""
    return ThreadPoolExecutor(LOOKUPS_AT_ONCE, thread_name_prefix=f"lookup of {kind}")


_gates: WeakValueDictionary[tuple[asyncio.AbstractEventLoop, str, str], asyncio.Semaphore] = WeakValueDictionary()
"""Limits by kind of URL and owner, kept while look-ups wait or run."""


async def _look_up(kind: str, owner: str, host: str, port: int) -> list[str]:
    loop = asyncio.get_running_loop()
    gate = _gates.setdefault((loop, kind, owner), asyncio.Semaphore(LOOKUPS_PER_OWNER if owner else LOOKUPS_AT_ONCE))
    await gate.acquire()
    looking = _threads(kind).submit(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)

    def release(_: object) -> None:
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(gate.release)

    # Release when the thread ends, not when the caller gives up: else the number of threads would not be bounded.
    looking.add_done_callback(release)
    return [str(entry[4][0]) for entry in await asyncio.wrap_future(looking)]


async def _addresses(target: Target, resolver: Resolver) -> list[str]:
    if target.is_address:
        return [target.host]
    # The final dot keeps the resolver from trying the cluster's search domains.
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
    # One client per connection: a pool could reuse a connection whose TLS name was checked for another host.
    tls = await asyncio.to_thread(_tls)  # the first call reads the system's certificates
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
