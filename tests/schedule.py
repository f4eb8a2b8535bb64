"""Which tests run in one worker, which begin first, and which may take long."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import pytest
from xdist.scheduler import LoadScopeScheduling

TESTS: Final = Path(__file__).resolve().parent
WHOLE: Final = ("tests/serve/",)
"""Folders whose files share servers that take long to start: one worker runs them all."""
APART: Final = tuple(f"tests/serve/test_{name}.py" for name in ("proxy_limits", "semapi_up", "take_down"))
"""Files there that start services of their own: any worker may run them."""
SLOW_S: Final = 5.0
"""A test that takes longer is marked `slow` or `fault`, with the reason."""
SLOW_TIMEOUT_S: Final = 300
MARKS: Final = {
    "slow": f"takes more than {SLOW_S:.0f} s",
    "fault": "injects faults or measures under load, and takes long: `make test-faults` runs it, `make test` does not",
}
"""Long tests carry one of these marks."""


class ByFile(LoadScopeScheduling):
    """Gives a worker a whole file, or a whole folder of `WHOLE`."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        return next((folder for folder in WHOLE if _is_part(file, folder)), file)


def in_order(items: Iterable[pytest.Item], *, parallel: bool) -> list[pytest.Item]:
    """Of several workers, the one with the folders of `WHOLE` begins with them, and files with slow tests come next, so
    that all end together. One process runs those folders last: their servers stay until the end.

    Otherwise the random order stays.
    """
    found = list(items)
    slow: dict[Path, int] = {}
    for item in found:
        is_slow = _mark(item) is not None and not _is_whole(item.path)
        slow[item.path] = slow.get(item.path, 0) + is_slow
    return sorted(found, key=lambda item: (_is_whole(item.path) is not parallel, -slow[item.path]))


def give_time(item: pytest.Item) -> None:
    """A long test has more time than the others, unless it says itself how much."""
    mark = _mark(item)
    if mark is None:
        return
    assert set(mark.kwargs) == {"reason"}, f"{item.nodeid}: {mark.name}(reason=…)"
    if item.get_closest_marker("timeout") is None:
        item.add_marker(pytest.mark.timeout(SLOW_TIMEOUT_S))


def unmarked(reports: Iterable[Any]) -> list[str]:
    """The tests that took longer than SLOW_S and are not marked, a line each."""
    called = [report for report in reports if report.when == "call" and not MARKS.keys() & report.keywords]
    return [f"{report.duration:6.1f} s {report.nodeid}" for report in called if report.duration > SLOW_S]


def faults(items: Iterable[pytest.Item]) -> int:
    """How many of these tests are marked `fault`."""
    return sum(item.get_closest_marker("fault") is not None for item in items)


def _mark(item: pytest.Item) -> pytest.Mark | None:
    found = [mark for mark in map(item.get_closest_marker, MARKS) if mark is not None]
    assert len(found) <= 1, f"{item.nodeid}: slow or fault, not both"
    return found[0] if found else None


def _is_part(file: str, folder: str) -> bool:
    return file.startswith(folder) and file not in APART


def _is_whole(path: Path) -> bool:
    file = path.relative_to(TESTS.parent).as_posix() if path.is_relative_to(TESTS) else ""
    return any(_is_part(file, folder) for folder in WHOLE)
