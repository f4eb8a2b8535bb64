"""JSON bodies that hold images as base64.

A long text of the body stays where it is, and only the rest is parsed, which is bounded: one parsed whole may take many
times its size in memory, and half a second during which nothing else is answered.
"""

from __future__ import annotations

import asyncio
import binascii
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from serve_app.contracts import Json
from serve_app.errors import BodyInvalid, BodyTooLarge
from serve_app.gateway.bodies import parse_object

LONG: Final = 2048
"""Texts of more bytes stay in the body."""
REST_MAX_BYTES: Final = 128 * 1024
SLICE: Final = 1024 * 1024
"""Characters of base64 decoded at a time, a multiple of four: a few milliseconds."""
THREAD_MIN_BYTES: Final = 256 * 1024
"""Smaller texts are decoded in less time than using a thread takes."""
QUOTES_MAX: Final = 20_000
"""Looked at in one body: some ten milliseconds. Parameters within their limit have fewer."""
ESCAPES_MAX: Final = 64
"""Backslashes before a quote."""
_QUOTE: Final = b'"'
_ESCAPE: Final = b"\\"


@dataclass(frozen=True, slots=True)
class LongText:
    """A text of a JSON document, as it stands between its quotes."""

    body: bytearray
    start: int
    end: int

    def text(self) -> str:
        """The text. Raises `BodyInvalid`."""
        document = b'{"text":"%b"}' % bytes(self.body[self.start : self.end])
        return str(parse_object(document, "A text of the body")["text"])

    def base64(self) -> memoryview:
        """Its bytes without escapes: some writers of JSON escape `/` and `=`. Raises `BodyInvalid`."""
        if self.body.find(_ESCAPE, self.start, self.end) < 0:
            return memoryview(self.body)[self.start : self.end]
        return memoryview(self.text().encode())


class LongJson:
    """A JSON object whose long texts are marks. `find` gives what a mark stands for."""

    def __init__(self, body: bytearray, end: int | None = None) -> None:
        """Of the body, or of its part before `end`. Raises `BodyInvalid`, and `BodyTooLarge` if it is too long apart
        from its long texts."""
        self._mark = secrets.token_hex(16)
        self._found: dict[str, LongText] = {}
        self.value: Json = parse_object(self._rest(body, len(body) if end is None else end), "The body")

    def find(self, text: str) -> LongText | str:
        """The long text of this mark; any other text is itself."""
        return self._found.get(text, text)

    def restored(self, value: Any) -> Any:
        """The value with its marks replaced by their texts, which are short enough for parameters, or refused later.
        Raises `BodyInvalid`."""
        if isinstance(value, str):
            found = self.find(value)
            if isinstance(found, LongText) and found.end - found.start > REST_MAX_BYTES:
                raise BodyInvalid("A parameter is too long.")
            return found.text() if isinstance(found, LongText) else found
        if isinstance(value, dict):
            return {self.restored(name): self.restored(one) for name, one in value.items()}
        return [self.restored(one) for one in value] if isinstance(value, list) else value

    def _rest(self, body: bytearray, end: int) -> bytes:
        rest = bytearray()
        quotes = iter(range(QUOTES_MAX))
        copied, opening = 0, body.find(_QUOTE, 0, end)
        while opening >= 0:
            closing = _closing(body, opening + 1, end, quotes)
            if closing < 0:
                break  # the parser says so
            if closing - opening > LONG:
                mark = f"{self._mark}:{len(self._found)}"
                self._found[mark] = LongText(body, opening + 1, closing)
                rest += body[copied : opening + 1] + mark.encode()
                copied = closing
            if len(rest) + closing - copied > REST_MAX_BYTES:
                break
            opening = body.find(_QUOTE, closing + 1, end)
        if len(rest) + end - copied > REST_MAX_BYTES:
            raise BodyTooLarge(f"Apart from long texts the JSON may have at most {REST_MAX_BYTES // 1024} KiB.")
        return bytes(rest + body[copied:end])


def _closing(body: bytearray, start: int, end: int, quotes: Iterator[int]) -> int:
    """Where the text that begins at `start` ends; -1 if it does not. Takes one of `quotes` for each quote looked at.
    Raises `BodyInvalid` when none is left, or for more escapes than any image or parameter has."""
    closing = start - 1
    for _ in quotes:
        closing = body.find(_QUOTE, closing + 1, end)
        if closing < 0:
            return -1
        before = body[max(start, closing - ESCAPES_MAX) : closing]
        escapes = len(before) - len(before.rstrip(_ESCAPE))
        if escapes == ESCAPES_MAX:
            break
        if escapes % 2 == 0:
            return closing
    raise BodyInvalid("The JSON has too many texts or escapes.")


async def decoded(text: LongText | str, pointer: str) -> bytes:
    """The bytes of a text in base64 (RFC 4648 section 4). Raises `BodyInvalid`, which points at it."""
    try:
        if isinstance(text, str):
            return binascii.a2b_base64(text.encode(), strict_mode=True)
        if text.end - text.start < THREAD_MIN_BYTES:
            return binascii.a2b_base64(text.base64(), strict_mode=True)
        return await asyncio.to_thread(_in_slices, text)
    except binascii.Error as error:
        fault = f"not base64: {error}"
        raise BodyInvalid(f"The text at {pointer} is {fault}.", pointers={pointer: fault}) from error


def _in_slices(text: LongText) -> bytes:
    """Other threads run between the slices."""
    view = text.base64()
    pieces = []
    for start in range(0, len(view), SLICE):
        piece = view[start : start + SLICE]
        if start + SLICE < len(view) and piece[-1] == ord("="):
            raise binascii.Error("Excess data after padding")
        pieces.append(binascii.a2b_base64(piece, strict_mode=True))
    return b"".join(pieces)
