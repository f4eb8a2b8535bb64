"""Query parameters as models: one that is unknown or sent twice is refused, not left unread."""

from __future__ import annotations

import re
from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError

from serve_app.errors import QueryInvalid
from serve_app.gateway.body import pointers_of
from serve_app.gateway.service import Call

NAME_SHOWN_MAX: Final = 100
_LOST_PLUS: Final = re.compile(r"(\d{4}-?\d\d-?\d\d[Tt ]\d\d(?::?\d\d)*(?:[.,]\d+)?) (\d\d(?::?\d\d)?)")
"""A time whose offset has a space for its `+`; nothing else has a space and digits behind the time of day."""

Q = TypeVar("Q", bound=BaseModel)


def read_query(call: Call, kind: type[Q]) -> Q:
    """The query parameters that a model describes. Raises `QueryInvalid`, which names the one at fault."""
    items = call.request.query_params.multi_items()
    given = dict(items)
    for name in given:
        if name not in kind.model_fields:
            known = ", ".join(kind.model_fields)
            raise QueryInvalid(f"There is no query parameter {name[:NAME_SHOWN_MAX]!r} here; there are {known}.")
    if len(given) < len(items):
        raise QueryInvalid("A query parameter was sent twice.")
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        faults = (f"{pointer.removeprefix('/')}: {fault}" for pointer, fault in pointers_of(error).items())
        raise value_invalid(call, f"{'; '.join(faults)}.") from error


def value_invalid(call: Call, words: str) -> QueryInvalid:
    """The problem of a value that does not fit, with the likely cause where the query has a `+`, which is a space."""
    hint = " In a query a + is a space; write %2B for it." if b"+" in call.request.scope["query_string"] else ""
    return QueryInvalid(words + hint)


def with_plus(value: object) -> object:
    """A time as it was meant: an unescaped `+` of a query is a space (application/x-www-form-urlencoded)."""
    found = _LOST_PLUS.fullmatch(value.strip()) if isinstance(value, str) else None
    return f"{found[1]}+{found[2]}" if found else value


def zone_with_plus(value: object) -> object:
    """A time zone as it was meant, for example `Etc/GMT+5`: none has a space in its name."""
    return value.replace(" ", "+") if isinstance(value, str) else value


def lower_case(value: object) -> object:
    """An id as it was made; some programs write it in capitals."""
    return value.lower() if isinstance(value, str) else value
