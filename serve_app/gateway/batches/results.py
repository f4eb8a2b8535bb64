"""GET /api/v1/batches/{batch_id}/results: every item with what came of it, as NDJSON or CSV, a piece at a time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from serve_app.contracts import Json
from serve_app.errors import DeadlineExceeded, QueryInvalid, StoreFull, UsageUnavailable
from serve_app.gateway.batches.views import item_object
from serve_app.gateway.pieces import Pieces
from serve_app.gateway.query import read_query
from serve_app.gateway.service import Call
from serve_app.jobs.batches import Batch, BatchView, Item, ItemStatus
from serve_app.texts import BOM, BOM_HELP, BOM_WITHOUT_CSV, csv_row

PIECE_ITEMS: Final = 20
"""Items in memory at once, beside the results that have expired; a result has at most 64 kB."""
WITHIN_S: Final = 120.0
"""Most time of a whole answer. The largest has 32 MB, which a line of 2 Mbit/s takes in it."""
_CELLS: Final = ("string", "number", "integer", "boolean")


class ResultsQuery(BaseModel):
    """The form of the results; without it the header Accept decides, and NDJSON is the default."""

    model_config = ConfigDict(frozen=True)

    format: Literal["ndjson", "csv"] | None = None
    bom: Annotated[bool, Field(description=BOM_HELP)] = False


async def read_results(call: Call) -> Response:
    """200 with one line for each item in its order, also for those that have not ended; their result is null."""
    asked = read_query(call, ResultsQuery)
    as_csv = asked.format == "csv" or (asked.format is None and "text/csv" in call.request.headers.get("accept", ""))
    if asked.bom and not as_csv:
        raise QueryInvalid(BOM_WITHOUT_CSV)
    batch_id = call.request.path_params["batch_id"]
    view = await call.service.batches.read(batch_id, call.caller.id, limit=PIECE_ITEMS, results=True)
    call.model = view.batch.model
    headers: dict[str, str] = {}
    if not as_csv:
        return Pieces(await _begun(_pieces(call, view, _line)), headers=headers, media_type="application/x-ndjson")
    card = call.service.cards.get(view.batch.model)
    table = Table(card.result_schema if card else {})
    headers["Content-Disposition"] = f'attachment; filename="batch-{batch_id}.csv"'
    pieces = _pieces(call, view, table.row, (BOM if asked.bom else "") + table.head())
    return Pieces(await _begun(pieces), headers=headers, media_type="text/csv")


class Table:
    """Results as rows: the single values that the model's schema names have columns of their own."""

    def __init__(self, result_schema: Json) -> None:
        properties: Json = result_schema.get("properties", {})
        self._columns = [name for name, kind in properties.items() if kind.get("type") in _CELLS]

    def head(self) -> str:
        """The first line."""
        return csv_row(
            ["index", "name", "job_id", "status", "problem", "detail", *self._columns, "result"], line_end="\r\n"
        )

    def row(self, item: Json) -> str:
        """One item."""
        problem, result = item["problem"] or {}, item["result"] or {}
        cells = [item["index"], item["name"], item["job_id"], item["status"]]
        cells += [problem.get("type", "").rpartition("/")[2], problem.get("detail", "")]
        cells += [result.get(name, "") for name in self._columns]
        return csv_row([*cells, result or ""], line_end="\r\n")


async def _begun(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same; the first is there before the answer begins, so that what fails at once is a problem."""
    first = await anext(pieces)

    async def all_pieces() -> AsyncIterator[bytes]:
        yield first
        async for piece in pieces:
            yield piece

    return all_pieces()


async def _pieces(call: Call, view: BatchView, write: Callable[[Json], str], head: str = "") -> AsyncIterator[bytes]:
    """Raises `DeadlineExceeded` when the whole takes longer than `WITHIN_S`, the caller's own slowness included."""
    batches, older, first = call.service.batches, _Older(call, view.batch), 0
    until = asyncio.get_running_loop().time() + WITHIN_S
    while view.items:
        results = await older.of(view.items)
        shown = ({**item_object(item), "result": results.get(item.job_id or "", item.result)} for item in view.items)
        yield (head + "".join(map(write, shown))).encode()
        head = ""
        first += len(view.items)
        if asyncio.get_running_loop().time() >= until:
            raise DeadlineExceeded(f"The results of a batch were not taken within {WITHIN_S:g} seconds.")
        view = await batches.read(view.batch.id, call.caller.id, first=first, limit=PIECE_ITEMS, results=True)


class _Older:
    """Results of one batch whose records have expired, from PostgreSQL: all of them by one query, at the first of them.

    They stay in memory until the answer has been sent, and count as what this user and all users may hold of that.
    """

    def __init__(self, call: Call, batch: Batch) -> None:
        self._call, self._batch = call, batch
        self._known: dict[str, str] = {}
        self._share = call.holds.enter_context(call.service.older_results.share(call.caller.id))

    async def of(self, items: Sequence[Item]) -> dict[str, Any]:
        """By job: null where its owner removed it, or it was pruned. Raises `UsageUnavailable`."""
        expired = _expired(items)
        if not self._known.keys() >= set(expired):  # again only where records expire while they are read
            await self._find()
        return {job_id: json.loads(self._known.get(job_id, "null")) for job_id in expired}

    async def _find(self) -> None:
        service, owner = self._call.service, self._call.caller.id
        view = await service.batches.read(self._batch.id, owner, limit=self._batch.size)
        new = [job_id for job_id in _expired(view.items) if job_id not in self._known]
        removed = await service.jobs.removed(new)
        found = await service.outcomes.results([job_id for job_id in new if job_id not in removed], owner)
        try:
            self._share.reach(self._share.held + sum(map(len, found.values())))
        except StoreFull as error:
            raise UsageUnavailable("Too many results of older jobs are being read. Try again in a moment.") from error
        self._known |= dict.fromkeys(new, "null") | found


def _expired(items: Sequence[Item]) -> list[str]:
    done = (item for item in items if item.status is ItemStatus.COMPLETED and not item.recorded)
    return [item.job_id for item in done if item.job_id is not None]


def _line(item: Json) -> str:
    return json.dumps(item, separators=(",", ":"), allow_nan=False) + "\n"
