"""A gateway without Ray, as a process of its own that a test can kill: it does what its lifespan does.

Usage: python gateway_process.py REDIS_URL ISSUER HOST_OF_IMAGES
"""

from __future__ import annotations

import asyncio
import sys

from gateway_parts import IMAGE_MODEL, NO_TRACES, VERSION, Answering
from pydantic import SecretStr

from serve_app.gateway.app import build_gateway
from serve_app.jobs import limits
from serve_app.settings import Settings

limits.FETCH_LEASE_S = 2.0  # so that the test need not wait for long once this is killed


async def main(redis_url: str, issuer: str, host: str) -> None:
    settings = Settings(redis_url=SecretStr(redis_url), oidc_issuers=(issuer,), image_url_private_hosts=(host,))
    application = build_gateway(
        settings, [IMAGE_MODEL], {IMAGE_MODEL.name: Answering()}, version=VERSION, tracer=NO_TRACES
    )
    async with application.router.lifespan_context(application):
        await asyncio.Event().wait()


asyncio.run(main(*sys.argv[1:]))
