"""Fetches the URLs of batches in the background and makes jobs of them. Whatever ends it, another goes on."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import Counter
from typing import Final

from serve_app.connections import end_tasks
from serve_app.contracts import Failure
from serve_app.errors import CapacityError, InternalError, RequestError, ServiceError
from serve_app.gateway.service import Service
from serve_app.gateway.submit import fetched
from serve_app.images.header import inspect
from serve_app.images.store import accepted_with, keep_input
from serve_app.jobs.batches import Fetch

AT_ONCE: Final = 16
"""Fetches of one gateway replica at the same time; submits with a URL have the rest of the places."""
AT_ONCE_PER_USER: Final = 4
"""So that a server that answers none of a user's URLs holds back that user alone."""
POLL_S: Final = 1.0
GIVE_BACK_S: Final = 1.0
"""Less than the replica's end has for all of its background tasks."""

_log = logging.getLogger(__name__)


class Fetcher:
    """One per gateway process. What it has taken and does not end it gives back; where it cannot, another takes it when
    its time is over."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._tasks: dict[asyncio.Task[None], str] = {}
        """With the owner of what each fetches."""

    async def run(self) -> None:
        """Fetch until cancelled, and take no more when the replica is told to go. No failure ends it."""
        departure = self._service.departure
        try:
            while not departure.is_told:
                if len(self._tasks) < AT_ONCE and (fetch := await self._next()):
                    task = asyncio.create_task(self._work(fetch))
                    self._tasks[task] = fetch.owner
                    task.add_done_callback(self._tasks.pop)
                elif self._tasks:  # one that ends may make room for what its owner has more of
                    await asyncio.wait(self._tasks, timeout=POLL_S, return_when=asyncio.FIRST_COMPLETED)
                else:
                    await asyncio.sleep(POLL_S)
            await asyncio.gather(*self._tasks, return_exceptions=True)
        finally:
            await end_tasks(self._tasks)

    async def _next(self) -> Fetch | None:
        busy = [owner for owner, count in Counter(self._tasks.values()).items() if count >= AT_ONCE_PER_USER]
        try:
            found = await self._service.batches.claim_fetches(1, without=busy)
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
                await self._service.batches.release_item(fetch)
            raise
        except CapacityError as error:
            _log.info("a URL of a batch is fetched again later: %s", error)
        except Exception:
            _log.exception("a URL of a batch is left to be taken again")

    async def _decide(self, fetch: Fetch) -> None:
        try:
            await self._admit(fetch)
        except RequestError as error:
            await self._service.batches.refuse_item(fetch, Failure(error.slug, error.detail))
        except ServiceError:
            raise
        except Exception:
            _log.exception("an item of a batch failed")
            await self._service.batches.count_fault(
                fetch, Failure(InternalError.slug, "The service failed on this image.")
            )

    async def _admit(self, fetch: Fetch) -> None:
        service = self._service
        await service.store.check_intake()
        with service.uploads.share(fetch.owner) as share:
            data = await fetched(service, share, fetch.owner, fetch.url)
            header, job_id = inspect(data, service.settings), str(uuid.uuid4())
            stored = await keep_input(service.store, job_id, data, header)
            await accepted_with(
                service.store, [stored], service.batches.accept_item(fetch, job_id, stored), has_them=bool
            )
