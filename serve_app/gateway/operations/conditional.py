"""Answers that a client may have already: a strong ETag, and 304 instead of the same once more (RFC 9110, 13)."""

from __future__ import annotations

import hashlib
import re
from typing import Final

from starlette.responses import Response

from serve_app.gateway.service import Call

_TAG: Final = re.compile(r'(?:W/)?("[^"]*")')


def tagged(call: Call, response: Response) -> Response:
    """The answer with the ETag of its body; 304 without body where the client names that tag."""
    tag = f'"{hashlib.sha256(response.body).hexdigest()}"'
    response.headers["ETag"] = tag
    known = ",".join(call.request.headers.getlist("if-none-match"))
    if known.strip() != "*" and tag not in _TAG.findall(known):
        return response
    kept = {name: value for name, value in response.headers.items() if name not in ("content-length", "content-type")}
    return Response(status_code=304, headers=kept)
