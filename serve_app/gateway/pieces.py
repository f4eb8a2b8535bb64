"""An answer that is sent piece by piece, one of them in memory at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from tempfile import SpooledTemporaryFile
from typing import IO, Final

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from serve_app.errors import ServiceError

SEND_S: Final = 10.0
"""A caller who does not take a piece for this long is cut off."""

SPOOL_BYTES: Final = 1024 * 1024
"""What an answer that has to be whole before it is sent may take of the memory; the rest is on disk."""
PIECE_BYTES: Final = 128 * 1024

_log = logging.getLogger(__name__)


class Pieces(Response):
    """Not completed where it cannot be sent whole, so that the server closes the connection: what came is not taken for
    the whole. `size` is told to the caller where it is known before."""

    def __init__(
        self, pieces: AsyncIterator[bytes], *, headers: Mapping[str, str], media_type: str, size: int | None = None
    ) -> None:
        super().__init__(headers=headers, media_type=media_type)
        del self.headers["Content-Length"]
        if size is not None:
            self.headers["Content-Length"] = str(size)
        self._pieces, self._size = pieces, size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send head, pieces and end; to a HEAD no pieces. To a client of HTTP/1.0, which knows no chunks (RFC 9112
        section 6.1) and would take their sizes for data, the whole at once, with its size."""
        if self._size is None and is_http_1_0(scope) and scope["method"] != "HEAD":
            await self._send_whole(send)
            return
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if scope["method"] == "HEAD" or await self.sent(receive, send):
            await send({"type": "http.response.body", "body": b""})

    async def _send_whole(self, send: Send) -> None:
        """Nothing where the pieces break off: the client is to see that this is not the whole."""
        with SpooledTemporaryFile(SPOOL_BYTES) as whole:
            try:
                async for piece in self._pieces:
                    await asyncio.to_thread(whole.write, piece)
            except Exception:
                _log.exception("an answer broke off")
                return
            self._size = whole.tell()
            self.headers["Content-Length"] = str(self._size)
            whole.seek(0)
            self._pieces = _read(whole)
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if await Pieces.sent(self, _never, send):
                await send({"type": "http.response.body", "body": b""})

    async def sent(self, receive: Receive, send: Send) -> bool:
        """Send the pieces: whether that was all."""
        sent = 0
        try:
            async for piece in self._pieces:
                async with asyncio.timeout(SEND_S):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                sent += len(piece)
        except OSError:  # TimeoutError is one: the caller is too slow, or has just gone
            return False
        except ServiceError as error:
            _log.warning("an answer broke off: %s", error.detail)
            return False
        except Exception:
            _log.exception("an answer broke off")
            return False
        return self._size in (None, sent)


def is_http_1_0(scope: Scope) -> bool:
    """Whether the client speaks HTTP/1.0: `ab`, old instruments' software, nginx unless it is told otherwise."""
    return scope.get("http_version") in ("1.0", "0.9")


async def _read(file: IO[bytes]) -> AsyncIterator[bytes]:
    while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
        yield piece


async def _never() -> Message:
    raise AssertionError("an answer reads no request")
