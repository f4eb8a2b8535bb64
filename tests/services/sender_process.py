"""One sender, as a process of its own that a test can kill. Usage: python sender_process.py REDIS_URL HOST"""

from __future__ import annotations

import asyncio
import sys

from pydantic import SecretStr
from webhook_help import job_path

from serve_app.connections import connect_redis
from serve_app.settings import Settings
from serve_app.webhooks.sender import Sender


async def main(redis_url: str, host: str) -> None:
    settings = Settings(redis_url=SecretStr(redis_url), webhook_private_hosts=(host,))
    await Sender(connect_redis(settings), settings, job_path).run()


asyncio.run(main(*sys.argv[1:]))
