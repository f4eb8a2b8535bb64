"""The routes of batches: submit many images as one batch, list, read, cancel, remove, and read all results.

A batch is accepted whole or not at all. An item that cannot become a job is kept as refused, with its reason.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from starlette.datastructures import UploadFile
from starlette.responses import Response

from serve_app import errors
from serve_app.contracts import Failure, JobInput, Json, ModelCard
from serve_app.errors import (
    BatchUnknown,
    BodyInvalid,
    BodyTypeUnsupported,
    DeadlineExceeded,
    QueryInvalid,
    RequestError,
    StoreFull,
    UsageUnavailable,
)
from serve_app.gateway.bodies import close_files, media_type, parse_object, read_files, read_json
from serve_app.gateway.context import Call, Models
from serve_app.gateway.endpoint import RouteSpec, RouteTable
from serve_app.gateway.http import StreamingBody, json_response, read_query, tagged
from serve_app.gateway.idempotency import digest_of, identify, read_key
from serve_app.gateway.pagination import end_of, index_of, next_page
from serve_app.gateway.schemas import batches as schemas
from serve_app.gateway.schemas.batches import ITEMS_SHOWN
from serve_app.gateway.schemas.jobs import POLL_AFTER_S
from serve_app.gateway.submission import check_size, checked_params, wants_image, with_file_name
from serve_app.gateway.supervisor import RequestTasks
from serve_app.gateway.uploads import UploadBudget, UploadShare
from serve_app.images.header import ImageHeader, inspect
from serve_app.images.names import name_in_url
from serve_app.images.store import ImageStore, accepted_with, drop_inputs, keep_input
from serve_app.jobs.batches import Batch, BatchStore, BatchView, Item, ItemStatus, NewBatch, NewItem
from serve_app.jobs.store import JobStore
from serve_app.settings import MIB, Settings
from serve_app.texts import BOM, BOM_WITHOUT_CSV, csv_row
from serve_app.usage.outcomes import Outcomes

JSON_MAX_BYTES: Final = 1024 * 1024
"""Five hundred URLs of two thousand characters."""
STORED_AT_ONCE: Final = 8
"""Images of one batch stored at the same time: a bucket takes some 60 ms for each, and all images of the largest batch
have one deadline."""
NAME_MAX: Final = 255
PIECE_ITEMS: Final = 20
"""Items in memory at once, besides expired results from PostgreSQL; a result has at most 64 kB."""
WITHIN_S: Final = 120.0
"""Longest time of a whole answer. The largest has 32 MB, which takes as long over a line of 2 Mbit/s."""
OLDER_RESULTS_MAX_BYTES: Final = 128 * MIB
"""Results from PostgreSQL that the answers of one replica hold at once; those of the largest batch have 32 MB."""
_FIELDS: Final = {"items", "model", "params"}
_ITEM_FIELDS: Final = {"image_url", "name", "params"}
_CELLS: Final = ("string", "number", "integer", "boolean")
_OPEN: Final = (ItemStatus.FETCHING, ItemStatus.PENDING)
_BY_URL: Final = {
    "items": [
        {"image_url": "https://images.example.org/nanowires.tif", "name": "nanowires"},
        {"image_url": "https://images.example.org/powder.tif", "name": "powder"},
    ]
}

ROUTES: Final = RouteTable()


@dataclass(frozen=True)
class BatchIntake:
    """The services that a batch needs on its way into Redis."""

    batches: BatchStore
    store: ImageStore
    models: Models
    budget: UploadBudget
    tasks: RequestTasks
    settings: Settings


@dataclass(frozen=True)
class StoredResults:
    """The sources of results: the jobs' records, and PostgreSQL when those have expired."""

    batches: BatchStore
    jobs: JobStore
    outcomes: Outcomes
    budget: UploadBudget = field(
        default_factory=lambda: UploadBudget(OLDER_RESULTS_MAX_BYTES, OLDER_RESULTS_MAX_BYTES // 2)
    )
    """For results between PostgreSQL and the client."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One item of a body. With a `refusal` it cannot become a job."""

    name: str
    params: Json
    file: UploadFile | None = None
    url: str = ""
    refusal: Failure | None = None


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """A whole body: the model's card, and the entries in order."""

    card: ModelCard
    entries: tuple[Entry, ...]


@ROUTES.add(
    RouteSpec(
        "POST",
        "/api/v1/batches",
        "Submit many images as one batch",
        "Batches",
        {202: (schemas.Batch,)},
        (
            errors.BodyInvalid,
            errors.BodyTooLarge,
            errors.BodyTypeUnsupported,
            errors.IdempotencyKeyInvalid,
            errors.IdempotencyKeyReused,
            errors.ParamsInvalid,
            errors.ModelUnknown,
            errors.ModelRefused,
            errors.BatchUnknown,
            errors.IntakeStopped,
            errors.QueueFull,
            errors.StoreFull,
            errors.StoreUnavailable,
        ),
        tracked="batch",
        deadline="submit",
        bodies={"multipart/form-data": schemas.BatchForm, "application/json": schemas.BatchBody},
        example=_BY_URL,
        headers=("Idempotency-Key", "traceparent"),
        answer_headers=("Idempotent-Replayed",),
    )
)
async def submit_batch(call: Call, intake: BatchIntake) -> Response:
    """202 with the batch, once Redis has it with every item: jobs, URLs to be fetched, and refused items."""
    key = read_key(call.request)
    with intake.budget.share(call.caller.id) as share:
        kind = media_type(call)
        if kind == "multipart/form-data":
            files, texts = await read_files(call, share, intake.settings, "image")
            try:
                return await _accept(call, intake, _request_of_form(intake, files, texts), key)
            finally:
                close_files(files)
        if kind == "application/json":
            request = _request_of_json(intake, await read_json(call, JSON_MAX_BYTES))
            return await _accept(call, intake, request, key)
        raise BodyTypeUnsupported("Send multipart/form-data with many files in the field image, or application/json.")


@ROUTES.add(
    RouteSpec(
        "GET",
        "/api/v1/batches",
        "Your batches, newest first",
        "Batches",
        {200: (schemas.BatchPage,), 304: ()},
        (errors.QueryInvalid,),
        tracked="batch_list",
        query=schemas.BatchesQuery,
        headers=("If-None-Match",),
        answer_headers=("ETag", "Link"),
    )
)
async def list_batches(call: Call, batches: BatchStore, settings: Settings) -> Response:
    """200 with a page of the caller's batches, newest first, and the cursor of the next page."""
    query = read_query(call.request, schemas.BatchesQuery)
    page = await batches.page(call.caller.id, limit=query.limit, after=end_of(query.cursor))
    cursor, headers = next_page(call.request, page.end)
    answer: schemas.BatchPage = {
        "data": [schemas.batch_row(batch, settings.job_ttl) for batch in page.batches],
        "next_cursor": cursor,
    }
    return tagged(call.request, json_response(answer, headers=headers))


@ROUTES.add(
    RouteSpec(
        "GET",
        "/api/v1/batches/{batch_id}",
        "A batch with its counts and items",
        "Batches",
        {200: (schemas.Batch,), 304: ()},
        (errors.QueryInvalid, errors.BatchUnknown),
        tracked="batch_status",
        query=schemas.ItemsQuery,
        headers=("If-None-Match",),
        answer_headers=("ETag", "Link", "Retry-After"),
    )
)
async def read_batch(call: Call, batches: BatchStore, settings: Settings) -> Response:
    """200 with the batch, its counts and a page of its items; unknown, foreign and malformed ids get the same 404."""
    query = read_query(call.request, schemas.ItemsQuery)
    first = index_of(query.cursor) or 0
    view = await batches.read(call.request.path_params["batch_id"], call.caller.id, first=first, limit=query.limit)
    call.model = view.batch.model
    cursor, headers = next_page(call.request, _after(view, first))
    if view.batch.open:
        headers["Retry-After"] = str(POLL_AFTER_S)
    answer = schemas.batch_object(view, settings.job_ttl, cursor)
    return tagged(call.request, json_response(answer, headers=headers))


@ROUTES.add(
    RouteSpec(
        "DELETE",
        "/api/v1/batches/{batch_id}",
        "Forget an ended batch with its jobs",
        "Batches",
        {204: ()},
        (errors.BatchUnknown, errors.BatchNotEnded),
        tracked="batch_delete",
    )
)
async def remove_batch(call: Call, batches: BatchStore) -> Response:
    """204 once the batch is removed, with its jobs."""
    await batches.remove(call.request.path_params["batch_id"], call.caller.id)
    return Response(status_code=204)


@ROUTES.add(
    RouteSpec(
        "GET",
        "/api/v1/batches/{batch_id}/results",
        "Results of a batch, as NDJSON or CSV",
        "Batches",
        {200: ("application/x-ndjson", "text/csv")},
        (errors.QueryInvalid, errors.BatchUnknown, errors.UsageUnavailable),
        tracked="batch_results",
        query=schemas.ResultsQuery,
    )
)
async def read_results(call: Call, stored: StoredResults, models: Models) -> Response:
    """200 with one line for each item in order, also for items that have not ended; their result is null."""
    query = read_query(call.request, schemas.ResultsQuery)
    as_csv = query.format == "csv" or (query.format is None and "text/csv" in call.request.headers.get("accept", ""))
    if query.bom and not as_csv:
        raise QueryInvalid(BOM_WITHOUT_CSV)
    batch_id = call.request.path_params["batch_id"]
    view = await stored.batches.read(batch_id, call.caller.id, limit=PIECE_ITEMS, results=True)
    call.model = view.batch.model
    headers: dict[str, str] = {}
    if not as_csv:
        lines = await _started(_pieces(call, stored, view, _line))
        return StreamingBody(lines, headers=headers, media_type="application/x-ndjson")
    card = models.cards.get(view.batch.model)
    table = ResultTable(card.result_schema if card else {})
    headers["Content-Disposition"] = f'attachment; filename="batch-{batch_id}.csv"'
    rows = await _started(_pieces(call, stored, view, table.row, (BOM if query.bom else "") + table.head()))
    return StreamingBody(rows, headers=headers, media_type="text/csv")


@ROUTES.add(
    RouteSpec(
        "POST",
        "/api/v1/batches/{batch_id}/cancel",
        "Cancel all of a batch that has not ended",
        "Batches",
        {200: (schemas.Batch,)},
        (errors.BatchUnknown,),
        tracked="batch_cancel",
    )
)
async def cancel_batch(call: Call, batches: BatchStore, settings: Settings) -> Response:
    """200 with the batch: items that had not ended are CANCELLED. A second call changes nothing."""
    batch_id = call.request.path_params["batch_id"]
    await batches.cancel(batch_id, call.caller.id)
    view = await batches.read(batch_id, call.caller.id, limit=ITEMS_SHOWN)
    call.model = view.batch.model
    cursor, _ = next_page(call.request, _after(view, 0))
    return json_response(schemas.batch_object(view, settings.job_ttl, cursor))


def _after(view: BatchView, first: int) -> int | None:
    """The index of the item after those of a view; None at the end."""
    index = first + len(view.items)
    return index if index < view.batch.size else None


def _request_of_form(intake: BatchIntake, files: list[UploadFile], texts: dict[str, str]) -> BatchRequest:
    """The batch in a form: one item for each file, parameters for all. Raises `BodyInvalid`, `ModelUnknown`,
    `ModelRefused`."""
    if unknown := texts.keys() - {"model", "params"}:
        raise BodyInvalid(f"Unknown fields in the form, {len(unknown)}: it may hold image, model and params.")
    _check_number(len(files), intake.settings)
    card = intake.models.takes_jobs(texts.get("model"))
    params = parse_object(texts["params"].encode(), "The field params") if "params" in texts else {}
    checked = checked_params(intake.models, card, params)
    wants_image(card, sources=1)
    return BatchRequest(card, tuple(_entry_of_file(intake.models, card, checked, file) for file in files))


def _entry_of_file(models: Models, card: ModelCard, params: Json, file: UploadFile) -> Entry:
    name = file.filename or ""
    return Entry(name[:NAME_MAX], with_file_name(models, card, params, name), file)


def _request_of_json(intake: BatchIntake, fields: Json) -> BatchRequest:
    """The batch in a JSON body: an invalid item is refused alone.

    Raises `BodyInvalid`, `ModelUnknown`, `ModelRefused`, and `ParamsInvalid` for shared parameters that are too large.
    """
    if fields.keys() - _FIELDS:
        raise BodyInvalid("Unknown fields in the body: it may hold items, model and params.")
    items, model, params = fields.get("items"), fields.get("model"), fields.get("params") or {}
    if not isinstance(items, list):
        raise BodyInvalid("The field items must be a list.", pointers={"/items": "must be a list"})
    if not isinstance(model, str | None):
        raise BodyInvalid("The field model must be a text.", pointers={"/model": "must be a text"})
    if not isinstance(params, dict):
        raise BodyInvalid("The field params must be an object.", pointers={"/params": "must be an object"})
    _check_number(len(items), intake.settings)
    card = intake.models.takes_jobs(model)
    check_size(params)  # once, because every item gets them
    return BatchRequest(card, tuple(_entry(intake.models, card, item, params) for item in items))


def _check_number(items: int, settings: Settings) -> None:
    most = settings.batch_max_items
    if not 1 <= items <= most:
        raise BodyInvalid(f"A batch has 1 to {most} items; this one has {items}.")


def _entry(models: Models, card: ModelCard, item: Any, params: Json) -> Entry:
    given = item.get("name") if isinstance(item, dict) else None
    name = given[:NAME_MAX] if isinstance(given, str) else ""
    try:
        url, own = _read_item(item)
        wants_image(card, sources=int(url is not None))
        checked = checked_params(models, card, params if own is None else own)
        return Entry(name, with_file_name(models, card, checked, name or name_in_url(url or "")), url=url or "")
    except RequestError as error:
        return Entry(name, {}, refusal=Failure(error.slug, error.detail))


def _read_item(item: Any) -> tuple[str | None, Json | None]:
    if not isinstance(item, dict) or item.keys() - _ITEM_FIELDS:
        raise BodyInvalid("An item is an object that may hold image_url, name and params.")
    url, name, params = item.get("image_url"), item.get("name"), item.get("params")
    if not isinstance(url, str | None) or not isinstance(name, str | None) or not isinstance(params, dict | None):
        raise BodyInvalid("Of an item, image_url and name must be texts and params an object.")
    return url, params


async def _accept(call: Call, intake: BatchIntake, request: BatchRequest, key: str | None) -> Response:
    call.model = request.card.name
    batch = NewBatch(str(uuid.uuid4()), call.caller.id, request.card.name, traceparent=call.traceparent)
    if key is not None:
        fingerprint = {"model": request.card.name, "items": [await _fingerprint(entry) for entry in request.entries]}
        batch = replace(batch, idempotency=await identify(call, key, fingerprint, None))
    batch_id = await intake.batches.find_earlier(batch)
    if batch_id is None:
        await intake.store.check_intake()
        await call.charge(len(request.entries) - 1)
        items = await _stored(intake, request.card, request.entries)
        # From here accepting runs to its end: after a disconnect there is a whole batch or none.
        call.accepting = True
        batch_id = await asyncio.shield(intake.tasks.spawn(_commit(intake, replace(batch, items=items))))
        call.accepted = batch_id == batch.id
    try:
        view = await intake.batches.read(batch_id, batch.owner, limit=ITEMS_SHOWN)
    except BatchUnknown:
        view = await _replayed_view(intake, batch, batch_id, request)
    headers = {"Location": schemas.batch_path(batch_id), "Retry-After": str(POLL_AFTER_S)}
    if batch_id != batch.id:
        headers["Idempotent-Replayed"] = "true"
    cursor, _ = next_page(call.request, _after(view, 0))
    return json_response(schemas.batch_object(view, intake.settings.job_ttl, cursor), 202, headers)


async def _replayed_view(intake: BatchIntake, batch: NewBatch, batch_id: str, request: BatchRequest) -> BatchView:
    """The first answer to a repeated batch, when its record has expired. Raises `BatchUnknown` without a key."""
    accepted_at = await intake.batches.accepted_at(batch)
    items = [(await _inspected(intake, request.card, entry))[0] for entry in request.entries]
    return _as_accepted(batch_id, batch.model, items, accepted_at)


async def _fingerprint(entry: Entry) -> Json:
    image = await digest_of(await _bytes_of(entry)) if entry.file else ""
    refusal = entry.refusal.detail if entry.refusal else ""
    return {"name": entry.name, "params": entry.params, "url": entry.url, "image": image, "refusal": refusal}


async def _bytes_of(entry: Entry) -> bytes:
    if entry.file is None:
        return b""
    await entry.file.seek(0)
    return await entry.file.read()


async def _stored(intake: BatchIntake, card: ModelCard, entries: Sequence[Entry]) -> tuple[NewItem, ...]:
    """The items, after their images were stored, some at a time. If one does not fit, none stays stored."""
    items: dict[int, NewItem] = {}

    async def store(place: int) -> None:
        items[place] = await _item(intake, card, entries[place])

    try:
        for first in range(0, len(entries), STORED_AT_ONCE):
            group = range(first, min(first + STORED_AT_ONCE, len(entries)))
            faults = await asyncio.gather(*map(store, group), return_exceptions=True)
            for fault in filter(None, faults):
                raise fault
    except BaseException:
        intake.tasks.spawn(drop_inputs(intake.store, _inputs(items.values())))
        raise
    return tuple(items[place] for place in range(len(entries)))


async def _item(intake: BatchIntake, card: ModelCard, entry: Entry) -> NewItem:
    item, image = await _inspected(intake, card, entry)
    return replace(item, input=await keep_input(intake.store, item.job_id, *image)) if image else item


async def _inspected(
    intake: BatchIntake, card: ModelCard, entry: Entry
) -> tuple[NewItem, tuple[bytes, ImageHeader] | None]:
    """The item that an entry becomes, and the image to store for it."""
    if entry.refusal or entry.url:
        return NewItem(entry.name, entry.params, url=entry.url, refusal=entry.refusal), None
    item = NewItem(entry.name, entry.params, job_id=str(uuid.uuid4()))
    if entry.file is None:
        return item, None
    data = await _bytes_of(entry)
    try:
        return item, (data, inspect(data, intake.settings, in_steps=card.reads_in_steps))
    except RequestError as error:
        return NewItem(entry.name, {}, refusal=Failure(error.slug, error.detail)), None


async def _commit(intake: BatchIntake, batch: NewBatch) -> str:
    accepting = intake.batches.accept(batch)
    # Another id: the same batch was accepted meanwhile, with its own inputs.
    return await accepted_with(
        intake.store, _inputs(batch.items), accepting, has_them=lambda batch_id: batch_id == batch.id
    )


def _inputs(items: Iterable[NewItem]) -> list[JobInput]:
    return [item.input for item in items if item.input]


def _as_accepted(batch_id: str, model: str, asked: Sequence[NewItem], accepted_at: int) -> BatchView:
    """The batch as it was when accepted, with its first items; the ids of its jobs are no longer known."""
    items = tuple(_item_as_accepted(index, item) for index, item in enumerate(asked))
    counts = Counter(item.status for item in items)
    left = sum(counts[status] for status in _OPEN)
    return BatchView(
        batch=Batch(batch_id, model, accepted_at, None if left else accepted_at, size=len(items), open=left),
        counts={status: counts[status] for status in ItemStatus},
        items=items[:ITEMS_SHOWN],
    )


def _item_as_accepted(index: int, asked: NewItem) -> Item:
    status = ItemStatus.FETCHING if asked.url else ItemStatus.PENDING
    if asked.refusal:
        status = ItemStatus.REFUSED
    return Item(index, asked.name, status, None, None, failure=asked.refusal, recorded=False)


class ResultTable:
    """Results as rows: single values that the model's schema names have their own columns."""

    def __init__(self, result_schema: Json) -> None:
        properties: Json = result_schema.get("properties", {})
        self._columns = [name for name, kind in properties.items() if kind.get("type") in _CELLS]

    def head(self) -> str:
        """The first line."""
        return csv_row(
            ["index", "name", "job_id", "status", "problem", "detail", *self._columns, "result"], line_end="\r\n"
        )

    def row(self, item: schemas.ItemResult) -> str:
        """One item."""
        problem: Json = dict(item["problem"] or {})
        result = item["result"] or {}
        cells: list[Any] = [item["index"], item["name"], item["job_id"], item["status"]]
        cells += [problem.get("type", "").rpartition("/")[2], problem.get("detail", "")]
        cells += [result.get(name, "") for name in self._columns]
        return csv_row([*cells, result or ""], line_end="\r\n")


async def _started(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same pieces, after the first has been made, so that an immediate failure can still become a problem."""
    first = await anext(pieces)

    async def all_pieces() -> AsyncIterator[bytes]:
        yield first
        async for piece in pieces:
            yield piece

    return all_pieces()


async def _pieces(
    call: Call,
    stored: StoredResults,
    view: BatchView,
    write: Callable[[schemas.ItemResult], str],
    head: str = "",
) -> AsyncIterator[bytes]:
    """Raises `DeadlineExceeded` when the whole answer takes longer than `WITHIN_S`, including the client's slowness."""
    older, first = _Older(call, stored, view.batch), 0
    until = asyncio.get_running_loop().time() + WITHIN_S
    while view.items:
        results = await older.of(view.items)
        shown = (schemas.item_result(item, results.get(item.job_id or "", item.result)) for item in view.items)
        yield (head + "".join(map(write, shown))).encode()
        head = ""
        first += len(view.items)
        if asyncio.get_running_loop().time() >= until:
            raise DeadlineExceeded(f"The results of a batch were not taken within {WITHIN_S:g} seconds.")
        view = await stored.batches.read(view.batch.id, call.caller.id, first=first, limit=PIECE_ITEMS, results=True)


class _Older:
    """Results of one batch whose records have expired, from PostgreSQL, read by one query when the first is needed.

    They stay in memory until the answer has been sent, and count against the budgets of this user and of all users.
    """

    def __init__(self, call: Call, stored: StoredResults, batch: Batch) -> None:
        self._stored, self._batch, self._owner = stored, batch, call.caller.id
        self._known: dict[str, str] = {}
        self._share: UploadShare = call.holds.enter_context(stored.budget.share(self._owner))

    async def of(self, items: Sequence[Item]) -> dict[str, Any]:
        """By job: null if its owner removed it, or it was pruned. Raises `UsageUnavailable`."""
        expired = _expired(items)
        if not self._known.keys() >= set(expired):  # query again only if more records have expired since
            await self._find()
        return {job_id: json.loads(self._known.get(job_id, "null")) for job_id in expired}

    async def _find(self) -> None:
        stored = self._stored
        view = await stored.batches.read(self._batch.id, self._owner, limit=self._batch.size)
        new = [job_id for job_id in _expired(view.items) if job_id not in self._known]
        removed = await stored.jobs.removed(new)
        found = await stored.outcomes.results([job_id for job_id in new if job_id not in removed], self._owner)
        try:
            self._share.reach(self._share.held + sum(map(len, found.values())))
        except StoreFull as error:
            raise UsageUnavailable("Too many results of older jobs are being read. Try again in a moment.") from error
        self._known |= dict.fromkeys(new, "null") | found


def _expired(items: Sequence[Item]) -> list[str]:
    done = (item for item in items if item.status is ItemStatus.COMPLETED and not item.recorded)
    return [item.job_id for item in done if item.job_id is not None]


def _line(item: schemas.ItemResult) -> str:
    return json.dumps(item, separators=(",", ":"), allow_nan=False) + "\n"
