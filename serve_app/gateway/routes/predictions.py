"""Routes that answer with the result: they submit a job and wait for its end."""

from __future__ import annotations

from typing import Any, Final

from starlette.datastructures import UploadFile
from starlette.responses import Response

from serve_app import errors
from serve_app.contracts import Job, Json, ModelCard
from serve_app.errors import BodyInvalid, BodyTypeUnsupported, ImageMissing, ParamsInvalid
from serve_app.gateway.bodies import Form, close_files, media_type, parse_json, parse_object, read_form
from serve_app.gateway.context import Call, Models
from serve_app.gateway.endpoint import Problems, RouteSpec, RouteTable
from serve_app.gateway.http import json_response
from serve_app.gateway.idempotency import read_key
from serve_app.gateway.intake import Accepted, Intake, WantedJob, accept_all, result_of
from serve_app.gateway.live import JobWatch, ended_within, take_wait
from serve_app.gateway.schemas import jobs as job_schemas
from serve_app.gateway.schemas import predictions as schemas
from serve_app.gateway.submission import checked_params, with_file_name
from serve_app.settings import Settings

FIELDS_MAX: Final = 64
"""Of a form whose fields are parameters."""
WAITING: Final[Problems] = (
    errors.BodyInvalid,
    errors.BodyTooLarge,
    errors.BodyTypeUnsupported,
    errors.IdempotencyKeyInvalid,
    errors.IdempotencyKeyReused,
    errors.ImageMissing,
    errors.ImageTypeUnsupported,
    errors.ImageTooLarge,
    errors.ImageUnreadable,
    errors.InputRejected,
    errors.ModelUnknown,
    errors.ModelRefused,
    errors.JobHasNoResult,
    errors.IntakeStopped,
    errors.QueueFull,
    errors.StoreFull,
    errors.StoreUnavailable,
    errors.PredictionFailed,
    errors.PredictionUnfinished,
)
"""Problems of a route that submits jobs and waits for their ends."""

ROUTES: Final = RouteTable()


def _spec(path: str, summary: str) -> RouteSpec:
    return RouteSpec(
        "POST",
        path,
        summary,
        "Predictions",
        {200: (schemas.Prediction,), 202: (job_schemas.Job,)},
        WAITING,
        tracked="predict",
        deadline="submit",
        bodies={"multipart/form-data": schemas.PredictForm},
        headers=("Idempotency-Key", "traceparent"),
        answer_headers=("Idempotent-Replayed",),
    )


@ROUTES.add(_spec("/predict", "Text of an image: submit to the model PREDICT_MODEL and wait for the result"))
@ROUTES.add(_spec("/api/v1/models/{model}/predict", "Submit to a model and wait for the result"))
async def predict(call: Call, intake: Intake, watch: JobWatch, settings: Settings) -> Response:
    """200 with the result, or 202 with the job if it has not ended after PREDICT_WAIT_S.

    A client that disconnects does not cancel the job.
    """
    card = intake.models.takes_jobs(call.request.path_params.get("model", settings.predict_model))
    call.model = card.name
    accepted, waits = await _accept(call, intake, watch, card)
    job = accepted.job
    if waits:
        (job,) = await ended_within(call, watch, [job], settings.predict_wait_s)
    if not job.ended:
        return _unfinished(job, settings, accepted)
    return json_response(schemas.prediction(call.request_id, job, result_of(job)), headers=accepted.headers)


async def _accept(call: Call, intake: Intake, watch: JobWatch, card: ModelCard) -> tuple[Accepted, bool]:
    """The job of the form, and whether the request may wait."""
    key = read_key(call.request)
    with intake.budget.share(call.caller.id) as share:
        if media_type(call) != "multipart/form-data":
            raise BodyTypeUnsupported("Send multipart/form-data with the file field file.")
        form = await read_form(call, share, intake.settings, fields=FIELDS_MAX)
        try:
            wanted = await _wanted(intake.models, card, form)
        finally:
            close_files(form.values())
        waits = take_wait(call, watch)
        return (await accept_all(call, intake, [wanted], key))[0], waits


async def _wanted(models: Models, card: ModelCard, form: Form) -> WantedJob:
    file, texts = form.get("file"), {name: value for name, value in form.items() if name != "file"}
    data = None
    if card.input_layer == "none":
        if file is not None:
            raise BodyInvalid(f"The model {card.name} takes parameters only, no file.")
    elif not isinstance(file, UploadFile):
        raise ImageMissing("Send the field file as a file: its part needs a filename.")
    elif not (data := await file.read()):
        raise ImageMissing("The file is empty.")
    try:
        params = checked_params(models, card, _params(card, texts))
    except ParamsInvalid as error:  # fields of the form, so the form is wrong
        pointers = {name.removeprefix("/params"): fault for name, fault in error.pointers.items()}
        raise BodyInvalid(error.detail.replace(" /params/", " /"), pointers=pointers) from error
    name = file.filename if isinstance(file, UploadFile) else None
    return WantedJob(card.name, with_file_name(models, card, params, name or ""), data)


def _params(card: ModelCard, texts: Form) -> Json:
    """The parameters of a form: those of the field `params`, and each other field. Raises `BodyInvalid`."""
    params: Json = {}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise BodyInvalid(f"Send the file in the field file, not in {name[:100]!r}.")
        given = parse_object(text.encode(), "The field params") if name == "params" else {name: text}
        if twice := params.keys() & given.keys():
            raise BodyInvalid(f"The parameter {min(twice)[:100]!r} was sent twice.")
        params |= given
    properties = card.params_schema.get("properties", {})
    for name, text in texts.items():
        if name != "params" and _is_structured(properties.get(name, {}), card.params_schema.get("$defs", {})):
            params[name] = parse_json(str(text).encode(), f"The field {name}")
    return params


def _is_structured(schema: Json, named: Json) -> bool:
    """Whether a parameter is a list or an object, and never a text."""
    kinds = _kinds(schema, named)
    return bool(kinds & {"array", "object"}) and "string" not in kinds


def _kinds(schema: Json, named: Json) -> set[str]:
    if reference := schema.get("$ref"):
        return _kinds(named.get(str(reference).rpartition("/")[2], {}), {})
    parts: list[Any] = [part for key in ("anyOf", "oneOf", "allOf") for part in schema.get(key, ())]
    return {str(schema.get("type", ""))}.union(*(_kinds(part, named) for part in parts))


def _unfinished(job: Job, settings: Settings, accepted: Accepted) -> Response:
    location = {"Location": job_schemas.job_path(job.id), "Retry-After": str(job_schemas.POLL_AFTER_S)}
    return json_response(job_schemas.job_object(job, settings.job_ttl), 202, {**location, **accepted.headers})
