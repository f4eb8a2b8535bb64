"""What runs in Serve's proxy, in front of every replica: what only the process that holds the connection can do.

Ray Serve makes these middlewares where RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names `serve_app.proxy:middlewares`
when a Ray node starts, in its own proxy and, in HAProxy mode, in each replica's server. Without it the service answers
all the same: an id that cannot be used is then echoed by Serve as it came, `Expect: 100-continue` is granted to
everybody, and a connection that is in use when its pod ends loses a request.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.contracts import usable_request_id

BODY_WANTED: Final = "sem_image_classifier.body_wanted"
"""An ASGI extension of ours: a message of this type, sent by the application before it reads the body of a request
whose client waits for 100 Continue. It goes no further than to the proxy."""

CONNECTION_MAX_AGE_S: Final = 10.0
"""Less than a pod goes on answering after it left its Service (rayservice.yaml: `preStop`, then a proxy's drain)."""
FORGET_S: Final = 90.0
"""More than `keep_alive_timeout_s`: a connection on which nothing came for so long is closed."""
CONNECTIONS_MAX: Final = 50_000
"""Remembered at once, 270 bytes each; beyond it the oldest are forgotten, and count as new if they are still there."""
HEALTH_PATH: Final = "/-/healthz"
"""Serve's own. A proxy that drains answers 503, and Kubernetes asks every 5 s."""


def middlewares() -> list[Middleware]:
    """What Serve puts around its own, the last one outermost."""
    ours = [Middleware(UsableRequestId), Middleware(BodyOnDemand)]
    # HAProxy keeps its connections to a replica apart from its clients': it closes those itself when it stops.
    return ours if os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1" else [*ours, Middleware(BoundedConnections)]


class UsableRequestId:
    """One X-Request-ID for proxy, logs, body and answer: the caller's where it can be used, else a new one.

    Serve echoes whatever comes and puts it into its logs; the gateway makes a new id where it cannot use the caller's.
    """

    def __init__(self, application: ASGIApp) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            given = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-request-id"]
            others = [header for header in scope["headers"] if header[0] != b"x-request-id"]
            chosen = usable_request_id(given[0] if given else None).encode()
            scope = {**scope, "headers": [*others, (b"x-request-id", chosen)]}
        await self._application(scope, receive, send)


class BodyOnDemand:
    """100 Continue when the application wants the body, not when the proxy is ready to pass it on.

    Serve's proxy asks its server for the body at once, which sends 100 Continue before the token was looked at.
    """

    def __init__(self, application: ASGIApp) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _waits(scope):
            await self._application(scope, receive, send)
            return
        wanted = asyncio.Event()

        async def receive_on_demand() -> Message:
            await wanted.wait()
            return await receive()

        async def send_on(message: Message) -> None:
            if message["type"] == BODY_WANTED:
                wanted.set()
                return
            if message["type"] == "http.response.start" and not wanted.is_set():
                # Whether the client sends the body now is not known: what comes next may be no request.
                MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        extensions = {**(scope.get("extensions") or {}), BODY_WANTED: {}}
        await self._application({**scope, "extensions": extensions}, receive_on_demand, send_on)


class BoundedConnections:
    """Sends `Connection: close` with the first answer on a connection older than `CONNECTION_MAX_AGE_S`, and with every
    answer of a proxy that drains.

    A connection in use would otherwise outlive its pod's place in the Service and break under a request when the pod
    ends. The client opens the next one, which Kubernetes sends to a pod that stays. An ASGI server does not tell when a
    connection ends, so that one is known by its peer's address: a new one from the same port may be closed early.
    """

    def __init__(self, application: ASGIApp) -> None:
        self._application = application
        self._begun: dict[tuple[str, int], float] = {}
        """Of each connection, by its peer, the oldest first."""
        self._is_draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope.get("client"):
            await self._application(scope, receive, send)
            return
        peer = tuple(scope["client"])
        begun = self._begin(peer)

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                if scope["path"] == HEALTH_PATH:
                    self._is_draining = message["status"] == 503
                if self._is_draining or time.monotonic() - begun >= CONNECTION_MAX_AGE_S:
                    MutableHeaders(scope=message)["Connection"] = "close"
                    self._begun.pop(peer, None)
            await send(message)

        await self._application(scope, receive, send_on)

    def _begin(self, peer: tuple[str, int]) -> float:
        """When the connection's first request came."""
        now = time.monotonic()
        while self._begun:
            oldest = next(iter(self._begun))
            if len(self._begun) < CONNECTIONS_MAX and now - self._begun[oldest] < FORGET_S:
                break
            del self._begun[oldest]
        return self._begun.setdefault(peer, now)


class BodyWanted:
    """In the replica: tells the proxy when the application begins to read."""

    def __init__(self, application: ASGIApp) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if BODY_WANTED not in (scope.get("extensions") or {}):
            await self._application(scope, receive, send)
            return
        told = False

        async def receive_when_told() -> Message:
            nonlocal told
            if not told:
                told = True
                await send({"type": BODY_WANTED})
            return await receive()

        await self._application(scope, receive_when_told, send)


def _waits(scope: Scope) -> bool:
    """RFC 9110 section 10.1.1: of HTTP/1.0 clients the header means nothing."""
    expects = any(name == b"expect" and value.lower() == b"100-continue" for name, value in scope["headers"])
    return expects and scope.get("http_version") != "1.0"
