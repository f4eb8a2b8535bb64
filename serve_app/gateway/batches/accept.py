"""POST /api/v1/batches: many images become one batch, whole or not at all; a bad one is an item that was refused."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from starlette.responses import Response

from serve_app.contracts import Failure, JobInput, Json
from serve_app.errors import BatchUnknown, BodyTypeUnsupported, RequestError
from serve_app.gateway import views
from serve_app.gateway.batches.ask import BatchAsk, Entry, ask_of_form, ask_of_json
from serve_app.gateway.batches.first import first_view
from serve_app.gateway.batches.views import ITEMS_SHOWN, batch_object, batch_path
from serve_app.gateway.body import media_type, read_files, read_json
from serve_app.gateway.forms import close_files
from serve_app.gateway.operations.idempotency import digest_of, identify, read_key
from serve_app.gateway.problems import json_response
from serve_app.gateway.service import Call, Service
from serve_app.images.header import ImageHeader, inspect
from serve_app.images.store import accepted_with, drop_inputs, keep_input
from serve_app.jobs.batches import BatchView, NewBatch, NewItem

JSON_MAX_BYTES: Final = 1024 * 1024
"""Five hundred URLs of two thousand characters."""
STORED_AT_ONCE: Final = 8
"""Images of one batch: a bucket takes some 60 ms for each, and all of the largest batch have one deadline."""


async def submit_batch(call: Call) -> Response:
    """202 with the batch, once it is in Redis with every item: jobs, URLs that wait to be fetched, and refused ones."""
    key = read_key(call)
    with call.service.uploads.share(call.caller.id) as share:
        kind = media_type(call)
        if kind == "multipart/form-data":
            files, texts = await read_files(call, share, "image")
            try:
                return await _accept(call, ask_of_form(call.service, files, texts), key)
            finally:
                close_files(files)
        if kind == "application/json":
            return await _accept(call, ask_of_json(call.service, await read_json(call, JSON_MAX_BYTES)), key)
        raise BodyTypeUnsupported("Send multipart/form-data with many files in the field image, or application/json.")


async def _accept(call: Call, ask: BatchAsk, key: str | None) -> Response:
    service = call.service
    call.model = ask.card.name
    batch = NewBatch(str(uuid.uuid4()), call.caller.id, ask.card.name, traceparent=call.traceparent)
    if key is not None:
        asked = {"model": ask.card.name, "items": [await _fingerprint(entry) for entry in ask.entries]}
        batch = replace(batch, idempotency=await identify(call, key, asked, None))
    batch_id = await service.batches.find_earlier(batch)
    if batch_id is None:
        await service.store.check_intake()
        await call.charged(len(ask.entries) - 1)
        items = await _stored(service, ask.entries)
        # From here accepting runs to its end: a client that goes away leaves a whole batch or none.
        call.accepting = True
        batch_id = await asyncio.shield(service.spawn(_commit(service, replace(batch, items=items))))
        call.accepted = batch_id == batch.id
    try:
        view = await service.batches.read(batch_id, batch.owner, limit=ITEMS_SHOWN)
    except BatchUnknown:
        view = await _first_view(service, batch, batch_id, ask)
    headers = {"Location": batch_path(batch_id), "Retry-After": str(views.POLL_AFTER_S)}
    if batch_id != batch.id:
        headers["Idempotent-Replayed"] = "true"
    return json_response(batch_object(view, call, first=0), 202, headers)


async def _first_view(service: Service, batch: NewBatch, batch_id: str, ask: BatchAsk) -> BatchView:
    """The first answer to a batch that is sent again, when its record is gone. Raises BatchUnknown without a key."""
    accepted_at = await service.batches.accepted_at(batch)
    items = [(await _looked_at(service, entry))[0] for entry in ask.entries]
    return first_view(batch_id, batch.model, items, accepted_at)


async def _fingerprint(entry: Entry) -> Json:
    image = await digest_of(await _bytes_of(entry)) if entry.file else ""
    refusal = entry.refusal.detail if entry.refusal else ""
    return {"name": entry.name, "params": entry.params, "url": entry.url, "image": image, "refusal": refusal}


async def _bytes_of(entry: Entry) -> bytes:
    if entry.file is None:
        return b""
    await entry.file.seek(0)
    return await entry.file.read()


async def _stored(service: Service, entries: Sequence[Entry]) -> tuple[NewItem, ...]:
    """The items, their images stored some at a time. Without room for all of them, none stays."""
    items: dict[int, NewItem] = {}

    async def store(place: int) -> None:
        items[place] = await _item(service, entries[place])

    try:
        for first in range(0, len(entries), STORED_AT_ONCE):
            group = range(first, min(first + STORED_AT_ONCE, len(entries)))
            faults = await asyncio.gather(*map(store, group), return_exceptions=True)
            for fault in filter(None, faults):
                raise fault
    except BaseException:
        service.spawn(drop_inputs(service.store, _inputs(items.values())))
        raise
    return tuple(items[place] for place in range(len(entries)))


async def _item(service: Service, entry: Entry) -> NewItem:
    item, image = await _looked_at(service, entry)
    return replace(item, input=await keep_input(service.store, item.job_id, *image)) if image else item


async def _looked_at(service: Service, entry: Entry) -> tuple[NewItem, tuple[bytes, ImageHeader] | None]:
    """What becomes of an entry, and the image that is to be stored for it."""
    if entry.refusal or entry.url:
        return NewItem(entry.name, entry.params, url=entry.url, refusal=entry.refusal), None
    item = NewItem(entry.name, entry.params, job_id=str(uuid.uuid4()))
    if entry.file is None:
        return item, None
    data = await _bytes_of(entry)
    try:
        return item, (data, inspect(data, service.settings))
    except RequestError as error:
        return NewItem(entry.name, {}, refusal=Failure(error.slug, error.detail)), None


async def _commit(service: Service, batch: NewBatch) -> str:
    accepting = service.batches.accept(batch)
    # Another id: the same batch was accepted meanwhile, with inputs of its own.
    return await accepted_with(
        service.store, _inputs(batch.items), accepting, has_them=lambda batch_id: batch_id == batch.id
    )


def _inputs(items: Iterable[NewItem]) -> list[JobInput]:
    return [item.input for item in items if item.input]
