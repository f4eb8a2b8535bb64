"""What most tests of this folder begin with: a gateway without Ray, the tables of usage, the job store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from gateway_parts import Running, running_gateway
from receiver import Receiver, receiving
from redis.asyncio import Redis

from serve_app.jobs.store import JobStore
from serve_app.local.issuer import DevIssuerServer
from serve_app.local.valkey import Valkey
from serve_app.settings import Settings


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gateway(**changes): the settings of the fixture `gateway` that differ")


@pytest.fixture
async def gateway(
    request: pytest.FixtureRequest, settings: Settings, authority: DevIssuerServer
) -> AsyncIterator[Running]:
    """A running gateway. Its settings are changed by the marks `gateway`: the module's, then the test's."""
    changes = {
        name: value for mark in [*request.node.iter_markers("gateway")][::-1] for name, value in mark.kwargs.items()
    }
    async with running_gateway(settings, authority, **changes) as running:
        yield running


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as one:
        yield one


@pytest.fixture
def job_store(redis: Redis, settings: Settings) -> JobStore:
    return JobStore(redis, settings)


@pytest.fixture
def own_valkey(folder: Path) -> Iterator[Valkey]:
    """A server that one test alone may kill, stop or fill."""
    server = Valkey(folder / "valkey")
    server.start()
    yield server
    server.stop()
