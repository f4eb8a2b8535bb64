"""Blocks and overrides as resources: POST puts one into force, DELETE takes it back, GET lists them.

The endpoint has let an admin in before any of these runs.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from starlette.responses import Response

from serve_app.contracts import Json
from serve_app.errors import BodyInvalid, DecisionUnknown
from serve_app.gateway.admin.actor import actor_of
from serve_app.gateway.body import pointers_of, read_json
from serve_app.gateway.limits.decisions import Sort
from serve_app.gateway.problems import json_response
from serve_app.gateway.query import lower_case
from serve_app.gateway.service import Call
from serve_app.gateway.views import timestamp
from serve_app.settings import Rate
from serve_app.texts import sanitize_text

PRINCIPAL_ID: Final = "[0-9a-f]{32}"
TEXT_MAX: Final = 500


def _shown(text: object) -> object:
    return sanitize_text(text, TEXT_MAX) if isinstance(text, str) else text


Text = Annotated[str, BeforeValidator(_shown)]


class Decision(BaseModel):
    """What all decisions say. The id decides; the name is for people."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    principal_id: Annotated[str, BeforeValidator(lower_case), Field(pattern=f"^{PRINCIPAL_ID}$")]
    name: Text = ""
    reason: Annotated[Text, Field(min_length=1)]


class Block(Decision):
    """The user gets 403 until it is taken back, and reads the reason."""


class Override(Decision):
    """Rates and quota of one user; what is not given is as for everybody. A quota of 0 is none."""

    submits_per_s: Rate | None = None
    reads_per_s: Rate | None = None
    submits_per_day: Annotated[int, Field(ge=0, le=1_000_000_000)] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Override:
        if self.submits_per_s is None and self.reads_per_s is None and self.submits_per_day is None:
            raise ValueError("give at least one of submits_per_s, reads_per_s and submits_per_day")
        return self


D = TypeVar("D", bound=Decision)


async def block(call: Call) -> Response:
    """201 with the block, which is in force."""
    return await _keep(call, "block", await _asked(call, Block))


async def override(call: Call) -> Response:
    """201 with the override, which is in force."""
    return await _keep(call, "override", await _asked(call, Override))


async def blocks(call: Call) -> Response:
    """200 with the blocks in force, the newest first."""
    return await _list(call, "block")


async def overrides(call: Call) -> Response:
    """200 with the overrides in force, the newest first."""
    return await _list(call, "override")


async def unblock(call: Call) -> Response:
    """204 once the block is taken back."""
    return await _remove(call, "block")


async def remove_override(call: Call) -> Response:
    """204 once the user's rates are everybody's again."""
    return await _remove(call, "override")


async def _asked(call: Call, kind: type[D]) -> D:
    try:
        decision = kind.model_validate(await read_json(call))
    except ValidationError as error:
        raise BodyInvalid("The decision cannot be read.", pointers=pointers_of(error)) from error
    call.target = decision.principal_id
    if kind is Block and decision.principal_id == call.caller.id:
        raise BodyInvalid("You cannot block yourself.", pointers={"/principal_id": "is your own"})
    return decision


async def _keep(call: Call, sort: Sort, decision: Decision) -> Response:
    said = decision.model_dump(exclude={"principal_id"}, exclude_none=True)
    kept = await call.service.decisions.keep(sort, decision.principal_id, said, actor_of(call))
    return json_response(_view(kept), 201, {"Location": f"/api/v1/admin/{sort}s/{decision.principal_id}"})


async def _list(call: Call, sort: Sort) -> Response:
    return json_response({f"{sort}s": [_view(kept) for kept in await call.service.decisions.listed(sort)]})


async def _remove(call: Call, sort: Sort) -> Response:
    call.target = call.request.path_params["principal_id"]
    if not re.fullmatch(PRINCIPAL_ID, call.target):
        raise DecisionUnknown("This is no principal id: 32 hexadecimal digits, as in the usage records.")
    await call.service.decisions.remove(sort, call.target, actor_of(call))
    return Response(status_code=204)


def _view(kept: Json) -> Json:
    return {**kept, "at": timestamp(kept["at"])}
