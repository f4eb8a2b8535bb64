"""Stream entries become rows, or say why they cannot."""

import json
from dataclasses import fields

import pytest

from serve_app.contracts import AuditEvent, OutcomeEvent, UsageEvent
from serve_app.usage.database import INSERTS, Malformed, as_parameter, as_refused, read_row


def test_every_field_of_the_events_has_its_column() -> None:
    for kind, event in (("usage", UsageEvent), ("outcome", OutcomeEvent), ("audit", AuditEvent)):
        known = INSERTS[kind].split("AS event (")[1].split(")")[0].replace('"', "")
        columns = {column.split()[0] for column in known.split(",")}
        assert columns == {field.name for field in fields(event)}


def test_values_stay_the_text_they_are() -> None:
    values = {"event_id": "e1", "username": "Ünal 🔬", "status_code": "abc"}
    rows = [
        read_row({b"kind": b"usage", b"event": json.dumps(values).encode()}),
        read_row({b"kind": b"audit", **{name.encode(): value.encode() for name, value in values.items()}}),
    ]
    assert [row.kind for row in rows] == ["usage", "audit"]
    assert json.loads(as_parameter(rows)) == [values, values]


def test_the_detail_of_an_outcome_is_made_storable() -> None:
    row = read_row({b"kind": b"outcome", b"detail": b"tile 3\0 of 4"})
    assert json.loads(row.values) == {"detail": "tile 3 of 4"}


@pytest.mark.parametrize(
    "entry",
    [
        {b"kind": b"usage", b"event": b'{"event_id": "e1", "username": "\xff\xfe"}'},
        {b"kind": b"usage", b"event": b'{"username": "ada"}'},
        {b"kind": b"usage", b"event": b'{"event_id": ""}'},
        {b"kind": b"usage", b"event": b'["event_id"]'},
        {b"kind": b"usage", b"event": b'{"event_id": "e1"'},
        {b"kind": b"usage", b"event": b"[" * 100_000},
        {b"kind": b"usage", b"event_id": b"e1"},
        {b"kind": b"audit", b"event_id": b"e1", b"username": b"\xff"},
        {b"kind": b"audit", b"action": b"block"},
        {b"kind": b"surprise", b"event_id": b"e1"},
        {b"event_id": b"e1"},
        {b"kind\xff": b"usage"},
    ],
)
def test_what_is_no_event_of_ours_is_named(entry: dict[bytes, bytes]) -> None:
    with pytest.raises(Malformed, match=r"UTF-8|kind|id"):
        read_row(entry)


def test_a_refused_entry_is_readable_and_short() -> None:
    shown = json.loads(as_refused(b"5-1", {b"kind": b"\xff", b"result": b"x" * 100_000}, "22P02: no\nnumber"))
    assert shown["entry"] == "5-1"
    assert shown["reason"] == "22P02: nonumber"
    assert shown["fields"]["kind"] == "\\xff"
    assert len(shown["fields"]["result"]) == 2000
