"""The cluster under test, made once for the session and always taken down; what was measured on it."""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from operations.ground import here
from real_cluster import RealCluster
from record import Record

SKIPPED = 75
"""Exit status where this machine cannot make a node."""
ORDER = ("node", "deploy", "network", "security", "manifests", "monitoring", "pods", "releases", "stores", "backups")
"""Files by the middle of their name, those that are not named in between, the soak last."""
IMAGE_S = 3600.0

record_key = pytest.StashKey[Record]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--short", action="store_true", help="only the tests marked `short`, on the smallest sizes")
    parser.addoption("--soak", action="store_true", help="only the half hour of load with a change every five minutes")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "short: part of the run before every change")
    config.addinivalue_line("markers", "soak: runs with --soak alone")
    config.stash[record_key] = Record()
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(number: int, frame: object) -> NoReturn:
    """As Ctrl-C, so that the cluster is taken down."""
    raise KeyboardInterrupt


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    short, soak = config.getoption("--short"), config.getoption("--soak")
    chosen = [item for item in items if _runs(item, short=short, soak=soak)]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = sorted(chosen, key=_place)


def _runs(item: pytest.Item, *, short: bool, soak: bool) -> bool:
    if soak or item.get_closest_marker("soak"):
        return soak and item.get_closest_marker("soak") is not None
    return not short or item.get_closest_marker("short") is not None


def _place(item: pytest.Item) -> int:
    name = item.path.stem.removeprefix("test_")
    return next((place for place, part in enumerate(ORDER) if name.startswith(part)), len(ORDER))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    record = terminalreporter.config.stash[record_key]
    terminalreporter.section("figures")
    for line in record.lines():
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def record(request: pytest.FixtureRequest) -> Iterator[Record]:
    """What this run measures; written when it ends, however it ends."""
    kept = request.config.stash[record_key]
    yield kept
    kept.write()


@pytest.fixture(scope="session")
def node(record: Record, request: pytest.FixtureRequest) -> Iterator[RealCluster]:
    """A node with nothing on it, and the image built. What the suite takes counts from here, the first build apart."""
    if missing := here.needs():
        pytest.exit("this machine cannot make a node:\n  " + "\n  ".join(missing), returncode=SKIPPED)
    with tempfile.TemporaryDirectory(prefix="test-cluster-") as folder:
        cluster = RealCluster(Path(folder))
        try:
            cluster.run("up", timeout_s=IMAGE_S)
            cluster.run("image", timeout_s=IMAGE_S)
            began = time.monotonic()
            yield cluster
            name = "cluster_short_minutes" if request.config.getoption("--short") else "cluster_minutes"
            if not request.config.getoption("--soak") and not request.session.testsfailed and _is_whole_run(request):
                record.measured(**{name: (time.monotonic() - began) / 60})
        finally:
            cluster.run("down", "--yes", well=False)


def _is_whole_run(request: pytest.FixtureRequest) -> bool:
    """Not when somebody chose a few tests by their names."""
    return not request.config.option.keyword and not any(":" in word for word in request.config.args)


@pytest.fixture(scope="session")
def deployed(node: RealCluster, record: Record) -> RealCluster:
    """`scripts/cluster all` on the empty node: one of everything, in the sizes of development."""
    node.all_s = node.run("all", timeout_s=900).seconds
    return node


@pytest.fixture(scope="session")
def service(deployed: RealCluster, request: pytest.FixtureRequest) -> RealCluster:
    """Two gateways and two models; with --short one of each."""
    if not request.config.getoption("--short"):
        deployed.resize(2)
        deployed.run("deploy")
        deployed.wait_until_alone()
    deployed.wait_until_whole()
    return deployed


@pytest.fixture
def cluster(service: RealCluster) -> RealCluster:
    """The cluster, whole: what the test before broke has healed."""
    service.wait_until_whole()
    service.wait_until_alone()
    return service
