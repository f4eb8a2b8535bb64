"""What a batch's body asks for: entries, each with all that is wrong with it kept to itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from starlette.datastructures import UploadFile

from serve_app.contracts import Failure, Json, ModelCard
from serve_app.errors import BodyInvalid, RequestError
from serve_app.gateway.body import parse_object
from serve_app.gateway.service import Service
from serve_app.gateway.submit import check_size, checked_params, wants_image

NAME_MAX: Final = 255
_FIELDS: Final = {"items", "model", "params"}
_ITEM_FIELDS: Final = {"image_url", "name", "params"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One item as it was asked for. With a `refusal` it is known already that it can be no job."""

    name: str
    params: Json
    file: UploadFile | None = None
    url: str = ""
    refusal: Failure | None = None


@dataclass(frozen=True, slots=True)
class BatchAsk:
    """A whole body: the model's card, and the entries in their order."""

    card: ModelCard
    entries: tuple[Entry, ...]


def ask_of_form(service: Service, files: list[UploadFile], texts: dict[str, str]) -> BatchAsk:
    """The batch of a form: one item for each file, parameters for all. Raises `BodyInvalid`, `ModelUnknown`."""
    if unknown := texts.keys() - {"model", "params"}:
        raise BodyInvalid(f"Unknown fields in the form, {len(unknown)}: it may hold image, model and params.")
    _check_number(len(files), service)
    card = service.card(texts.get("model"))
    params = parse_object(texts["params"].encode(), "The field params") if "params" in texts else {}
    checked = checked_params(service, card, params)
    wants_image(card, sources=1)
    return BatchAsk(card, tuple(Entry((file.filename or "")[:NAME_MAX], checked, file) for file in files))


def ask_of_json(service: Service, fields: Json) -> BatchAsk:
    """The batch of a JSON body: what is wrong with one item refuses that item.

    Raises `BodyInvalid`, `ModelUnknown`, and `ParamsInvalid` for shared parameters that are too large.
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
    _check_number(len(items), service)
    card = service.card(model)
    check_size(params)  # once: every item is to have them
    return BatchAsk(card, tuple(_entry(service, card, item, params) for item in items))


def _check_number(items: int, service: Service) -> None:
    most = service.settings.batch_max_items
    if not 1 <= items <= most:
        raise BodyInvalid(f"A batch has 1 to {most} items; this one has {items}.")


def _entry(service: Service, card: ModelCard, item: Any, params: Json) -> Entry:
    said = item.get("name") if isinstance(item, dict) else None
    name = said[:NAME_MAX] if isinstance(said, str) else ""
    try:
        url, own = _read_item(item)
        wants_image(card, sources=int(url is not None))
        return Entry(name, checked_params(service, card, params if own is None else own), url=url or "")
    except RequestError as error:
        return Entry(name, {}, refusal=Failure(error.slug, error.detail))


def _read_item(item: Any) -> tuple[str | None, Json | None]:
    if not isinstance(item, dict) or item.keys() - _ITEM_FIELDS:
        raise BodyInvalid("An item is an object that may hold image_url, name and params.")
    url, name, params = item.get("image_url"), item.get("name"), item.get("params")
    if not isinstance(url, str | None) or not isinstance(name, str | None) or not isinstance(params, dict | None):
        raise BodyInvalid("Of an item, image_url and name must be texts and params an object.")
    return url, params
