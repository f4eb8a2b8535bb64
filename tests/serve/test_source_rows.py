"""Every row of the source systems' checklist, walked on the running service as `make rows` does."""

import uuid

import pytest
from loadtest.source_rows import ROWS, reached, walk
from running_service import RunningService


@pytest.mark.fault(reason="the first job of each of seven sleeping models starts a replica")
def test_no_row_of_the_source_systems_is_short(service: RunningService, capsys: pytest.CaptureFixture[str]) -> None:
    users = [service.token(f"{name}-{uuid.uuid4().hex[:8]}") for name in ("ada", "grace")]
    with reached(service.cluster.url, *users) as both:
        short = walk(both, list(ROWS))
    assert short == 0, capsys.readouterr().out
