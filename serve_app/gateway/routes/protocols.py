"""The KServe V1 protocol and the Open Inference Protocol (V2). Every image of a request is a job of its caller."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.responses import Response

from serve_app import errors
from serve_app.contracts import SERVICE_NAME, Job, Json, ModelCard
from serve_app.errors import (
    BodyInvalid,
    BodyTypeUnsupported,
    ImageMissing,
    ModelNotReady,
    ModelUnknown,
    RateLimited,
    ServiceError,
)
from serve_app.gateway import tensors
from serve_app.gateway.auth import TokenVerifier
from serve_app.gateway.bodies import FORM_MARGIN_BYTES, media_type, read_bytes
from serve_app.gateway.context import Call, Models
from serve_app.gateway.endpoint import Problems, RouteSpec, RouteTable
from serve_app.gateway.http import header_of, json_response, json_text, pointers_of
from serve_app.gateway.idempotency import read_key
from serve_app.gateway.intake import Intake, WantedJob, accept_all, result_of
from serve_app.gateway.live import WAITS_MAX_PER_USER, JobWatch, ended_within, take_wait
from serve_app.gateway.long_json import LongJson, LongText, decoded
from serve_app.gateway.routes.predictions import WAITING
from serve_app.gateway.routes.service import Health, Release, is_ready
from serve_app.gateway.schemas import protocols as schemas
from serve_app.gateway.schemas.predictions import rows
from serve_app.gateway.submission import checked_params
from serve_app.jobs.store import JobStore
from serve_app.settings import Settings

ALIAS: Final = "aiq-detector"
"""The detector's name in the system that this one replaces."""
LENGTH: Final = "Inference-Header-Content-Length"
BINARY: Final = "application/octet-stream"
EXTENSIONS: Final = ["binary_tensor_data"]
RETRY_AFTER_S: Final = 2
_WAITING: Final[Problems] = (*WAITING, errors.ParamsInvalid)
_MODEL: Final[Problems] = (errors.ModelUnknown,)
_MODEL_READY: Final[Problems] = (errors.ModelUnknown, errors.ModelRefused, errors.ModelNotReady)

ROUTES: Final = RouteTable()

B = TypeVar("B", bound=BaseModel)


# ---------------------------------------------------------------------------------------------------------- KServe V1


@ROUTES.add(
    RouteSpec(
        "POST",
        "/v1/models/{model_name}:predict",
        "KServe V1: submit images and wait for all results",
        "Predictions",
        {200: (schemas.Predictions,)},
        _WAITING,
        tracked="predict",
        deadline="submit",
        bodies={"application/json": schemas.PredictBody},
        example={"instances": [{"image": {"b64": "iVBORw0KGgo="}}], "parameters": {"label": "coin"}},
        headers=("Idempotency-Key", "traceparent"),
        answer_headers=("prediction-time-latency", "Idempotent-Replayed"),
    )
)
async def predict_v1(call: Call, intake: Intake, watch: JobWatch, settings: Settings) -> Response:
    """200 with a prediction for each instance, in order; 504 if a job has not ended after PREDICT_WAIT_S.

    `aiq-detector` is the model DETECTOR_MODEL, with predictions in the shape that this name is known for.
    """
    started = time.perf_counter()
    name = call.request.path_params["model_name"]
    card = intake.models.takes_jobs(_meant(name, settings))
    call.model = card.name
    jobs, headers = await _accepted_v1(call, intake, watch, card)
    results = results_of(await ended_within(call, watch, jobs, settings.predict_wait_s))
    predictions: list[object] = [*results]
    if name == ALIAS:
        circles = [[schemas.circle(row) for row in rows(result)] for result in results]
        predictions = [*circles[0]] if len(circles) == 1 else [*circles]
    answer: schemas.Predictions = {"predictions": predictions}
    latency = f"{(time.perf_counter() - started) * 1000:.2f}"
    return json_response(answer, headers={**headers, "prediction-time-latency": latency})


async def _accepted_v1(
    call: Call, intake: Intake, watch: JobWatch, card: ModelCard
) -> tuple[list[Job], dict[str, str]]:
    if media_type(call) != "application/json":
        raise BodyTypeUnsupported("Send application/json.")
    with intake.budget.share(call.caller.id) as share:
        document = LongJson(await read_bytes(call, _limit(intake.settings), share))
        body = _validated(schemas.PredictBody, document.value)
        params = checked_params(intake.models, card, document.restored(body.parameters or {}))
        images = [
            None if text is None else await decoded(text, pointer) for text, pointer in _texts(card, body, document)
        ]
        return await _accept(call, intake, watch, [WantedJob(card.name, params, image) for image in images])


def _texts(card: ModelCard, body: schemas.PredictBody, document: LongJson) -> list[tuple[LongText | str | None, str]]:
    """The encoded images and their places; None for each instance of a model without images."""
    if (body.instances is None) == (body.inputs is None):
        raise BodyInvalid("Send either instances or inputs.")
    found: list[tuple[str | None, str]] = [(one.data, f"/inputs/{at}/data") for at, one in enumerate(body.inputs or ())]
    found += [
        (one.image.b64 if one.image else None, f"/instances/{at}/image/b64")
        for at, one in enumerate(body.instances or ())
    ]
    for text, pointer in found:
        if card.input_layer == "none" and text is not None:
            raise BodyInvalid(f"The model {card.name} takes parameters only, no image.", pointers={pointer: "no image"})
        if card.input_layer != "none" and not text:
            raise ImageMissing("Each instance needs an image.", pointers={pointer: "is missing or empty"})
    return [(text and document.find(text), pointer) for text, pointer in found]


@ROUTES.add(
    RouteSpec(
        "GET",
        "/v1/models",
        "KServe V1: the names of the models",
        "Predictions",
        {200: (schemas.ModelNames,)},
        tracked="models",
    )
)
async def list_names(call: Call, models: Models) -> Response:
    """200 with the names of the served models."""
    answer: schemas.ModelNames = {"models": models.names}
    return json_response(answer)


@ROUTES.add(
    RouteSpec(
        "GET",
        "/v1/models/{model_name}",
        "KServe V1: whether a model takes jobs",
        "Predictions",
        {200: (schemas.ModelReady,)},
        _MODEL_READY,
        tracked="models",
    )
)
async def model_ready_v1(call: Call, jobs: JobStore, models: Models, settings: Settings) -> Response:
    """200 if the model has a replica or wakes for its first job, else 503."""
    name = call.request.path_params["model_name"]
    await _check_ready(jobs, models, _meant(name, settings))
    answer: schemas.ModelReady = {"name": name, "ready": True}
    return json_response(answer)


# --------------------------------------------------------------------------------------------- Open Inference Protocol


@ROUTES.add(
    RouteSpec(
        "GET",
        "/v2",
        "Open Inference Protocol: the server",
        "Predictions",
        {200: (schemas.ServerMetadata,)},
    )
)
async def server_metadata(call: Call, release: Release) -> Response:
    """200 with name, release and extensions of the server."""
    answer: schemas.ServerMetadata = {"name": SERVICE_NAME, "version": release.version, "extensions": EXTENSIONS}
    return json_response(answer)


@ROUTES.add(
    RouteSpec(
        "GET",
        "/v2/health/live",
        "Open Inference Protocol: the gateway answers",
        "Predictions",
        {200: (schemas.Live,)},
    )
)
async def live(call: Call) -> Response:
    """200 while the process answers; depends on no other part."""
    answer: schemas.Live = {"live": True}
    return json_response(answer)


@ROUTES.add(
    RouteSpec(
        "GET",
        "/v2/health/ready",
        "Open Inference Protocol: whether jobs are worked on",
        "Predictions",
        {200: (schemas.Ready,), 503: (schemas.Ready,)},
    )
)
async def server_ready(call: Call, parts: Health, verifier: TokenVerifier) -> Response:
    """200 or 503, as GET /readyz."""
    answer: schemas.Ready = {"ready": await is_ready(parts)}
    return json_response(answer, 200 if answer["ready"] else 503)


# Of two rows above one handler, the lower one comes first in the table.
@ROUTES.add(
    RouteSpec(
        "GET",
        "/v2/models/{model_name}/versions/{version}/ready",
        "Open Inference Protocol: whether this version of a model takes jobs",
        "Predictions",
        {200: (schemas.ModelReady,)},
        _MODEL_READY,
        tracked="models",
    )
)
@ROUTES.add(
    RouteSpec(
        "GET",
        "/v2/models/{model_name}/ready",
        "Open Inference Protocol: whether a model takes jobs",
        "Predictions",
        {200: (schemas.ModelReady,)},
        _MODEL_READY,
        tracked="models",
    )
)
async def model_ready_v2(call: Call, jobs: JobStore, models: Models, release: Release) -> Response:
    """200 if the model has a replica or wakes for its first job, else 503."""
    card = _versioned(call, models, release)
    await _check_ready(jobs, models, card.name)
    answer: schemas.ModelReady = {"name": card.name, "ready": True}
    return json_response(answer)


@ROUTES.add(
    RouteSpec(
        "GET",
        "/v2/models/{model_name}/versions/{version}",
        "Open Inference Protocol: the tensors of this version of a model",
        "Predictions",
        {200: (schemas.ModelMetadata,)},
        _MODEL,
        tracked="models",
    )
)
@ROUTES.add(
    RouteSpec(
        "GET",
        "/v2/models/{model_name}",
        "Open Inference Protocol: the tensors of a model",
        "Predictions",
        {200: (schemas.ModelMetadata,)},
        _MODEL,
        tracked="models",
    )
)
async def model_metadata(call: Call, models: Models, release: Release) -> Response:
    """200 with inputs, outputs and the one version of the model."""
    card = _versioned(call, models, release)
    answer: schemas.ModelMetadata = {
        "name": card.name,
        "versions": [release.version],
        "platform": SERVICE_NAME,
        "inputs": tensors.inputs_of(card),
        "outputs": tensors.outputs_of(card),
    }
    return json_response(answer)


def _infer_spec(path: str, summary: str) -> RouteSpec:
    image = {"name": "image", "shape": [1], "datatype": "BYTES", "data": ["iVBORw0KGgo="]}
    return RouteSpec(
        "POST",
        path,
        summary,
        "Predictions",
        {200: (schemas.Inferred, BINARY)},
        _WAITING,
        tracked="predict",
        deadline="submit",
        bodies={"application/json": schemas.InferBody, BINARY: schemas.BinaryInferBody},
        example={"id": "1", "inputs": [image], "outputs": [{"name": "result"}]},
        headers=("Idempotency-Key", "traceparent", LENGTH),
        answer_headers=(LENGTH, "Idempotent-Replayed"),
    )


@ROUTES.add(
    _infer_spec(
        "/v2/models/{model_name}/versions/{version}/infer",
        "Open Inference Protocol: submit images to this version of a model and wait",
    )
)
@ROUTES.add(_infer_spec("/v2/models/{model_name}/infer", "Open Inference Protocol: submit images to a model and wait"))
async def infer(call: Call, intake: Intake, watch: JobWatch, release: Release, settings: Settings) -> Response:
    """200 with the outputs of all images, in order; 504 if a job has not ended after PREDICT_WAIT_S."""
    card = intake.models.takes_jobs(_versioned(call, intake.models, release).name)
    call.model = card.name
    jobs, headers, (request_id, wanted) = await _accepted_v2(call, intake, watch, card)
    results = results_of(await ended_within(call, watch, jobs, settings.predict_wait_s))
    made = tensors.tensors(card, results)
    listed, pieces = tensors.written([(made[name], binary) for name, binary in wanted.items()])
    answer: schemas.Inferred = {
        "model_name": card.name,
        "model_version": release.version,
        "parameters": {"job_ids": ",".join(job.id for job in jobs)},
        "outputs": listed,
    }
    if request_id is not None:
        answer["id"] = request_id
    if not any(wanted.values()):
        return json_response(answer, headers=headers)
    head = json_text(answer).encode()
    return Response(b"".join((head, *pieces)), headers={**headers, LENGTH: str(len(head))}, media_type=BINARY)


async def _accepted_v2(
    call: Call, intake: Intake, watch: JobWatch, card: ModelCard
) -> tuple[list[Job], dict[str, str], tuple[str | None, dict[str, bool]]]:
    """The jobs, the headers of the answer, and what it is to have: its id, and by name whether an output is binary."""
    length = header_of(call.request.scope, LENGTH.lower().encode())
    if media_type(call) not in ("application/json", BINARY, "") or (length is None and media_type(call) == BINARY):
        raise BodyTypeUnsupported(f"Send application/json, or {BINARY} with the header {LENGTH}.")
    with intake.budget.share(call.caller.id) as share:
        whole = await read_bytes(call, _limit(intake.settings), share)
        end = len(whole) if length is None else _json_length(length, len(whole))
        document = LongJson(whole, end)
        body = _validated(schemas.InferBody, document.value)
        wanted = tensors.wanted_outputs(card, body)
        given = {name: value for name, value in (body.parameters or {}).items() if name not in tensors.RESERVED}
        params = checked_params(intake.models, card, document.restored(given))
        images = await tensors.images_of(card, body, document, memoryview(whole)[end:])
        jobs, headers = await _accept(call, intake, watch, [WantedJob(card.name, params, image) for image in images])
        return jobs, headers, (document.restored(body.id), wanted)


def _json_length(text: str, size: int) -> int:
    if not text.isdecimal() or len(text) > 12 or int(text) > size:
        raise BodyInvalid(f"{LENGTH} must be the length of the JSON at the beginning of the body.")
    return int(text)


def _versioned(call: Call, models: Models, release: Release) -> ModelCard:
    """The model in the path. Raises `ModelUnknown`, also for any version but the deployed one."""
    card = models.card(call.request.path_params["model_name"])
    if call.request.path_params.get("version", release.version) != release.version:
        raise ModelUnknown(f"The model {card.name} has the version {release.version} here, and no other.")
    return card


# --------------------------------------------------------------------------------------------------------------- both


async def _accept(
    call: Call, intake: Intake, watch: JobWatch, wanted: Sequence[WantedJob]
) -> tuple[list[Job], dict[str, str]]:
    """The jobs in Redis, and the headers of the answer. Raises `RateLimited` if the request could not wait for them."""
    key = read_key(call.request)
    if not take_wait(call, watch):
        raise RateLimited(
            f"You have {WAITS_MAX_PER_USER} requests that wait here, or all users more than fit. Try again in a "
            "moment, or submit with POST /api/v1/jobs.",
            retry_after=RETRY_AFTER_S,
        )
    accepted = await accept_all(call, intake, wanted, key)
    return [one.job for one in accepted], accepted[0].headers


def results_of(jobs: Sequence[Job]) -> list[Json]:
    """The results of all jobs. Raises the problem of the first without one (`intake.result_of`), with its place."""
    results = []
    for place, job in enumerate(jobs):
        try:
            results.append(result_of(job))
        except ServiceError as error:
            if len(jobs) > 1:
                error.detail = f"Image {place + 1} of {len(jobs)}: {error.detail}"
            raise
    return results


def _limit(settings: Settings) -> int:
    """Most bytes of a body: one largest image in base64, if one user may send so much at once."""
    return min(settings.image_max_bytes * 4 // 3 + FORM_MARGIN_BYTES, settings.upload_bytes_per_user)


def _validated(kind: type[B], value: Json) -> B:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        pointers = pointers_of(error)
        raise BodyInvalid(f"The body is not valid at {', '.join(pointers)}.", pointers=pointers) from error


def _meant(name: str, settings: Settings) -> str:
    return settings.detector_model if name == ALIAS else name


async def _check_ready(jobs: JobStore, models: Models, name: str) -> None:
    """Raises `ModelUnknown`, `ModelRefused`, `ModelNotReady`."""
    card = models.takes_jobs(name)
    if not card.wakes_from_zero and not await jobs.replicas(card.name):
        raise ModelNotReady(f"No replica of {card.name} runs yet.")
