"""The content of a submit body, and the checks that make it an acceptable job. Both media types, and the items of
batches, pass through the same checks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError
from starlette.datastructures import UploadFile

from serve_app.contracts import Json, ModelCard, Priority
from serve_app.errors import BodyInvalid, ImageMissing, ParamsInvalid
from serve_app.gateway.bodies import Form, parse_object
from serve_app.gateway.context import Models
from serve_app.gateway.http import escape, pointers_of
from serve_app.images.names import safe_name
from serve_app.jobs.limits import PARAMS_MAX_BYTES

OLDER_FIELDS: Final = ("image_url", "model", "params")
FIELDS: Final = (*OLDER_FIELDS, "keep", "priority")
"""Of a body, besides the file `image` of a form."""
GIVEN_MAX_BYTES: Final = 4 * PARAMS_MAX_BYTES
"""Of the parameters of a request, as JSON. A model may shorten them; what the job keeps has PARAMS_MAX_BYTES."""
KINDS: Final = (
    ("image_url", str, "a text"),
    ("model", str, "a text"),
    ("params", dict, "an object"),
    ("keep", bool, "true or false"),
)


@dataclass(frozen=True, slots=True)
class SubmitRequest:
    """The fields of a submit body, in either media type."""

    image: UploadFile | None
    image_url: str | None
    model: str | None
    params: Json
    keep: bool
    priority: Priority


def request_of_form(form: Form, names: Sequence[str]) -> SubmitRequest:
    """The request in a form whose fields may be the file `image` and `names`. Raises `BodyInvalid`, `ImageMissing`."""
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
    return _submit_request(fields, image, names)


def request_of_json(fields: Json, names: Sequence[str]) -> SubmitRequest:
    """The request in a JSON body whose fields may be `names`. Raises `BodyInvalid`."""
    return _submit_request({name: value for name, value in fields.items() if value is not None}, None, names)


def wants_image(card: ModelCard, *, sources: int) -> bool:
    """Whether the model takes an image. Checks that there is exactly one then, and otherwise none. Raises
    `BodyInvalid`, `ImageMissing`."""
    if card.input_layer == "none":
        if sources:
            raise BodyInvalid(f"The model {card.name} takes parameters only, no image.")
        return False
    if sources != 1:
        raise ImageMissing("Send exactly one image: the file field image, or image_url.")
    return True


def checked_params(models: Models, card: ModelCard, params: Json) -> Json:
    """The given parameters, validated by the model. Raises `ParamsInvalid`.

    Defaults are left to the model, because a replica of the previous release refuses a parameter that it does not know
    yet.
    """
    check_size(params, GIVEN_MAX_BYTES)
    try:
        checked = models.params[card.name].model_validate(params).model_dump(mode="json", exclude_unset=True)
    except ValidationError as error:
        pointers = pointers_of(error, "/params")
        where = ", ".join(pointers)
        raise ParamsInvalid(f"The parameters of {card.name} are not valid at {where}.", pointers=pointers) from error
    check_size(checked)
    return checked


def with_file_name(models: Models, card: ModelCard, params: Json, given: str) -> Json:
    """The checked parameters with the image's file name, made safe, if the model declares `file_name` and the caller
    left it out."""
    if not given or "file_name" in params or "file_name" not in models.params[card.name].model_fields:
        return params
    return {**params, "file_name": safe_name(given)}


def check_size(params: Json, most: int = PARAMS_MAX_BYTES) -> None:
    """Refuse parameters that are too large, by default for a job's record. Raises `ParamsInvalid`."""
    if len(json.dumps(params)) > most:  # ASCII, as in the record
        words = f"at most {most} bytes as JSON in ASCII"
        raise ParamsInvalid(f"The parameters of a job may have {words}.", pointers={"/params": words})


def _submit_request(fields: Json, image: UploadFile | None, names: Sequence[str]) -> SubmitRequest:
    if unknown := fields.keys() - set(names):
        known = f"no such field; the body may hold image, {', '.join(names[:-1])} and {names[-1]}"
        raise BodyInvalid("Unknown fields in the body.", pointers={f"/{escape(name)}": known for name in unknown})
    for name, kind, words in KINDS:
        if not isinstance(fields.get(name, kind()), kind):
            raise BodyInvalid(f"The field {name} must be {words}.", pointers={f"/{name}": f"must be {words}"})
    return SubmitRequest(
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
