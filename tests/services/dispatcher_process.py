"""One dispatcher with a stub model, as a process of its own that a test can kill.

Usage: python dispatcher_process.py REDIS_URL MODE, where MODE `stuck` never answers a call and `works` always does.
"""

from __future__ import annotations

import asyncio
import sys

from job_help import VERSION, StubModel, card
from pydantic import SecretStr

from serve_app.connections import connect_redis
from serve_app.jobs.dispatcher import Dispatcher
from serve_app.jobs.store import JobStore
from serve_app.settings import Settings


async def main(redis_url: str, mode: str) -> None:
    settings = Settings(redis_url=SecretStr(redis_url), lease_seconds=1)
    model = StubModel()
    if mode == "stuck":
        model.gate.clear()
    job_store = JobStore(connect_redis(settings), settings)
    await Dispatcher(job_store, model, card(), version=VERSION).run()


asyncio.run(main(*sys.argv[1:]))
