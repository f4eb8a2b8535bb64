"""Stops as resources: POST lets no more jobs in or lets a model's jobs wait, DELETE takes it back, GET lists them."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.responses import Response

from serve_app.contracts import Json
from serve_app.errors import BodyInvalid
from serve_app.gateway.admin.actor import actor_of
from serve_app.gateway.admin.people import Text
from serve_app.gateway.body import pointers_of, read_json
from serve_app.gateway.problems import json_response
from serve_app.gateway.service import Call
from serve_app.gateway.views import timestamp
from serve_app.jobs.records import StopName, Stopped

RETRY_AFTER_S: Final = 300
RETRY_AFTER_MAX_S: Final = 24 * 3600


class Stop(BaseModel):
    """What an admin asks for. Who is refused reads the message."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    what: Stopped = "intake"
    model: str | None = None
    message: Annotated[Text, Field(min_length=1)]
    retry_after_s: Annotated[int, Field(ge=1, le=RETRY_AFTER_MAX_S)] = RETRY_AFTER_S

    @model_validator(mode="after")
    def _names_its_model(self) -> Stop:
        if self.what == "work" and self.model is None:
            raise ValueError("work is stopped model by model: name one")
        return self


async def stop(call: Call) -> Response:
    """201 with the stop, which is in force."""
    try:
        asked = Stop.model_validate(await read_json(call))
    except ValidationError as error:
        raise BodyInvalid("The stop cannot be read.", pointers=pointers_of(error)) from error
    name = StopName(asked.what, asked.model and call.service.card(asked.model).name)
    call.target = str(name)
    actor, said = actor_of(call), asked.model_dump(include={"message", "retry_after_s"})
    event = actor.event("stop", str(name), said)
    signed = actor.signed(said, event)
    await call.service.jobs.add_stop(name, signed, event)
    return json_response(_view(str(name), signed), 201, {"Location": f"/api/v1/admin/stops/{name}"})


async def stops(call: Call) -> Response:
    """200 with the stops in force."""
    found = await call.service.jobs.stops()
    return json_response({"stops": [_view(name, said) for name, said in found.items()]})


async def resume(call: Call) -> Response:
    """204 once the stop is taken back."""
    call.target = call.request.path_params["stop"]
    await call.service.jobs.remove_stop(call.target, actor_of(call).event("remove-stop", call.target))
    return Response(status_code=204)


def _view(name: str, said: Json) -> Json:
    what, _, model = name.partition(":")
    return {"stop": name, "what": what, "model": model or None, **said, "at": timestamp(said["at"])}
