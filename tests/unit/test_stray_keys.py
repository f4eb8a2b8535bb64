"""What the tests look for after they ran: each row of keyspace.py is held to an end, an owner or a bound."""

from __future__ import annotations

import pytest
from stray_keys import BOUNDS, OWNED, UNBOUNDED, rows_of

from serve_app.keyspace import BLOB, HELD_BYTES, IDEM, JOB, KEYS, LEDGER, OUTBOX, QUOTA, WAIT
from serve_app.lua import key_functions


def test_a_key_of_no_row_is_none_of_ours() -> None:
    assert list(rows_of("wait:sem:normal:abc")) == [WAIT]
    assert [rows_of(name) for name in ("wait:sem:normal", "cache:abc", "job:")] == [[], [], []]


def test_no_two_rows_have_one_name_in_scripts_or_one_template() -> None:
    assert len({key.name for key in KEYS}) == len({key.template for key in KEYS}) == len(KEYS)


def test_a_key_is_made_of_its_parts_in_python_and_in_lua() -> None:
    assert WAIT(model="sem", priority="normal", owner="abc") == "wait:sem:normal:abc"
    assert key_functions("return wait_key('sem', 'normal', owner) .. held_bytes_key()").splitlines() == [
        "local function held_bytes_key() return string.format('held-bytes') end",
        "local function wait_key(model, priority, owner) "
        "return string.format('wait:%s:%s:%s', model, priority, owner) end",
    ]


def test_a_script_names_no_key_that_has_no_row() -> None:
    with pytest.raises(KeyError):
        key_functions("return redis.call('GET', cache_key(id))")


def test_some_keys_always_have_an_end() -> None:
    assert all(key.ends for key in (IDEM, QUOTA))
    assert not any(key.ends for key in (JOB, BLOB, LEDGER, OUTBOX, HELD_BYTES))


def test_every_row_is_held_to_an_end_an_owner_or_a_bound() -> None:
    held = {key.template for key in KEYS if key.ends} | OWNED.keys() | BOUNDS.keys()
    channels = {key.template for key in KEYS if key.kind == "channel"}
    assert {key.template for key in KEYS} == held | UNBOUNDED | channels
    assert not held & UNBOUNDED
