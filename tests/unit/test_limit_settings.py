"""Limits cannot be switched off, and what is written wrong is said at the start."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from serve_app.settings import Settings

RATES = ("rate_submits_per_s", "rate_reads_per_s", "rate_house_submits_per_s", "rate_house_reads_per_s")


@pytest.mark.parametrize("name", RATES)
@pytest.mark.parametrize("value", ["0", "-1", "inf", "nan", "1e9", ""])
def test_no_rate_means_no_limit(name: str, value: str) -> None:
    with pytest.raises(ValidationError):
        Settings(**{name: value})


@pytest.mark.parametrize(
    "wrong",
    [
        {"cors_allowed_origins": "https://lab.example.org/"},
        {"cors_allowed_origins": "lab.example.org"},
        {"quota_submits_per_day": -1},
        {"quota_submits_per_day_roles": "staff"},
        {"quota_submits_per_day_roles": "staff=many"},
        {"oidc_admin_role": ""},
    ],
)
def test_what_is_written_wrong_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Settings(**wrong)


def test_quotas_of_roles_are_a_table() -> None:
    pairs = "staff=500, https://lab.example.org/x=y=7,robots=0"
    quotas = Settings(quota_submits_per_day_roles=pairs).role_quotas  # type: ignore[arg-type]
    assert quotas == {"staff": 500, "https://lab.example.org/x=y": 7, "robots": 0}
    assert Settings(cors_allowed_origins="*").cors_allowed_origins == ("*",)  # type: ignore[arg-type]
