"""How jobs ended, read from PostgreSQL after their records have left Redis."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, LiteralString

import psycopg

from serve_app.contracts import JobStatus
from serve_app.errors import UsageUnavailable
from serve_app.settings import Settings
from serve_app.usage.database import Queries
from serve_app.usage.outbox import Outbox

WITHIN_S: Final = 3.0
"""Deadline of one look-up, including the wait for its turn."""
_FIND: Final[LiteralString] = """
    SELECT job_id, model, status, slug, detail, result::text, (extract(epoch FROM completed_at) * 1000)::bigint
    FROM job_outcomes AS outcome WHERE job_id = ANY(%s) AND owner = %s AND removed_at IS NULL
        AND NOT EXISTS (SELECT FROM job_outcomes WHERE job_id = outcome.job_id AND run > outcome.run)
"""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ended:
    """The last outcome of a job. `result` and `detail` are None if they were pruned."""

    model: str
    status: JobStatus
    slug: str | None
    detail: str | None
    result: Any
    completed_at: int


class Outcomes:
    """Looks up outcomes, one query at a time, over one connection that is opened when needed."""

    def __init__(self, settings: Settings) -> None:
        self._queries = Queries(settings.database_url.get_secret_value())

    async def find(self, job_id: str, owner: str) -> Ended | None:
        """How this job of this owner ended; None if it is unknown, removed or another owner's.

        Raises `UsageUnavailable` if PostgreSQL is down or too slow.
        """
        for _, model, status, slug, detail, result, completed_at in await self._look([job_id], owner):
            found = None if result is None else json.loads(result)
            return Ended(model, JobStatus(status), slug, detail, found, completed_at)
        return None

    async def results(self, job_ids: Sequence[str], owner: str) -> dict[str, str]:
        """The results of these jobs as JSON texts, in one query, without pruned ones. Otherwise as `find`.

        A result has up to 64 kB: the caller bounds how many it holds.
        """
        if not job_ids:
            return {}
        return {job_id: result for job_id, *_, result, _ in await self._look(job_ids, owner) if result is not None}

    async def close(self) -> None:
        """Close the connection."""
        await self._queries.close()

    async def _look(self, job_ids: Sequence[str], owner: str) -> list[Any]:
        try:
            return await self._queries.fetch(_FIND, [list(job_ids), owner], WITHIN_S)
        except (psycopg.Error, TimeoutError, OSError) as error:
            _log.warning("no outcome could be read: %s", type(error).__name__)
            raise UsageUnavailable("Results of older jobs cannot be read now. Try again in a moment.") from error


async def find_older(outbox: Outbox, outcomes: Outcomes, job_id: str, owner: str, job_ttl: int) -> Ended | None:
    """As `Outcomes.find`, for a job without a record. Raises `UsageUnavailable` also while its outcome may wait in the
    outbox."""
    waiting = await outbox.stats()  # read first: an entry that leaves the outbox afterwards is found in PostgreSQL
    outcome = await outcomes.find(job_id, owner)
    if outcome is None and waiting.lag_s >= job_ttl:
        raise UsageUnavailable("Results of older jobs are still being stored. Try again in a moment.")
    return outcome
