"""What a batch was when it was accepted: the answer to one that is sent again when its record is gone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from serve_app.gateway.batches.views import ITEMS_SHOWN
from serve_app.jobs.batches import Batch, BatchView, Item, ItemStatus, NewItem

_OPEN = (ItemStatus.FETCHING, ItemStatus.PENDING)


def first_view(batch_id: str, model: str, asked: Sequence[NewItem], accepted_at: int) -> BatchView:
    """The batch at that time, with the first of its items; the ids of its jobs are forgotten with it."""
    items = tuple(_first_item(index, item) for index, item in enumerate(asked))
    counts = Counter(item.status for item in items)
    left = sum(counts[status] for status in _OPEN)
    return BatchView(
        batch=Batch(batch_id, model, accepted_at, None if left else accepted_at, size=len(items), open=left),
        counts={status: counts[status] for status in ItemStatus},
        items=items[:ITEMS_SHOWN],
    )


def _first_item(index: int, asked: NewItem) -> Item:
    status = ItemStatus.FETCHING if asked.url else ItemStatus.PENDING
    if asked.refusal:
        status = ItemStatus.REFUSED
    return Item(index, asked.name, status, None, None, failure=asked.refusal, recorded=False)
