"""What an owner changes of a batch after the submit."""

from __future__ import annotations

from starlette.responses import Response

from serve_app.gateway.batches.views import ITEMS_SHOWN, batch_object
from serve_app.gateway.problems import json_response
from serve_app.gateway.service import Call


async def cancel_batch(call: Call) -> Response:
    """200 with the batch, whose items have all ended now: those that had not are CANCELLED. The same a second time."""
    batch_id = call.request.path_params["batch_id"]
    await call.service.batches.cancel(batch_id, call.caller.id)
    view = await call.service.batches.read(batch_id, call.caller.id, limit=ITEMS_SHOWN)
    call.model = view.batch.model
    return json_response(batch_object(view, call, first=0))


async def remove_batch(call: Call) -> Response:
    """204 once the batch is forgotten, with its jobs."""
    await call.service.batches.remove(call.request.path_params["batch_id"], call.caller.id)
    return Response(status_code=204)
