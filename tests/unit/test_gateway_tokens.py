"""Verified claims become a principal: whose jobs they are, and what usage records show."""

from __future__ import annotations

from typing import Any

import pytest

from serve_app.contracts import Principal
from serve_app.errors import TokenInvalid
from serve_app.gateway.tokens import SUBJECT_MAX_CHARACTERS, principal_of


def principal(**claims: Any) -> Principal:
    return principal_of({"iss": "https://issuer", "sub": "7", **claims}, "groups")


def test_the_owner_is_issuer_and_subject_and_nothing_else() -> None:
    ada = principal(name="Ada", groups=["a"])
    assert principal(name="Bob", groups=["b"]).id == ada.id
    assert principal(sub="8").id != ada.id
    assert principal(iss="https://other").id != ada.id
    assert principal(iss="https://issue", sub="r7").id != ada.id


@pytest.mark.parametrize(
    ("claims", "name"),
    [
        ({"preferred_username": "ada", "name": "Ada L.", "sub": "7"}, "ada"),
        ({"name": "Ada L."}, "Ada L."),
        ({}, "7"),
        ({"preferred_username": " ", "name": 5}, "7"),
    ],
)
def test_the_name_is_the_first_that_says_something(claims: dict[str, Any], name: str) -> None:
    assert principal(**claims).name == name


@pytest.mark.parametrize(
    ("groups", "group"),
    [(["sem", "staff"], "sem"), ("sem", "sem"), ([5, "", "sem"], "sem"), ([], None), ({"sem": 1}, None), (None, None)],
)
def test_the_group_is_the_first_of_its_claim(groups: object, group: str | None) -> None:
    assert principal(groups=groups).group == group


def test_no_claim_named_means_no_group() -> None:
    assert principal_of({"iss": "https://issuer", "sub": "7", "groups": ["sem"]}, "").group is None


@pytest.mark.parametrize("subject", ["", " ", "x" * (SUBJECT_MAX_CHARACTERS + 1)])
def test_a_subject_that_names_nobody_is_refused(subject: str) -> None:
    with pytest.raises(TokenInvalid, match="subject"):
        principal(sub=subject)
