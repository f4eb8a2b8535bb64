"""Limits of uploads: the bytes of images that one gateway replica holds at once, in total and per user, and the pace at
which they must arrive."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Final

from serve_app.errors import DeadlineExceeded, ServiceError, StoreFull
from serve_app.gateway.ratelimit import ConcurrencyLimit
from serve_app.images.fetch import fetch
from serve_app.settings import Settings

RETRY_AFTER_S: Final = 2
GRACE_S: Final = 10.0
"""A body's rate is checked only after this time, because connections start slowly and links stall."""
SILENCE_S: Final = 60.0
"""Longest pause within a body, however fast the rest came."""
SLOW_AFTER_S: Final = 2.0
"""A body that takes longer counts as slow; the number of open slow ones is limited."""
SLOW_MAX: Final = 48
"""Slow bodies of one replica, which takes 256 requests: with waits and streams (`live.py`) a fifth is left for other
requests."""
SLOW_MAX_PER_USER: Final = 16
SLOW_RETRY_AFTER_S: Final = 10
FETCHES_MAX: Final = 64
"""Concurrent fetches of one replica. Their bytes count with the uploads."""
FETCHES_MAX_PER_USER: Final = 8


class UploadBudget:
    """Limits the bytes of all requests in flight, so that many large uploads cannot take the replica's memory.

    Bytes count as they arrive, never as they are declared: a client that declares much and sends little holds little.
    One user may hold up to `per_user` of them.
    """

    def __init__(self, limit: int, per_user: int) -> None:
        self._limit, self._per_user = limit, per_user
        self.held = 0
        self.held_by: Counter[str] = Counter()
        """By principal id."""

    @contextmanager
    def share(self, owner: str) -> Iterator[UploadShare]:
        """The share of one request; released at the end of the block."""
        share = UploadShare(self, owner)
        try:
            yield share
        finally:
            self.held -= share.held
            self.held_by[owner] -= share.held
            if not self.held_by[owner]:
                del self.held_by[owner]

    def check(self, owner: str, size: int) -> None:
        """Raises `StoreFull` when `size` more bytes of this user do not fit now."""
        if self.held_by[owner] + size > self._per_user:
            raise StoreFull("You have too many uploads under way. Try again in a moment.", retry_after=RETRY_AFTER_S)
        if self.held + size > self._limit:
            raise StoreFull("Too many uploads are under way. Try again in a moment.", retry_after=RETRY_AFTER_S)

    def take(self, owner: str, size: int) -> None:
        """Raises as `check`."""
        self.check(owner, size)
        self.held += size
        self.held_by[owner] += size


class UploadShare:
    """The part of the budget that one request holds."""

    def __init__(self, budget: UploadBudget, owner: str) -> None:
        self._budget, self._owner = budget, owner
        self.held = 0

    def expect(self, declared: int) -> None:
        """Refuse a body that would not fit now, before it is sent; reserves nothing. Raises `StoreFull`."""
        self._budget.check(self._owner, max(0, declared - self.held))

    def reach(self, total: int) -> None:
        """Hold at least `total` bytes. Raises `StoreFull`."""
        if total > self.held:
            self._budget.take(self._owner, total - self.held)
            self.held = total


class Pace:
    """The time limits of a request: the body has a minimum rate and a total time; after its end the work has a
    deadline.

    Moves the deadline of the block in which the request runs. Until a body starts to arrive, that is the deadline of
    the work.
    """

    def __init__(self, deadline: asyncio.Timeout, work_s: float, settings: Settings, slow: ConcurrencyLimit) -> None:
        self._deadline, self._work_s, self._slow = deadline, work_s, slow
        self._rate, self._total_s = settings.upload_min_bytes_per_s, settings.upload_timeout_s
        self._grace_s = min(GRACE_S, work_s)
        self._begun: float | None = None
        self._is_given_up = False

    def arrived(self, total: int) -> None:
        """`total` bytes of the body have arrived; 0 at its start."""
        now = asyncio.get_running_loop().time()
        if self._begun is None:
            self._begun = now
        by_rate = self._begun + min(self._total_s, self._grace_s + total / self._rate)
        self._move(min(by_rate, now + SILENCE_S))

    def ended(self) -> None:
        """The whole body has arrived."""
        self._begun = None
        self._move(asyncio.get_running_loop().time() + self._work_s)

    def _move(self, when: float) -> None:
        # An expired deadline cannot be moved any more; Python 3.11 may lose its cancellation.
        if not (self._deadline.expired() or self._is_given_up):
            self._deadline.reschedule(when)

    @property
    def left_s(self) -> float:
        """Seconds until the deadline."""
        when = self._deadline.when()
        return math.inf if when is None else when - asyncio.get_running_loop().time()

    def when_slow(self, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """Set a callback for a body that takes longer than usual."""
        return asyncio.get_running_loop().call_later(SLOW_AFTER_S, callback)

    def take_slow_place(self, owner: str, holds: ExitStack) -> None:
        """Count the body as slow until `holds` is closed.

        Without a free place the request ends now, because without further bytes it would not be checked again.
        """
        if holds.enter_context(self._slow.take(owner)):
            return
        self._move(asyncio.get_running_loop().time())
        self._is_given_up = True

    @property
    def problem(self) -> ServiceError:
        """The problem to answer once the deadline has passed."""
        if self._is_given_up:
            return StoreFull(
                f"You have {SLOW_MAX_PER_USER} slow uploads open, or all users {SLOW_MAX}. Send some later.",
                retry_after=SLOW_RETRY_AFTER_S,
            )
        if self._begun is None:
            return DeadlineExceeded(f"The request was not answered within {self._work_s:g} seconds.")
        return DeadlineExceeded(
            f"The body came too slowly: send {self._rate:,} bytes a second or more after the first {self._grace_s:g} "
            f"seconds, without a pause of {SILENCE_S:g}, and all of it within {self._total_s:g}."
        )


class Turns:
    """Limits what runs at once, in total and per user. When the limit is reached, the next one waits for its turn."""

    def __init__(self, limit: int, per_user: int) -> None:
        self._all = asyncio.Semaphore(limit)
        self._per_user = per_user
        self._lines: dict[str, tuple[asyncio.Semaphore, list[int]]] = {}

    @asynccontextmanager
    async def take(self, owner: str) -> AsyncIterator[None]:
        """Hold a place inside the block."""
        line, users = self._lines.setdefault(owner, (asyncio.Semaphore(self._per_user), [0]))
        users[0] += 1
        try:
            async with line, self._all:
                yield
        finally:
            users[0] -= 1
            if not users[0]:
                del self._lines[owner]


class ImageFetcher:
    """Fetches images from users' URLs: a slow server holds only turns of its own user."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._turns = Turns(FETCHES_MAX, FETCHES_MAX_PER_USER)

    async def fetch(self, url: str, owner: str, share: UploadShare) -> bytes:
        """The image behind the URL, fetched in the user's turn. Its bytes count while they arrive.

        Raises as `images.fetch.fetch`, and `StoreFull`.
        """
        async with self._turns.take(owner):
            return await fetch(url, self._settings, owner=owner, arrived=share.reach)
