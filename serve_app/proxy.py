"""Middlewares of Serve's proxy, in front of every replica: tasks of the process that holds the client's connection.

Ray Serve makes these middlewares where RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names `serve_app.proxy:middlewares`
when a Ray node starts, in its own proxy and, in HAProxy mode, in each replica's server. The service also works
without them, but then Serve echoes unusable request ids, everybody gets 100 Continue, and a connection that is in use
when its pod ends loses a request.
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
"""Our ASGI extension: the application sends a message of this type before it reads the body of a request whose client
waits for 100 Continue. The proxy consumes it."""

CONNECTION_MAX_AGE_S: Final = 10.0
"""Less than the time that a pod answers after leaving its Service (rayservice.yaml: `preStop`, then the proxy's
drain)."""
FORGET_S: Final = 90.0
"""More than `keep_alive_timeout_s`: a connection idle for this long is closed."""
CONNECTIONS_MAX: Final = 50_000
"""Most remembered connections, 270 bytes each. Beyond it the oldest are forgotten, and count as new if still open."""
HEALTH_PATH: Final = "/-/healthz"
"""Serve's health path. A draining proxy answers 503; Kubernetes asks every 5 s."""


def middlewares() -> list[Middleware]:
    """The middlewares that Serve adds, the last one outermost."""
    ours = [Middleware(UsableRequestId), Middleware(BodyOnDemand)]
    # HAProxy separates its connections to replicas from those of clients, which it closes itself when it stops.
    return ours if os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1" else [*ours, Middleware(BoundedConnections)]


class UsableRequestId:
    """One X-Request-ID for proxy, logs, body and response: the caller's if it is usable, else a new one.

    Without it Serve echoes and logs any id, while the gateway replaces unusable ones.
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
    """Sends 100 Continue when the application wants the body, not when the proxy could forward it.

    Serve's proxy reads the body at once, which would send 100 Continue before the token is checked.
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
                # The client may or may not send the body now, so the next bytes may not be a request.
                MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        extensions = {**(scope.get("extensions") or {}), BODY_WANTED: {}}
        await self._application({**scope, "extensions": extensions}, receive_on_demand, send_on)


class BoundedConnections:
    """Sends `Connection: close` with the first response on a connection older than `CONNECTION_MAX_AGE_S`, and with
    every response of a draining proxy.

    A busy connection would otherwise outlive its pod's membership in the Service and break during a request when the
    pod ends. The client opens a new one, which Kubernetes routes to another pod. ASGI does not report the end of a
    connection, so connections are identified by the peer's address: a new one from the same port may be closed early.
    """

    def __init__(self, application: ASGIApp) -> None:
        self._application = application
        self._begun: dict[tuple[str, int], float] = {}
        """Start time of each connection by its peer, oldest first."""
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
        """The time of the connection's first request."""
        now = time.monotonic()
        while self._begun:
            oldest = next(iter(self._begun))
            if len(self._begun) < CONNECTIONS_MAX and now - self._begun[oldest] < FORGET_S:
                break
            del self._begun[oldest]
        return self._begun.setdefault(peer, now)


class BodyWanted:
    """In the replica: tells the proxy when the application starts to read the body."""

    def __init__(self, application: ASGIApp) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if BODY_WANTED not in (scope.get("extensions") or {}):
            await self._application(scope, receive, send)
            return
        announced = False

        async def announce_and_receive() -> Message:
            nonlocal announced
            if not announced:
                announced = True
                await send({"type": BODY_WANTED})
            return await receive()

        await self._application(scope, announce_and_receive, send)


def _waits(scope: Scope) -> bool:
    """Whether the client waits for 100 Continue. RFC 9110 section 10.1.1: ignored for HTTP/1.0."""
    expects = any(name == b"expect" and value.lower() == b"100-continue" for name, value in scope["headers"])
    return expects and scope.get("http_version") != "1.0"
