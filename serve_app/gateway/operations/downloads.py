"""Files as answers: bytes that are no page of ours, whatever they say of themselves; large ones piece by piece."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serve_app.errors import ServiceError

SEND_S: Final = 10.0
"""A caller who does not take a piece for this long is cut off."""

_log = logging.getLogger(__name__)


def download_headers(file_name: str) -> dict[str, str]:
    """What makes an answer a file of this name, and nothing that a browser runs."""
    return {"Content-Disposition": f'attachment; filename="{file_name}"', "Content-Security-Policy": "sandbox"}


class Download(Response):
    """A file of `size` bytes, of which one piece is in memory at a time."""

    def __init__(self, pieces: AsyncIterator[bytes], size: int, file_name: str, media_type: str) -> None:
        headers = {**download_headers(file_name), "Content-Length": str(size)}
        super().__init__(headers=headers, media_type=media_type)
        self._pieces, self._size = pieces, size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file. Not completed where it cannot be sent whole, so that the server closes the connection."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if scope["method"] == "HEAD" or await self._send_pieces(send):
            await send({"type": "http.response.body", "body": b""})

    async def _send_pieces(self, send: Send) -> bool:
        sent = 0
        try:
            async for piece in self._pieces:
                async with asyncio.timeout(SEND_S):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                sent += len(piece)
        except OSError:  # TimeoutError is one: the caller is too slow, or has just gone
            return False
        except ServiceError as error:
            _log.warning("a download broke off: %s", error.detail)
        return sent == self._size
