"""Rules for single issuers are read with the settings; a fault names the issuer and the member."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from serve_app.cli.console import explain
from serve_app.settings import IssuerRule, Settings

ISSUER = "https://login.facility.org/realms/lab"
OTHER = "https://accounts.google.com"


def settings(rules: object, **more: Any) -> Settings:
    text = rules if isinstance(rules, str) else json.dumps(rules)
    return Settings(oidc_issuers=f"{ISSUER}, {OTHER}", oidc_issuer_rules=text, **more)  # type: ignore[arg-type]


def test_a_rule_says_what_differs_and_the_settings_the_rest() -> None:
    found = settings({OTHER: {"accept": "id_token", "audience": "a-client"}}, oidc_audience="ours, api://ours")
    assert found.issuer_rule(ISSUER) == IssuerRule(audience=("ours", "api://ours"))
    assert found.issuer_rule(OTHER) == IssuerRule(accept="id_token", audience=("a-client",))


def test_audiences_may_be_a_list() -> None:
    rule = settings({ISSUER: {"audience": ["a", "b"], "audience_claim": "client_id"}}).issuer_rule(ISSUER)
    assert (rule.audience, rule.audience_claim) == (("a", "b"), "client_id")


def test_no_rules_are_an_empty_text() -> None:
    assert settings("").oidc_issuer_rules == {}


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        (f'{{"{ISSUER}": {{"access_token_claim": "uid"}}, "{ISSUER}": {{}}}}', f"'{ISSUER}' twice"),
        (f'{{"{ISSUER}": {{"audience": "a", "audience": "b"}}}}', "'audience' twice"),
        ([], "must be a JSON object"),
        ({"https://stranger.org": {}}, "https://stranger.org is not in OIDC_ISSUERS"),
        ({ISSUER + "/": {}}, f"{ISSUER}/ is not in OIDC_ISSUERS"),
        ({ISSUER: "x"}, f"{ISSUER}: "),
        ({ISSUER: {"acept": "id_token"}}, f"{ISSUER}: acept: "),
        ({ISSUER: {"accept": "anything"}}, f"{ISSUER}: accept: "),
        ({ISSUER: {"audience": 7}}, f"{ISSUER}: audience: "),
        ({ISSUER: {"audience": [""]}}, f"{ISSUER}: audience: 0: "),
        ({ISSUER: {"audience_claim": ""}}, f"{ISSUER}: audience_claim: "),
        ({ISSUER: {"accept": "id_token"}}, "accept=id_token needs audience"),
        ({ISSUER: {"accept": "id_token", "audience": "a", "audience_claim": "azp"}}, "goes with neither"),
        ({ISSUER: {"accept": "id_token", "audience": "a", "access_token_claim": "uid"}}, "goes with neither"),
    ],
)
def test_a_fault_is_named(rules: object, words: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        settings(rules)
    assert words in explain(refusal.value, str.upper)
    assert "OIDC_ISSUER_RULES: " in explain(refusal.value, str.upper)


@pytest.mark.parametrize("algorithms", ["none", "HS256", "RS256,HS512", "rs256", ",", "ES521"])
def test_an_algorithm_that_keeps_no_secret_apart_is_refused_by_name(algorithms: str) -> None:
    with pytest.raises(ValidationError, match="OIDC_ALGORITHMS"):
        Settings(oidc_algorithms=algorithms)  # type: ignore[arg-type]


def test_production_wants_an_audience_for_every_issuer() -> None:
    whole: dict[str, Any] = {"oidc_issuers": f"{ISSUER},{OTHER}"}
    both = {issuer: {"audience": "a"} for issuer in (ISSUER, OTHER)}
    for rules, missing in (({}, True), ({ISSUER: {"audience": "a"}}, True), (both, False)):
        faults = Settings(**whole, oidc_issuer_rules=json.dumps(rules)).production_faults()  # type: ignore[arg-type]
        assert ("OIDC_AUDIENCE must be set" in faults) == missing
    placeholder = json.dumps({ISSUER: {"audience": "REPLACE-ME"}})
    faults = Settings(**whole, oidc_issuer_rules=placeholder, oidc_audience="a").production_faults()  # type: ignore[arg-type]
    assert f"OIDC_ISSUER_RULES: {ISSUER}: audience holds a placeholder" in faults


PAGES = sorted((Path(__file__).resolve().parents[2] / "docs" / "issuers").glob("*.md"))
SETTING = re.compile(r"^(OIDC_[A-Z_]+)=(?:'([^']*)'|(\S*))", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_the_pages_of_issuers_tell_to_set_can_be_set(page: Path) -> None:
    found: dict[str, list[str]] = {}
    for name, quoted, plain in SETTING.findall(page.read_text()):
        found.setdefault(name, []).append(quoted or plain)
    issuers = ",".join(found["OIDC_ISSUERS"])
    for rules in found.get("OIDC_ISSUER_RULES", ["{}"]):
        names = {name.lower(): values[0] for name, values in found.items() if name != "OIDC_ISSUER_RULES"}
        assert Settings(**{**names, "oidc_issuers": issuers, "oidc_issuer_rules": rules}).oidc_issuers  # type: ignore[arg-type]
    if page.stem != "README":
        assert "semapi token check" in page.read_text()
        assert f"({page.name})" in (page.parent / "README.md").read_text()


def test_there_is_a_page_for_each_family() -> None:
    assert len(PAGES) == 9 + 1
