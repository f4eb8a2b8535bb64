"""An answer that is sent piece by piece, one of them in memory at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serve_app.errors import ServiceError

SEND_S: Final = 10.0
"""A caller who does not take a piece for this long is cut off."""

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
        """Send head, pieces and end; to a HEAD no pieces."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if scope["method"] == "HEAD" or await self.sent(receive, send):
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
