"""Request bodies: JSON, or a form with one file or many; limited, and counted while they arrive.

Forms are read as clients really send them: RFC 7578, plus parts of RFC 2046 and RFC 8187: a preamble and an epilogue,
`filename*` alone or beside `filename`, texts with a `charset` or after `_charset_`. Refused with a reason: parts with a
Content-Transfer-Encoding that changes their bytes (deprecated by RFC 7578 section 4.7), and texts in UTF-16, UTF-32 or
another encoding that is not supported here.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import AsyncGenerator, Iterable
from contextlib import ExitStack, aclosing
from email.message import Message
from functools import partial
from typing import Any, Final, NoReturn

from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from serve_app.contracts import Json, without_repeats
from serve_app.errors import BodyInvalid, BodyTooLarge, BodyTypeUnsupported
from serve_app.gateway.context import Call
from serve_app.gateway.uploads import UploadShare
from serve_app.library_internals import close_files_of, current_part, read_as_utf8
from serve_app.settings import MIB, Settings

JSON_MAX_BYTES: Final = 64 * 1024
FORM_MARGIN_BYTES: Final = 1 * MIB
"""Allowance for the rest of a form besides the image: boundaries, part headers, the other fields."""
FIELDS_MAX: Final = 6
SPOOL_BYTES: Final = 128 * 1024
"""Bytes of each of many files that stay in memory; the rest goes to disk."""
SHOWN_MAX: Final = 100
FIELD_MAX_BYTES: Final = 64 * 1024
BOUNDARY_MAX: Final = 70
"""RFC 2046 section 5.1.1."""
PADDING_MAX: Final = 1024
"""Blanks allowed after the first boundary (RFC 2046: transport padding); the only part of a preamble that is held."""
PLAIN_ENCODINGS: Final = ("", "7bit", "8bit", "binary")
"""Content-Transfer-Encodings that leave the bytes as they are."""
TEXT_CODECS: Final = ("utf-8", "ascii", "iso8859-1", "cp1252")
"""Encodings of text fields that are read, by their names in Python; every browser's default is one of them."""
WIDE_MARKS: Final = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
"""Longer ones first: the byte order mark of UTF-32 begins with that of UTF-16."""
ASCII_FIRST: Final = {(0, 0, 0): "UTF-32", (0, 1, 0): "UTF-16", (1, 0, 1): "UTF-16", (1, 0, 0): "UTF-32"}
"""The first four bytes of a text that begins with an ASCII character (RFC 4627 section 3), with 1 for each byte that is
not zero."""

Form = dict[str, str | UploadFile]


def media_type(call: Call) -> str:
    """The body's media type without parameters. Raises `BodyTypeUnsupported` for compressed bodies."""
    encoding = call.request.headers.get("content-encoding", "identity")
    if encoding.strip().lower() not in ("", "identity"):
        raise BodyTypeUnsupported("Send the body without a Content-Encoding.")
    return call.request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_json(call: Call, limit: int = JSON_MAX_BYTES) -> Json:
    """The body, of at most `limit` bytes, as a JSON object of well-formed text.

    Raises `BodyTypeUnsupported`, `BodyTooLarge`, `BodyInvalid`.
    """
    if media_type(call) != "application/json":
        raise BodyTypeUnsupported("Send application/json.")
    return parse_object(bytes(await read_bytes(call, limit)), "The body")


async def read_bytes(call: Call, limit: int, share: UploadShare | None = None) -> bytearray:
    """The body, of at most `limit` bytes, counted in the share. Raises `BodyTooLarge`, `BodyInvalid`, `StoreFull`."""
    body = bytearray()
    async with aclosing(_pieces(call, limit, share)) as pieces:
        async for piece in pieces:
            body += piece
    return body


async def read_form(call: Call, share: UploadShare, settings: Settings, *, fields: int = FIELDS_MAX) -> Form:
    """The fields of a multipart/form-data body; files above 1 MiB are on disk. The caller closes the file.

    Raises `BodyTooLarge`, `BodyInvalid`, and `StoreFull` when the replica holds too many uploads already.
    """
    items = await _parse(call, share, settings.image_max_bytes + FORM_MARGIN_BYTES, files=1, fields=fields)
    form = dict(items)
    if len(form) < len(items):
        close_files(value for _, value in items)
        raise BodyInvalid("A form field was sent twice.")
    return form


async def read_files(
    call: Call, share: UploadShare, settings: Settings, name: str
) -> tuple[list[UploadFile], dict[str, str]]:
    """The files of a form whose file parts all have this name, and its texts. Raises as `read_form`. The caller closes
    the files.

    Each file is on disk except for its beginning, because many files must not take the memory.
    """
    items = await _parse(call, share, settings.batch_max_bytes + FORM_MARGIN_BYTES, files=settings.batch_max_items)
    files = [value for field, value in items if field == name and isinstance(value, UploadFile)]
    texts = {field: value for field, value in items if isinstance(value, str)}
    if len(files) + len(texts) < len(items):
        close_files(value for _, value in items)
        raise BodyInvalid(f"A form field was sent twice, or a file in another field than {name}.")
    return files, texts


async def _parse(
    call: Call, share: UploadShare, limit: int, *, files: int, fields: int = FIELDS_MAX
) -> list[tuple[str, str | UploadFile]]:
    headers = call.request.headers
    async with (
        aclosing(_pieces(call, limit, share)) as pieces,
        aclosing(after_preamble(pieces, headers["content-type"])) as form,
    ):
        parser = FormParser(headers, form, max_files=files, max_fields=fields, max_part_size=FIELD_MAX_BYTES)
        if files > 1:
            parser.spool_max_size = SPOOL_BYTES
        try:
            items = (await parser.parse()).multi_items()
        except MultiPartException as error:
            raise BodyInvalid(f"The form could not be read: {error.__cause__ or error.message}") from error
    if not parser.ended:
        parser.close_files()
        raise BodyInvalid("The form ends early.")
    return items


def parse_object(text: bytes, name: str) -> Json:
    """A JSON object, as `parse_json` reads it."""
    value = parse_json(text, name)
    if not isinstance(value, dict):
        raise BodyInvalid(f"{name} must be a JSON object.")
    return value


def parse_json(text: bytes, name: str) -> Any:
    """A JSON text (RFC 8259, UTF-8, with or without a byte order mark), without repeated names, NaN, infinities
    (1e999 reads as one) and lone surrogates, which the stores cannot keep. Raises `BodyInvalid`."""
    decoded = utf8_text(text, name)
    try:
        value: Any = json.loads(
            decoded, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=without_repeats
        )
        if "\\u" in decoded:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise BodyInvalid(f"{name} is not valid JSON: it has half a surrogate pair.") from error
    except RecursionError as error:
        raise BodyInvalid(f"{name} is nested too deeply.") from error
    except ValueError as error:
        words = str(error).partition(";")[0]  # the rest is meant for programs
        raise BodyInvalid(f"{name} is not valid JSON: {words}.") from error
    return value


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _finite(text: str) -> float:
    if math.isinf(value := float(text)):
        raise ValueError("the number is larger than any that is calculated with")
    return value


def _declared_length(call: Call) -> int:
    """The number in Content-Length, or 0 if it is missing or malformed. There may be more leading zeros than int()
    reads."""
    digits = call.request.headers.get("content-length", "").lstrip("0")
    return int(digits[:20]) if digits.isdecimal() else 0


async def _pieces(call: Call, limit: int, share: UploadShare | None = None) -> AsyncGenerator[bytes, None]:
    """The body as it arrives: counted, within `limit`, the request's share and its pace."""
    declared, pace = _declared_length(call), call.pace
    if declared > limit:
        raise BodyTooLarge(f"The body may have at most {limit} bytes.")
    if share is not None:
        share.expect(declared)
    if pace:
        pace.arrived(0)
    try:
        with ExitStack() as slow_place:
            if pace:
                slow_place.callback(pace.when_slow(partial(pace.take_slow_place, call.caller.id, slow_place)).cancel)
            async with aclosing(call.request.stream()) as stream:
                async for piece in stream:
                    _count(call, len(piece), limit, share)
                    yield piece
    except ClientDisconnect as error:
        raise BodyInvalid("The body ended early.") from error
    if pace:
        pace.ended()


def _count(call: Call, size: int, limit: int, share: UploadShare | None) -> None:
    call.request_bytes += size
    if call.request_bytes > limit:
        raise BodyTooLarge(f"The body may have at most {limit} bytes.")
    if share is not None:
        share.reach(call.request_bytes)
    if call.pace:
        call.pace.arrived(call.request_bytes)


def utf8_text(data: bytes, name: str, cure: str = "") -> str:
    """Bytes as text in UTF-8, without a byte order mark (RFC 8259 section 8.1).

    Raises `BodyInvalid`, and names UTF-16 and UTF-32 in the reason: Windows tools write those unasked.
    """
    if wide := _wide_encoding(data):
        raise BodyInvalid(f"{name} is in {wide}; send it in UTF-8 (PowerShell: Out-File -Encoding utf8).")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        words = f"{name} is not text in UTF-8: its byte {error.start} cannot be read. {cure}"
        raise BodyInvalid(words.rstrip()) from error


def _wide_encoding(data: bytes) -> str | None:
    for mark, name in WIDE_MARKS:
        if data.startswith(mark):
            return name
    if len(data) < 4:
        return None
    first, second, third = (min(byte, 1) for byte in data[:3])
    return ASCII_FIRST.get((first, second, third)) if 0 in (first, second) else None


class FormParser(MultiPartParser):
    """Starlette's parser, corrected: it accepts a form without its closing boundary, ignores `filename*`, and decodes
    text with any codec of Python that the caller names, of which some raise and some produce lone surrogates."""

    ended = False
    _text_charset = "utf-8"

    def on_part_begin(self) -> None:
        read_as_utf8(self)
        super().on_part_begin()

    def on_headers_finished(self) -> None:
        part = current_part(self)
        _check_transfer_encoding(_header(part.item_headers, b"content-transfer-encoding"))
        part.content_disposition = _without_extended(part.content_disposition)
        super().on_headers_finished()

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        part = current_part(self)
        if part.file is None and len(part.data) + end - start > FIELD_MAX_BYTES:
            raise BodyInvalid(
                f"The form field {part.field_name[:SHOWN_MAX]!r} has more than {FIELD_MAX_BYTES // 1024} KiB. "
                "A file's part needs a filename in its Content-Disposition."
            )
        super().on_part_data(data, start, end)

    def on_part_end(self) -> None:
        part = current_part(self)
        if part.file is not None:
            super().on_part_end()
            return
        text = self._text_of(part.field_name, bytes(part.data), _header(part.item_headers, b"content-type"))
        if part.field_name == "_charset_":  # RFC 7578 section 4.6: the encoding of the texts after it
            self._text_charset = _codec(text.strip(), "_charset_")
        else:
            self.items.append((part.field_name, text))

    def on_end(self) -> None:
        self.ended = True

    def close_files(self) -> None:
        close_files_of(self)

    def _text_of(self, field: str, data: bytes, content_type: bytes) -> str:
        name = f"The form field {field[:SHOWN_MAX]}"
        said = parse_options_header(content_type)[1].get(b"charset", b"").decode("latin-1")
        codec = _codec(said, name) if said else self._text_charset
        if codec in ("utf-8", "ascii"):
            return utf8_text(data, name, "A file's part needs a filename in its Content-Disposition.")
        return data.decode(codec, "replace")


async def after_preamble(pieces: AsyncGenerator[bytes, None], content_type: str) -> AsyncGenerator[bytes, None]:
    """The pieces of a form from its first boundary on, without the padding after it; the preamble has no meaning (RFC
    2046 section 5.1.1). The parser finds later boundaries.

    Raises `MultiPartException` if the Content-Type has no valid boundary, or no line is that boundary.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not 0 < len(boundary) <= BOUNDARY_MAX:
        raise MultiPartException(f"Its Content-Type needs a boundary of 1 to {BOUNDARY_MAX} characters.")
    # A line of the preamble may begin like the boundary.
    pattern = rb"\r\n(--" + re.escape(boundary) + rb")(?:[ \t]{0,%d}(?=\r\n)|(?=--))" % PADDING_MAX
    delimiter, held, begun = re.compile(pattern), b"\r\n", False
    async for piece in pieces:
        if begun:
            yield piece
            continue
        held += piece
        if found := delimiter.search(held):
            begun = True
            yield found[1] + held[found.end() :]
        else:
            held = held[-len(boundary) - PADDING_MAX - 5 :]  # the delimiter without the last character that it needs
    if not begun:
        raise MultiPartException("none of its lines is the boundary of its Content-Type; lines end with CR LF.")


def _header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes:
    return next((value for key, value in headers if key == name), b"")


def _check_transfer_encoding(value: bytes) -> None:
    encoding = value.decode("latin-1").strip().lower()
    if encoding not in PLAIN_ENCODINGS:
        raise BodyTypeUnsupported(
            f"A part of the form has the Content-Transfer-Encoding {encoding[:SHOWN_MAX]!r}. Send the bytes as they "
            "are: forms have no such encoding (RFC 7578 section 4.7)."
        )


def _known_codec(name: str) -> str | None:
    """Python's name of a supported encoding."""
    try:
        found = codecs.lookup(name).name
    except (LookupError, ValueError):
        return None
    return found if found in TEXT_CODECS else None


def _codec(name: str, where: str) -> str:
    if found := _known_codec(name):
        return found
    raise BodyTypeUnsupported(f"{where} is in {name[:SHOWN_MAX]!r}; send text in UTF-8.")


def _without_extended(disposition: bytes | None) -> bytes | None:
    """A Content-Disposition with its `name*` and `filename*` (RFC 8187, or split by RFC 2231) converted to plain ones.

    urllib3 before 1.25 sends only the extended ones; where both exist, the extended one counts (RFC 6266 section 4.3).
    """
    if disposition is None or b"*" not in disposition:
        return disposition
    message = Message()
    message["Content-Disposition"] = disposition.decode("latin-1")
    kind, *parameters = message.get_params([("", "")], "content-disposition", unquote=True)
    values: dict[str, bytes] = {}
    for key, value in parameters:  # the extended ones come last
        if isinstance(value, tuple):
            charset, _, text = value
            codec = _known_codec(charset or "utf-8") or "utf-8"
            values[key.lower()] = text.encode("latin-1", "replace").decode(codec, "replace").encode()
        else:
            values.setdefault(key.lower(), value.encode("latin-1", "replace"))
    return kind[0].encode("latin-1") + b"".join(b"; %s=%s" % (key.encode(), _quoted(values[key])) for key in values)


def _quoted(value: bytes) -> bytes:
    return b'"' + value.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


def close_files(values: Iterable[str | UploadFile]) -> None:
    """Release the memory or disk space of a form's files."""
    for value in values:
        if isinstance(value, UploadFile):
            value.file.close()
