"""What most tests of this folder begin with: a gateway without Ray, the tables of usage, the tracker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from gateway_parts import Running, running_gateway
from redis.asyncio import Redis

from serve_app.jobs.desk import Desk
from serve_app.jobs.tracker import Tracker
from serve_app.local.authority import Authority
from serve_app.local.valkey import Valkey
from serve_app.settings import Settings


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gateway(**changes): the settings of the fixture `gateway` that differ")


@pytest.fixture
async def gateway(request: pytest.FixtureRequest, settings: Settings, authority: Authority) -> AsyncIterator[Running]:
    """A running gateway. Its settings are changed by the marks `gateway`: the module's, then the test's."""
    changes = {
        name: value for mark in [*request.node.iter_markers("gateway")][::-1] for name, value in mark.kwargs.items()
    }
    async with running_gateway(settings, authority, **changes) as running:
        yield running


@pytest.fixture
def tracker(redis: Redis, settings: Settings) -> Tracker:
    return Tracker(redis, settings)


@pytest.fixture
def desk(redis: Redis, settings: Settings) -> Desk:
    return Desk(redis, settings)


@pytest.fixture
def own_valkey(folder: Path) -> Iterator[Valkey]:
    """A server that one test alone may kill, stop or fill."""
    server = Valkey(folder / "valkey")
    server.start()
    yield server
    server.stop()
