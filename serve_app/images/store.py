"""Images in the job Redis, beside the jobs that name them by reference, and the files that models return."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar, cast

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from serve_app.connections import code_of, redis_errors
from serve_app.contracts import JobInput, Output
from serve_app.errors import CapacityError, ServiceError, StoreFull, StoreUnavailable, TrackerUnavailable
from serve_app.images.header import ImageHeader
from serve_app.keyspace import BLOB, JOB, OUTPUTS
from serve_app.lua import read_script
from serve_app.settings import Settings

UNCLAIMED_S = 900
"""Life of an image that no job uses; submitting the job removes the limit."""
MEASURED_S = 1.0
"""How old the measured memory may be; bytes stored since by this process are added."""
INTAKE_SHARE = 0.8
"""Share of Redis' memory beyond which no job is accepted, so that accepted jobs can always end."""
RETRY_AFTER_S = 5
PIECE_BYTES = 128 * 1024
"""Part of a downloaded image that one reader holds in memory."""
OUTPUTS_MARGIN_S = 60
"""Outputs are written just before their job ends, and must outlive its record."""
FORBIDDEN = ("NOPERM", "ERR")
"""Error codes of servers where INFO is forbidden or missing: managed servers, or by an ACL."""

_log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StoredOutput:
    """An existing output: its bytes, or a URL to them."""

    media_type: str
    data: bytes | None = None
    url: str = ""


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An existing image: its bytes in pieces, or a URL to them."""

    pieces: AsyncIterator[bytes] | None = None
    url: str = ""


def store_unreachable() -> CapacityError:
    """The error of a bucket that does not answer."""
    return StoreUnavailable("The image store cannot be reached. Try again in a moment.", retry_after=RETRY_AFTER_S)


class ImageStore:
    """Images by reference, outputs by job and name. Their total is bounded, so that Redis has room for running jobs to
    end."""

    trouble = ""
    """Why images cannot be stored or read now, if the cause is not Redis."""
    unmeasured = ""
    """Why Redis' memory is not measured. Then neither share is checked, and only Redis' own limit refuses."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._put_outputs = redis.register_script(read_script(__package__, "put_outputs"))
        self._outputs_life_s = settings.job_ttl + OUTPUTS_MARGIN_S
        self._share = settings.image_store_share
        self._measuring = asyncio.Lock()
        self._measured_at = -MEASURED_S
        self._used = 0
        self._on_the_way = 0
        """Bytes being sent, which a measurement may not include yet."""
        self._maximum = 0
        """Bytes that Redis may hold; 0 without `maxmemory`."""

    async def check_intake(self) -> None:
        """Return if Redis has room for one more job, with or without an image in Redis. At most one round trip a
        second.

        Raises `StoreFull` beyond `INTAKE_SHARE` of Redis' memory, `TrackerUnavailable` if Redis is down. If INFO is not
        allowed the share is unknown and nothing is refused: see `unmeasured`.
        """
        await self._check(INTAKE_SHARE, 0, "Redis is nearly full; jobs that were accepted end first. Try again later.")

    async def put(self, job_id: str, data: bytes) -> str:
        """Store the bytes of a job not yet submitted and return their reference. One round trip, and a second one at
        most once a second.

        Raises `StoreFull` beyond `image_store_share` of Redis' memory, `TrackerUnavailable` if Redis is down.
        """
        reference = BLOB(id=job_id)
        await self._take_room(len(data))
        with self._sending(len(data)), redis_errors():
            await self._redis.set(reference, data, ex=UNCLAIMED_S)
        return reference

    async def get(self, reference: str) -> bytes | None:
        """The bytes, or None if they are gone. Raises `TrackerUnavailable`."""
        with redis_errors():
            return cast("bytes | None", await self._redis.get(reference))

    async def find(self, reference: str, file_name: str, media_type: str) -> StoredImage | None:
        """The image for its sender, under this name, or None if it is gone. Raises `TrackerUnavailable`.

        Its pieces end early if it is deleted meanwhile.
        """
        first = await self._piece(reference, 0)
        return StoredImage(pieces=self._pieces(reference, first)) if first else None

    async def delete(self, reference: str) -> None:
        """Remove the bytes if they exist. Raises `TrackerUnavailable`."""
        with redis_errors():
            await self._redis.unlink(reference)

    async def put_outputs(self, job_id: str, token: str, outputs: Mapping[str, Output]) -> bool:
        """Store a job's output files, replacing those of an earlier attempt. Raises as `put`.

        False, and nothing changes, if the lease with this token no longer holds the job.
        """
        size = sum(len(output.data) for output in outputs.values())
        await self._take_room(size)
        with self._sending(size):
            return await self._write_outputs(job_id, token, outputs, with_data=True)

    async def get_output(self, job_id: str, name: str) -> StoredOutput | None:
        """The output of this name, or None. Raises `TrackerUnavailable`."""
        with redis_errors():
            found = await self._redis.hmget(OUTPUTS(id=job_id), [f"type:{name}", f"data:{name}"])
        media_type, data = cast("tuple[bytes | None, bytes | None]", found)
        return None if media_type is None else StoredOutput(media_type.decode(), data)

    def close(self) -> None:
        """Release what the store holds besides the Redis client."""

    async def _pieces(self, reference: str, first: bytes) -> AsyncIterator[bytes]:
        piece, given = first, 0
        while piece:
            yield piece
            given += len(piece)
            piece = await self._piece(reference, given)

    async def _piece(self, reference: str, start: int) -> bytes:
        with redis_errors():
            return cast("bytes", await self._redis.getrange(reference, start, start + PIECE_BYTES - 1))

    async def _write_outputs(self, job_id: str, token: str, outputs: Mapping[str, Output], *, with_data: bool) -> bool:
        fields: list[str | bytes] = []
        for name, output in outputs.items():
            fields += [f"type:{name}", output.media_type]
            if with_data:
                fields += [f"data:{name}", output.data]
        keys, arguments = (JOB(id=job_id), OUTPUTS(id=job_id)), (token, self._outputs_life_s, *fields)
        with redis_errors():
            return bool(await self._put_outputs(keys=keys, args=arguments))

    async def _take_room(self, size: int) -> None:
        await self._check(self._share, size, "The image store is full. Try again in a moment.")

    async def _check(self, share: float, size: int, refusal: str) -> None:
        with redis_errors():
            await self._measure()
        if self._maximum and self._used + size > int(self._maximum * share):
            raise StoreFull(refusal, retry_after=RETRY_AFTER_S)

    @contextmanager
    def _sending(self, size: int) -> Iterator[None]:
        self._used += size
        self._on_the_way += size
        try:
            yield
        finally:
            self._on_the_way -= size

    async def _measure(self) -> None:
        async with self._measuring:
            if time.monotonic() - self._measured_at < MEASURED_S:
                return
            try:
                memory = await self._redis.info("memory")
            except ResponseError as error:
                if code_of(error) not in FORBIDDEN:
                    raise
                memory = {}
            self._used = int(memory.get("used_memory", 0)) + self._on_the_way
            self._maximum = int(memory.get("maxmemory", 0))
            self._measured_at = time.monotonic()
            self._note("" if "maxmemory" in memory else "Redis does not tell its memory (INFO)")

    def _note(self, why: str) -> None:
        if why and not self.unmeasured:
            _log.warning("%s: only QUEUE_MAX_BYTES and its own limit bound what is stored; no reserve is kept", why)
        self.unmeasured = why


async def keep_input(store: ImageStore, job_id: str, data: bytes, header: ImageHeader) -> JobInput:
    """Store an input; returns it as a job's record names it. Raises as the store."""
    return JobInput(await store.put(job_id, data), len(data), header.pixels, header.media_type)


async def drop_inputs(store: ImageStore, inputs: Iterable[JobInput]) -> None:
    """Remove stored inputs that no job uses."""
    for stored in inputs:
        await store.delete(stored.reference)


async def accepted_with(
    store: ImageStore, inputs: Iterable[JobInput], accepting: Awaitable[T], *, has_them: Callable[[T], bool]
) -> T:
    """The result of `accepting`; the inputs are dropped if it refuses, or if the accepted job has other inputs."""
    try:
        accepted = await accepting
    except TrackerUnavailable:
        # It may have been accepted before the answer was lost; if not, the inputs expire after 15 minutes.
        raise
    except ServiceError:
        await drop_inputs(store, inputs)
        raise
    if not has_them(accepted):
        await drop_inputs(store, inputs)
    return accepted
