"""Waits for what a test has set going, instead of a sleep."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any


async def until(look: Callable[[], Any], seconds: float = 30.0, *, fits: Callable[[Any], object] = bool) -> Any:
    """What `look` gives, or what it is awaited for, once it fits; looked for again and again within the deadline."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if inspect.isawaitable(found):
            found = await found
        if fits(found):
            return found
        assert time.monotonic() < deadline, "the awaited condition did not come"
        await asyncio.sleep(0.02)
