"""The cluster under test, made once for the session and always taken down; what was measured on it."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from real_cluster import ROOT, RealCluster
from record import Record

SKIPPED = 75
"""Exit status where this machine cannot make a node."""
ORDER = (
    *("node", "deploy", "network", "security", "manifests", "monitoring"),
    *("releases", "stores", "backups", "pods", "burst", "lost_node"),
)
"""Files by the middle of their name, those that are not named last."""
CHECK_S = 60.0
IMAGE_S = 3600.0
TEST_S = 7200.0
"""Of a test with the fixtures that it is the first to ask for, a build of programs and image among them."""
CONTEXT = "here-test"
"""Beside a cluster that somebody made by hand, which is not touched."""

record_key = pytest.StashKey[Record]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--short", action="store_true", help="only the tests marked `short`: one node, one of everything")
    parser.addoption("--soak", action="store_true", help="only the half hour of steady load")
    parser.addoption("--context", default=CONTEXT, help=f"name of the cluster, here-… ({CONTEXT})")
    parser.addoption("--keep", action="store_true", help="leave the cluster there, and go on with what is there")
    parser.addoption("--edge", action="store_true", help="build the edge of other people's make, unless it is built")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "short: part of the run before every change")
    config.addinivalue_line("markers", "pairs: on two gateways and two models, on all nodes")
    config.addinivalue_line("markers", "soak: half an hour of its own, left out of the other runs")
    config.stash[record_key] = Record(strict_times=not config.getoption("--short"))
    before = signal.signal(signal.SIGTERM, _interrupt)
    config.add_cleanup(lambda: signal.signal(signal.SIGTERM, before))


def _interrupt(number: int, frame: object) -> NoReturn:
    """As Ctrl-C, so that the cluster is taken down."""
    raise KeyboardInterrupt


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    chosen = [item for item in items if _is_chosen(config, item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    for item in chosen:
        item.add_marker(pytest.mark.timeout(TEST_S))
        item.add_marker(pytest.mark.slow(reason="a cluster of its own"))
    items[:] = sorted(chosen, key=_place)


def _is_chosen(config: pytest.Config, item: pytest.Item) -> bool:
    for marker in ("soak", "short"):
        if config.getoption(f"--{marker}"):
            return item.get_closest_marker(marker) is not None
    return item.get_closest_marker("soak") is None


def _place(item: pytest.Item) -> int:
    name = item.path.stem.removeprefix("test_")
    return next((place for place, part in enumerate(ORDER) if name.startswith(part)), len(ORDER))


def pytest_runtestloop(session: pytest.Session) -> None:
    """Before the first test, whichever it is."""
    if session.items and not session.config.option.collectonly:
        command = [sys.executable, str(ROOT / "scripts" / "cluster"), "check", "--context", CONTEXT]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=CHECK_S)
        if done.returncode != 0:
            pytest.exit(f"no node can be made on this machine:\n{done.stderr}", returncode=SKIPPED)


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
    """A node with nothing on it, and the image built."""
    short, keep = request.config.getoption("--short"), request.config.getoption("--keep")
    with tempfile.TemporaryDirectory(prefix="test-cluster-") as folder:
        cluster = RealCluster(Path(folder), request.config.getoption("--context"))
        try:
            cluster.up(1 if short else 2)
            image_s = cluster.run("image", timeout_s=IMAGE_S).seconds
            yield cluster
            if not keep and not request.session.testsfailed and _is_whole_run(request):
                minutes = (time.time() - record.began - image_s) / 60
                record.measured(**{"cluster_short_minutes" if short else "cluster_minutes": minutes})
        finally:
            if not keep:
                cluster.run("down", "--yes")


def _is_whole_run(request: pytest.FixtureRequest) -> bool:
    """Not when somebody chose a few tests by their names, or the soak."""
    options = request.config.option
    return not (options.soak or options.keyword or any(":" in word for word in request.config.args))


@pytest.fixture(scope="session")
def deployed(node: RealCluster, record: Record) -> RealCluster:
    """`scripts/cluster all` on the empty node: one of everything, in the sizes of development, on the first node."""
    _spread(node, over_all_nodes=False)
    record.all_s = node.run("all", timeout_s=900).seconds
    node.make_edge()
    return node


@pytest.fixture(scope="session")
def service(deployed: RealCluster) -> RealCluster:
    """The deployed service, whole."""
    deployed.wait_until_alone()
    deployed.wait_until_whole()
    return deployed


@pytest.fixture
def cluster(service: RealCluster, request: pytest.FixtureRequest) -> RealCluster:
    """The cluster, whole: what the test before broke has healed. One of everything, which is all that two processors
    do beside a second cluster that starts; two gateways and two models for a test marked `pairs`, if not --short.
    """
    replicas = 2 if request.node.get_closest_marker("pairs") and not request.config.getoption("--short") else 1
    if service.replicas != replicas:
        _spread(service, over_all_nodes=replicas > 1)
        service.resize(replicas)
        service.run("deploy")
    service.wait_until_whole()
    service.wait_until_alone()
    return service


def _spread(cluster: RealCluster, *, over_all_nodes: bool) -> None:
    """Whether pods that start from now on may go to other nodes than the first."""
    for one in cluster.objects("nodes")[1:]:
        cluster.kubectl("uncordon" if over_all_nodes else "cordon", one["metadata"]["name"])
