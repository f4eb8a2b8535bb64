"""Webhooks' pure parts: the key table, signatures by independent code, and what a Retry-After asks for."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from standardwebhooks import Webhook

from serve_app.webhooks import limits
from serve_app.webhooks.events import new_secret, sign
from serve_app.webhooks.sender import body_of, retry_after_s
from serve_app.webhooks.store import Delivery

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def test_signatures_are_those_of_the_reference_library() -> None:
    secret = "whsec_MfKQ9r8GKYqUTwjUPD8ILPZIo2LaLaSw"
    headers = sign([secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    signed = datetime.fromtimestamp(1614265330, UTC)
    assert headers["webhook-signature"] == Webhook(secret).sign(headers["webhook-id"], signed, '{"test": 2432232314}')
    assert headers["webhook-timestamp"] == "1614265330"


def test_secrets_differ_and_have_the_length_that_the_rules_ask_for() -> None:
    assert len({new_secret() for _ in range(100)}) == 100
    assert 24 <= limits.SECRET_BYTES <= 64


def test_the_schedule_is_the_published_one() -> None:
    minutes = 60
    hours = 60 * minutes
    published = (0, 5, 5 * minutes, 30 * minutes, 2 * hours, 5 * hours, 10 * hours, 14 * hours, 20 * hours, 24 * hours)
    assert published == limits.SCHEDULE_S


def test_a_claim_outlives_an_attempt() -> None:
    """Else a second sender would begin what the first is still at."""
    assert limits.CLAIM_MS > 1.5 * 1000 * limits.TIMEOUT_S


def test_the_largest_body_is_thin() -> None:
    delivery = Delivery("msg_1", "e" * 32, "job.cancelled", 10**12, "waiting", 0, "j" * 36, "CANCELLED", "m" * 200, ())
    assert len(body_of(delivery, lambda job: f"/api/v1/jobs/{job}")) < 1000


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        ("120", 120),
        ("0", 0),
        ("86401", limits.RETRY_AFTER_MAX_S),
        ("9" * 5000, limits.RETRY_AFTER_MAX_S),
        ("Sat, 21 Nov 2026 12:02:00 GMT", 120),
        ("Sat, 21 Nov 2026 11:00:00 GMT", 0),
        ("Sat, 21 Nov 9999 11:00:00 GMT", limits.RETRY_AFTER_MAX_S),
        ("", 0),
        ("-5", 0),
        ("1.5", 0),
        ("soon", 0),
        ("١٢", 0),
        ("\x00", 0),
    ],
)
def test_a_retry_after_is_seconds_or_a_date(asked: str, seconds: int) -> None:
    assert retry_after_s(asked, NOW.timestamp()) == seconds
