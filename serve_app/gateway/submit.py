"""POST /api/v1/jobs and POST /api/v1/inference: a request body becomes an accepted job, or leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.responses import Response

from serve_app.contracts import Job, Json, ModelCard, Priority
from serve_app.errors import BodyInvalid, BodyTypeUnsupported, ImageMissing, ParamsInvalid
from serve_app.gateway import views
from serve_app.gateway.body import (
    Form,
    escape,
    media_type,
    parse_object,
    pointers_of,
    read_form,
    read_json,
)
from serve_app.gateway.forms import close_files
from serve_app.gateway.operations.idempotency import identify, read_key
from serve_app.gateway.problems import json_response
from serve_app.gateway.service import Call, Service
from serve_app.gateway.uploads import UploadShare
from serve_app.images.fetch import fetch
from serve_app.images.header import ImageHeader, inspect
from serve_app.images.store import accepted_with, keep_input
from serve_app.jobs.limits import PARAMS_MAX_BYTES
from serve_app.jobs.records import Submission

OLDER_FIELDS: Final = ("image_url", "model", "params")
FIELDS: Final = (*OLDER_FIELDS, "keep", "priority")
"""Of a body, beside the file `image` of a form."""
KINDS: Final = (
    ("image_url", str, "a text"),
    ("model", str, "a text"),
    ("params", dict, "an object"),
    ("keep", bool, "true or false"),
)


@dataclass(frozen=True, slots=True)
class Ask:
    """What a submit body asks for, whichever of the two media types it came in."""

    image: UploadFile | None
    image_url: str | None
    model: str | None
    params: Json
    keep: bool
    priority: Priority


@dataclass(frozen=True, slots=True)
class Accepted:
    """The job of a submit, and what the answer's headers say of it."""

    job: Job
    headers: dict[str, str]


async def submit_job(call: Call) -> Response:
    """202 with the job object, once the job is in Redis."""
    accepted = await _accept(call, FIELDS)
    path = views.job_path(accepted.job.id)
    headers = {"Location": path, "Retry-After": str(views.POLL_AFTER_S), **accepted.headers}
    return json_response(views.job_object(accepted.job, call.service.settings.job_ttl), 202, headers)


async def submit_inference(call: Call) -> Response:
    """200 with id and status, as the first public version of this route answered."""
    accepted = await _accept(call, OLDER_FIELDS)
    return json_response(views.submitted(accepted.job), headers=accepted.headers)


async def _accept(call: Call, fields: Sequence[str]) -> Accepted:
    key = read_key(call)
    with call.service.uploads.share(call.caller.id) as share:
        kind = media_type(call)
        if kind == "multipart/form-data":
            form = await read_form(call, share)
            try:
                return await _accept_ask(call, share, _ask_of_form(form, fields), key)
            finally:
                close_files(form.values())
        if kind == "application/json":
            return await _accept_ask(call, share, _ask_of_json(await read_json(call), fields), key)
        raise BodyTypeUnsupported("Send multipart/form-data with the file field image, or application/json.")


async def _accept_ask(call: Call, share: UploadShare, ask: Ask, key: str | None) -> Accepted:
    service = call.service
    card = service.card(ask.model)
    call.model = card.name
    takes_image = wants_image(card, sources=(ask.image is not None) + (ask.image_url is not None))
    if ask.keep and not takes_image:
        raise BodyInvalid(f"The model {card.name} takes no image, so there is none to keep.")
    params = checked_params(service, card, ask.params)
    data = await ask.image.read() if ask.image is not None else None
    submission = Submission(
        id=str(uuid.uuid4()),
        owner=call.caller.id,
        model=card.name,
        params=params,
        priority=ask.priority,
        keep=ask.keep,
        traceparent=call.traceparent,
    )
    job = None
    if key is not None:
        asked: Json = {"model": card.name, "params": params, "image_url": ask.image_url}
        asked |= {"keep": ask.keep, "priority": ask.priority}
        submission = replace(submission, idempotency=await identify(call, key, asked, data))
        job = await service.jobs.find_earlier(submission)
    if job is None:
        if takes_image and data is None:
            data = await fetched(service, share, submission.owner, ask.image_url or "")
        # From here accepting runs to its end: a client that goes away leaves a whole job or none.
        call.accepting = True
        job = await asyncio.shield(service.spawn(_submit(service, submission, data)))
    call.job_id, call.accepted = job.id, job.id == submission.id
    return Accepted(job, {"Idempotent-Replayed": "true"} if job.id != submission.id else {})


async def _submit(service: Service, submission: Submission, data: bytes | None) -> Job:
    await service.store.check_intake()
    if data is None:
        return await service.jobs.submit(submission)
    return await _submit_with_input(service, submission, data, inspect(data, service.settings))


async def _submit_with_input(service: Service, submission: Submission, data: bytes, header: ImageHeader) -> Job:
    stored = await keep_input(service.store, submission.id, data, header)
    accepting = service.jobs.submit(replace(submission, input=stored))
    # Another id: the same submit was accepted meanwhile, with inputs of its own.
    return await accepted_with(service.store, [stored], accepting, has_them=lambda job: job.id == submission.id)


def wants_image(card: ModelCard, *, sources: int) -> bool:
    """Whether the model takes an image, and was given just one. Raises `BodyInvalid`, `ImageMissing`."""
    if card.input_layer == "none":
        if sources:
            raise BodyInvalid(f"The model {card.name} takes parameters only, no image.")
        return False
    if sources != 1:
        raise ImageMissing("Send exactly one image: the file field image, or image_url.")
    return True


async def fetched(service: Service, share: UploadShare, owner: str, url: str) -> bytes:
    """The image behind a user's URL, once it is their turn. Its bytes count while they arrive.

    Raises as `fetch`, and `StoreFull`.
    """
    async with service.fetches.take(owner):
        return await fetch(url, service.settings, owner=owner, arrived=share.reach)


def checked_params(service: Service, card: ModelCard, params: Json) -> Json:
    """The parameters that were chosen, as the model takes them. Raises `ParamsInvalid`.

    Defaults are left to the model: a replica of the release before refuses a parameter that it does not know yet.
    """
    check_size(params)
    try:
        checked = service.params[card.name].model_validate(params).model_dump(mode="json", exclude_unset=True)
    except ValidationError as error:
        pointers = pointers_of(error, "/params")
        where = ", ".join(pointers)
        raise ParamsInvalid(f"The parameters of {card.name} are not valid at {where}.", pointers=pointers) from error
    check_size(checked)
    return checked


def check_size(params: Json) -> None:
    """Refuse parameters that are too large to lie in a job's record. Raises `ParamsInvalid`."""
    if len(json.dumps(params)) > PARAMS_MAX_BYTES:  # ASCII, as the record has them
        words = f"at most {PARAMS_MAX_BYTES} bytes as JSON in ASCII"
        raise ParamsInvalid(f"The parameters of a job may have {words}.", pointers={"/params": words})


def _ask_of_form(form: Form, names: Sequence[str]) -> Ask:
    image, params = form.get("image"), form.get("params")
    if isinstance(image, str):
        raise ImageMissing("Send the field image as a file: its part needs a filename.")
    if params is not None and not isinstance(params, str):
        raise BodyInvalid("Send the field params as text that holds a JSON object.")
    fields: Json = {name: value for name, value in form.items() if name not in ("image", "params")}
    if params is not None:
        fields["params"] = parse_object(params.encode(), "The field params")
    if fields.get("keep") in ("true", "false"):
        fields["keep"] = fields["keep"] == "true"
    return _ask(fields, image, names)


def _ask_of_json(fields: Json, names: Sequence[str]) -> Ask:
    return _ask({name: value for name, value in fields.items() if value is not None}, None, names)


def _ask(fields: Json, image: UploadFile | None, names: Sequence[str]) -> Ask:
    if unknown := fields.keys() - set(names):
        known = f"no such field; the body may hold image, {', '.join(names[:-1])} and {names[-1]}"
        raise BodyInvalid("Unknown fields in the body.", pointers={f"/{escape(name)}": known for name in unknown})
    for name, kind, words in KINDS:
        if not isinstance(fields.get(name, kind()), kind):
            raise BodyInvalid(f"The field {name} must be {words}.", pointers={f"/{name}": f"must be {words}"})
    return Ask(
        image,
        fields.get("image_url"),
        fields.get("model"),
        fields.get("params", {}),
        fields.get("keep", False),
        _priority(fields.get("priority", Priority.NORMAL)),
    )


def _priority(value: Any) -> Priority:
    try:
        return Priority(value)
    except ValueError as error:
        words = " or ".join(Priority)
        raise BodyInvalid(f"The field priority must be {words}.", pointers={"/priority": f"must be {words}"}) from error
