"""Verified claims become a principal: whose jobs they are, and what usage records show."""

from __future__ import annotations

from typing import Any

import pytest

from serve_app.contracts import Principal
from serve_app.errors import TokenInvalid
from serve_app.gateway.auth import SUBJECT_MAX_CHARACTERS, principal_of
from serve_app.settings import Settings


def principal(**claims: Any) -> Principal:
    return principal_of({"iss": "https://issuer", "sub": "7", **claims}, Settings())


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


@pytest.mark.parametrize(
    ("claim", "group"),
    [("resource_access.sem.roles", "em"), ("wlcg.groups", "/em"), ("sem.roles", None), ("a.b", None), ("", None)],
)
def test_the_group_s_claim_is_found_by_its_whole_name_and_by_its_dots(claim: str, group: str | None) -> None:
    claims = {"resource_access": {"sem": {"roles": ["em"]}}, "wlcg.groups": ["/em"], "wlcg": {"groups": ["no"]}, "a": 1}
    claims["groups"] = ["sem"]
    settings = Settings(oidc_group_claim=claim)
    assert principal_of({"iss": "https://issuer", "sub": "7", **claims}, settings).group == group


@pytest.mark.parametrize("subject", ["", " ", "x" * (SUBJECT_MAX_CHARACTERS + 1)])
def test_a_subject_that_names_nobody_is_refused(subject: str) -> None:
    with pytest.raises(TokenInvalid, match="subject"):
        principal(sub=subject)


@pytest.mark.parametrize(
    ("claims", "roles"),
    [
        ({"realm_access": {"roles": ["a", "b c"]}}, {"a", "b c"}),
        ({"roles": ["a"], "groups": "b c", "scope": "openid c"}, {"a", "b", "c", "openid"}),
        ({"realm_access": ["a"], "roles": {"a": 1}, "groups": [5, None, "g"], "scope": 7}, {"g"}),
        ({"realm_access": {"roles": {"a": True}}}, set()),
        ({"realm_access": None}, set()),
        ({"realm_access.roles": ["a"]}, {"a"}),
        ({"sem-admin": True, "admin": True, "resource_access": {"roles": ["sem-admin"]}}, set()),
        ({"realm_access": {"roles": ["sem-admin"]}}, {"sem-admin"}),
        ({"roles": ["user", "sem-admin"]}, {"user", "sem-admin"}),
        ({"groups": ["sem-admin"]}, {"sem-admin"}),
        ({"scope": "openid sem-admin"}, {"openid", "sem-admin"}),
    ],
)
def test_roles_are_those_of_all_claims_named_and_an_admin_is_who_has_the_role(
    claims: dict[str, Any], roles: set[str]
) -> None:
    found = principal(**claims)
    assert found.roles == roles
    assert found.is_admin == ("sem-admin" in roles)


def test_the_claim_and_the_role_are_settings() -> None:
    settings = Settings(oidc_roles_claims="https://lab.example.org/roles,app.roles", oidc_admin_role="boss")
    base = {"iss": "https://issuer", "sub": "7"}
    assert principal_of({**base, "https://lab.example.org/roles": ["boss"]}, settings).is_admin
    assert principal_of({**base, "app": {"roles": ["boss"]}}, settings).is_admin
    assert not principal_of({**base, "scope": "boss", "roles": ["boss"]}, settings).is_admin
