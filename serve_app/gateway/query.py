"""Query parameters as models: one that is unknown or sent twice is refused, not left unread."""

from __future__ import annotations

from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError

from serve_app.errors import QueryInvalid
from serve_app.gateway.body import pointers_of
from serve_app.gateway.service import Call

NAME_SHOWN_MAX: Final = 100

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
        raise QueryInvalid(f"{'; '.join(faults)}.") from error
