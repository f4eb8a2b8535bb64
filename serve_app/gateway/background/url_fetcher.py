"""Fetches the URLs of batches in the background and turns them into jobs. When this replica stops, another
continues."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import Counter
from typing import Final

from serve_app.connections import end_tasks
from serve_app.contracts import Failure
from serve_app.errors import CapacityError, InternalError, RequestError, ServiceError
from serve_app.gateway.context import Models
from serve_app.gateway.supervisor import ShutdownSignal
from serve_app.gateway.uploads import ImageFetcher, UploadBudget
from serve_app.images.header import inspect
from serve_app.images.store import ImageStore, accepted_with, keep_input
from serve_app.jobs.batches import BatchStore, Fetch
from serve_app.settings import Settings

AT_ONCE: Final = 16
"""Fetches of one gateway replica at the same time; submits with a URL have the rest of the turns."""
AT_ONCE_PER_USER: Final = 4
"""So that a server that does not answer delays only its own user."""
POLL_S: Final = 1.0
GIVE_BACK_S: Final = 1.0
"""Less than a stopping replica has for all of its background tasks."""

_log = logging.getLogger(__name__)


class UrlFetcher:
    """One per gateway process. It gives back a URL that it claimed and does not finish; if that fails, another replica
    claims the URL after the lease."""

    def __init__(
        self,
        batches: BatchStore,
        store: ImageStore,
        fetcher: ImageFetcher,
        budget: UploadBudget,
        models: Models,
        settings: Settings,
        shutdown: ShutdownSignal,
    ) -> None:
        self._batches, self._store, self._fetcher = batches, store, fetcher
        self._budget, self._models, self._settings, self._shutdown = budget, models, settings, shutdown
        self._tasks: dict[asyncio.Task[None], str] = {}
        """Each fetch with the owner of its item."""

    async def run(self) -> None:
        """Fetch until cancelled, and claim no more once the replica shuts down. No failure ends it."""
        try:
            while not self._shutdown.is_set:
                if len(self._tasks) < AT_ONCE and (fetch := await self._next()):
                    task = asyncio.create_task(self._work(fetch))
                    self._tasks[task] = fetch.owner
                    task.add_done_callback(self._tasks.pop)
                elif self._tasks:  # a fetch that ends may make room for another of its owner
                    await asyncio.wait(self._tasks, timeout=POLL_S, return_when=asyncio.FIRST_COMPLETED)
                else:
                    await asyncio.sleep(POLL_S)
            await asyncio.gather(*self._tasks, return_exceptions=True)
        finally:
            await end_tasks(self._tasks)

    async def _next(self) -> Fetch | None:
        busy = [owner for owner, count in Counter(self._tasks.values()).items() if count >= AT_ONCE_PER_USER]
        try:
            found = await self._batches.claim_fetches(1, without=busy)
        except ServiceError as error:
            _log.warning("no URL of a batch can be taken now: %s", error)
            return None
        except Exception:
            _log.exception("no URL of a batch can be taken now")
            return None
        return found[0] if found else None

    async def _work(self, fetch: Fetch) -> None:
        try:
            await self._decide(fetch)
        except asyncio.CancelledError:
            async with asyncio.timeout(GIVE_BACK_S):
                await self._batches.release_item(fetch)
            raise
        except CapacityError as error:
            _log.info("a URL of a batch is fetched again later: %s", error)
        except Exception:
            _log.exception("a URL of a batch is left to be taken again")

    async def _decide(self, fetch: Fetch) -> None:
        try:
            await self._admit(fetch)
        except RequestError as error:
            await self._batches.refuse_item(fetch, Failure(error.slug, error.detail))
        except ServiceError:
            raise
        except Exception:
            _log.exception("an item of a batch failed")
            await self._batches.count_fault(fetch, Failure(InternalError.slug, "The service failed on this image."))

    async def _admit(self, fetch: Fetch) -> None:
        await self._store.check_intake()
        with self._budget.share(fetch.owner) as share:
            data = await self._fetcher.fetch(fetch.url, fetch.owner, share)
            card = self._models.cards.get(fetch.model)
            in_steps = card is not None and card.reads_in_steps
            header, job_id = inspect(data, self._settings, in_steps=in_steps), str(uuid.uuid4())
            stored = await keep_input(self._store, job_id, data, header)
            await accepted_with(self._store, [stored], self._batches.accept_item(fetch, job_id, stored), has_them=bool)
