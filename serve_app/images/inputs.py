"""Inputs of jobs: stored before a job is accepted, and gone again where none is made of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from serve_app.contracts import JobInput
from serve_app.errors import ServiceError, TrackerUnavailable
from serve_app.images.header import ImageHeader
from serve_app.images.store import ImageStore

T = TypeVar("T")


async def keep_input(store: ImageStore, job_id: str, data: bytes, header: ImageHeader) -> JobInput:
    """The input as a job's record names it, once it is stored. Raises as the store."""
    return JobInput(await store.put(job_id, data), len(data), header.pixels, header.media_type)


async def drop_inputs(store: ImageStore, inputs: Iterable[JobInput]) -> None:
    """Remove stored inputs that no job has."""
    for stored in inputs:
        await store.delete(stored.reference)


async def accepted_with(
    store: ImageStore, inputs: Iterable[JobInput], accepting: Awaitable[T], *, has_them: Callable[[T], bool]
) -> T:
    """What `accepting` gives; the inputs are dropped where it refuses, or where what it gives has others."""
    try:
        accepted = await accepting
    except TrackerUnavailable:
        # It may have been accepted before the answer was lost; if not, the inputs' own 15 minutes end them.
        raise
    except ServiceError:
        await drop_inputs(store, inputs)
        raise
    if not has_them(accepted):
        await drop_inputs(store, inputs)
    return accepted
