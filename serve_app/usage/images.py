"""The images of the images API in PostgreSQL: whose they are, and the job that looked at each. What it found is the
job's outcome, and is not stored twice."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, LiteralString

import psycopg

from serve_app.contracts import Json
from serve_app.errors import ImagesFull, ImagesUnavailable
from serve_app.settings import Settings
from serve_app.usage.database import Queries

WITHIN_S: Final = 3.0
"""Deadline of one statement, including the wait for its turn."""
_ADD: Final[LiteralString] = """
    INSERT INTO images (owner, image_id, job_id, model, media_type, bytes)
    SELECT %(owner)s::text, %(image_id)s::text, %(job_id)s::text, %(model)s::text, %(media_type)s::text,
        %(bytes)s::bigint
    WHERE (SELECT count(*) FROM images WHERE owner = %(owner)s) < %(most)s
    ON CONFLICT (owner, image_id) DO NOTHING
    RETURNING image_id, job_id, model, media_type, bytes, created_at, now() - submitted_at
"""
_FIND: Final[LiteralString] = """
    SELECT image_id, job_id, model, media_type, bytes, created_at, now() - submitted_at
    FROM images WHERE owner = %(owner)s AND image_id = %(image_id)s
"""
_REPLACE: Final[LiteralString] = """
    UPDATE images SET job_id = %(job_id)s, model = %(model)s, submitted_at = now()
    WHERE owner = %(owner)s AND image_id = %(image_id)s AND job_id = %(previous)s
    RETURNING image_id, job_id, model, media_type, bytes, created_at, now() - submitted_at
"""
_WITHDRAW: Final[LiteralString] = """
    DELETE FROM images WHERE owner = %(owner)s AND image_id = %(image_id)s AND job_id = %(job_id)s RETURNING job_id
"""
_DELETE: Final[LiteralString] = """
    WITH gone AS (
        DELETE FROM images WHERE owner = %(owner)s AND image_id = %(image_id)s AND job_id = %(job_id)s RETURNING job_id
    ), emptied AS (
        UPDATE job_outcomes AS outcome SET result = NULL, detail = NULL, removed_at = now() FROM gone
        WHERE outcome.job_id = gone.job_id AND outcome.owner = %(owner)s
    )
    SELECT job_id FROM gone
"""
_PAGE: Final[LiteralString] = """
    SELECT image_id, job_id, model, media_type, bytes, created_at, now() - submitted_at
    FROM images WHERE owner = %(owner)s AND (created_at, job_id) < (%(at)s, %(after)s)
    ORDER BY created_at DESC, job_id DESC LIMIT %(limit)s
"""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_LAST: Final = (10**16 - 1, "")
"""Later than every image: a page that begins here is the first."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NewImage:
    """An image that a user sends. Its id is the SHA-256 of its bytes."""

    owner: str
    id: str
    job_id: str
    model: str
    media_type: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Image:
    """An image of one user."""

    id: str
    job_id: str
    model: str
    media_type: str
    bytes: int
    created_at: int
    """In microseconds."""
    age_s: float
    """Seconds since its job was submitted, by PostgreSQL's clock."""


class Images:
    """The table of images, over one connection that is opened when needed.

    Every method raises `ImagesUnavailable` if PostgreSQL is down or too slow.
    """

    def __init__(self, settings: Settings) -> None:
        self._queries = Queries(settings.database_url.get_secret_value())
        self._most = settings.images_max_per_user

    async def add(self, new: NewImage) -> tuple[Image, bool]:
        """The user's image with this id, and whether it is new. Raises `ImagesFull`."""
        fields = {**_names(new), "media_type": new.media_type, "bytes": new.bytes, "most": self._most}
        if added := _images(await self._change(_ADD, fields)):
            return added[0], True
        if found := await self.find(new.owner, new.id):
            return found, False
        raise ImagesFull(f"You have {self._most} images, the most that fit. Delete some first.")

    async def find(self, owner: str, image_id: str) -> Image | None:
        """The user's image with this id."""
        found = _images(await self._read(_FIND, {"owner": owner, "image_id": image_id}))
        return found[0] if found else None

    async def replace(self, new: NewImage, previous: str) -> Image | None:
        """Give the image another job instead of the previous one; None if that is not its job any more."""
        changed = _images(await self._change(_REPLACE, {**_names(new), "previous": previous}))
        return changed[0] if changed else None

    async def withdraw(self, owner: str, image_id: str, job_id: str) -> None:
        """Remove the image if this is its job."""
        await self._change(_WITHDRAW, {"owner": owner, "image_id": image_id, "job_id": job_id})

    async def delete(self, owner: str, image_id: str, job_id: str) -> bool:
        """Remove the image and what its job found, in one step. False if this is not its job any more."""
        return bool(await self._change(_DELETE, {"owner": owner, "image_id": image_id, "job_id": job_id}))

    async def page(self, owner: str, *, limit: int, after: tuple[int, str] | None) -> list[Image]:
        """Up to `limit` of the user's images, newest first. `after`: time and job of the last one before them."""
        at, job_id = after or _LAST
        fields = {"owner": owner, "at": _EPOCH + at * _MICROSECOND, "after": job_id, "limit": limit}
        return _images(await self._read(_PAGE, fields))

    async def close(self) -> None:
        """Close the connection."""
        await self._queries.close()

    async def _read(self, statement: LiteralString, fields: Json) -> list[Any]:
        with _reached():
            return await self._queries.fetch(statement, fields, WITHIN_S)

    async def _change(self, statement: LiteralString, fields: Json) -> list[Any]:
        with _reached():
            return await self._queries.change(statement, fields, WITHIN_S)


@contextmanager
def _reached() -> Iterator[None]:
    try:
        yield
    except (psycopg.Error, TimeoutError, OSError) as error:
        _log.warning("the images cannot be reached: %s", type(error).__name__)
        raise ImagesUnavailable("Images cannot be stored or read now. Try again in a moment.") from error


def _images(rows: list[Any]) -> list[Image]:
    return [
        Image(image_id, job_id, model, media_type, size, (created - _EPOCH) // _MICROSECOND, age.total_seconds())
        for image_id, job_id, model, media_type, size, created, age in rows
    ]


def _names(new: NewImage) -> Json:
    return {"owner": new.owner, "image_id": new.id, "job_id": new.job_id, "model": new.model}
