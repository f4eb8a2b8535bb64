"""Request bodies: JSON, or a form with one file or many; bounded, and counted while they arrive."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing
from functools import partial
from typing import Any, Final, NoReturn

from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect

from serve_app.contracts import Json, without_repeats
from serve_app.errors import BodyInvalid, BodyTooLarge, BodyTypeUnsupported
from serve_app.gateway.forms import FIELD_MAX_BYTES, FormParser, after_preamble, close_files, utf8_text
from serve_app.gateway.service import Call
from serve_app.gateway.uploads import Pace, UploadShare
from serve_app.settings import MIB

JSON_MAX_BYTES: Final = 64 * 1024
FORM_MARGIN_BYTES: Final = 1 * MIB
"""What a form may hold beside the image: boundaries, part headers, the other fields."""
FIELDS_MAX: Final = 6
SPOOL_BYTES: Final = 128 * 1024
"""What each of many files may hold of the memory before it goes to disk."""
POINTERS_MAX: Final = 20

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
    body = bytearray()
    async with aclosing(_pieces(call, limit)) as pieces:
        async for piece in pieces:
            body += piece
    return parse_object(bytes(body), "The body")


async def read_form(call: Call, share: UploadShare) -> Form:
    """The fields of a multipart/form-data body; files above 1 MiB are on disk. The caller closes the file.

    Raises `BodyTooLarge`, `BodyInvalid`, and `StoreFull` when the replica holds too many uploads already.
    """
    items = await _parse(call, share, call.service.settings.image_max_bytes + FORM_MARGIN_BYTES, files=1)
    form = dict(items)
    if len(form) < len(items):
        close_files(value for _, value in items)
        raise BodyInvalid("A form field was sent twice.")
    return form


async def read_files(call: Call, share: UploadShare, name: str) -> tuple[list[UploadFile], dict[str, str]]:
    """The files of a form whose parts all have this name, and its texts. Raises as `read_form`.

    The caller closes the files. Each is on disk but for its beginning: many of them must not take the memory.
    """
    settings = call.service.settings
    items = await _parse(call, share, settings.batch_max_bytes + FORM_MARGIN_BYTES, files=settings.batch_max_items)
    files = [value for field, value in items if field == name and isinstance(value, UploadFile)]
    texts = {field: value for field, value in items if isinstance(value, str)}
    if len(files) + len(texts) < len(items):
        close_files(value for _, value in items)
        raise BodyInvalid(f"A form field was sent twice, or a file in another field than {name}.")
    return files, texts


async def _parse(call: Call, share: UploadShare, limit: int, *, files: int) -> list[tuple[str, str | UploadFile]]:
    headers = call.request.headers
    async with (
        aclosing(_pieces(call, limit, share)) as pieces,
        aclosing(after_preamble(pieces, headers["content-type"])) as form,
    ):
        parser = FormParser(headers, form, max_files=files, max_fields=FIELDS_MAX, max_part_size=FIELD_MAX_BYTES)
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
    """A JSON object (RFC 8259, UTF-8, with or without a byte order mark), without two members of one name, NaN,
    infinities (1e999 reads as one) and lone surrogates, which no store could keep."""
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
        words = str(error).partition(";")[0]  # behind it stands what a program may do
        raise BodyInvalid(f"{name} is not valid JSON: {words}.") from error
    if not isinstance(value, dict):
        raise BodyInvalid(f"{name} must be a JSON object.")
    return value


def pointers_of(error: ValidationError, root: str = "") -> dict[str, str]:
    """JSON Pointers (RFC 6901) below `root` to what does not fit, and why; the first `POINTERS_MAX`."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)[:POINTERS_MAX]
    return {"/".join((root, *map(escape, fault["loc"]))): fault["msg"] for fault in faults}


def escape(part: str | int) -> str:
    """One token of a JSON Pointer; cut, because the name may be the caller's."""
    return str(part)[:100].replace("~", "~0").replace("/", "~1")


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _finite(text: str) -> float:
    if math.isinf(value := float(text)):
        raise ValueError("the number is larger than any that is calculated with")
    return value


def _declared_length(call: Call) -> int:
    """What Content-Length says, or 0 for what says nothing. Zeros in front may be thousands, more than int() reads."""
    digits = call.request.headers.get("content-length", "").lstrip("0")
    return int(digits[:20]) if digits.isdecimal() else 0


async def _pieces(call: Call, limit: int, share: UploadShare | None = None) -> AsyncGenerator[bytes, None]:
    """The body as it arrives: counted, within `limit`, the share and the pace of the request."""
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
                slow_place.callback(pace.when_slow(partial(_take_slow_place, call, pace, slow_place)).cancel)
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


def _take_slow_place(call: Call, pace: Pace, place: ExitStack) -> None:
    """It is given back when the body is in. Also of one on which nothing comes any more, which no piece would wake."""
    if not place.enter_context(call.service.slow_uploads.take(call.caller.id)):
        pace.give_up()
