"""What the tests look for after they ran: the tables of keys are all read, and say which keys have an end."""

from __future__ import annotations

import pytest
from stray_keys import key_rows
from stray_rules import BOUNDS, OWNED, UNBOUNDED

from serve_app.gateway import keys as limits
from serve_app.jobs import keys as jobs
from serve_app.usage import keys as usage

ROWS = key_rows()


def found(name: str) -> list[str]:
    return [row.template for row in ROWS if row.names.fullmatch(name)]


@pytest.mark.parametrize("template", [one for name, one in jobs.KEYS.items()])
def test_every_key_of_the_tracker_is_known(template: str) -> None:
    assert template in {row.template for row in ROWS}


@pytest.mark.parametrize("name", [usage.OUTBOX, usage.DROPPED, usage.REFUSED, usage.TOTALS, limits.BLOCKS])
def test_keys_of_the_other_rooms_are_known(name: str) -> None:
    assert name in found(name)


def test_a_key_of_no_table_is_none_of_ours() -> None:
    assert found("wait:sem:normal:abc") == ["wait:{model}:{priority}:{owner}"]
    assert found("wait:sem:normal") == []
    assert found("cache:abc") == []
    assert found("job:") == []


def test_some_keys_always_have_an_end() -> None:
    ends = {row.template for row in ROWS if row.ends}
    assert {"rate:submit:{owner}", "rate:read:{owner}", "quota:{owner}", "replicas:{model}"} <= ends
    assert {"sweep-turn", "webhook-log:{endpoint}", "outputs:{id}", "idem:{hash}"} <= ends
    assert not ends & {"job:{id}", "ledger:{model}", "outbox", "limits:blocks", "held-bytes"}


def test_every_row_is_held_to_an_end_an_owner_or_a_bound() -> None:
    ends = {row.template for row in ROWS if row.ends}
    held = ends | OWNED.keys() | BOUNDS.keys()
    channels = {"wake", "changes"}
    assert {row.template for row in ROWS} == held | UNBOUNDED | channels
    assert not held & UNBOUNDED
