"""The operator's rules for an incremental upgrade, which a site may choose: each is told before it is tried."""

from __future__ import annotations

import json
from typing import Any

import pytest
from manifests.rayservice import operator

from tests.manifests_given import SERVICE_TEXT, with_service

WHOLE = {"maxSurgePercent": 50, "stepSizePercent": 10, "intervalSeconds": 5, "gatewayClassName": "istio"}


def found(options: dict[str, Any] | None) -> dict[str, str]:
    """What is found in the manifest with these options, by the last word of its path."""
    given = "" if options is None else f"\n    clusterUpgradeOptions: {json.dumps(options)}"
    text = SERVICE_TEXT.replace("type: NewCluster #", f"type: NewClusterWithIncrementalUpgrade{given} #", 1)
    return {one.path.rpartition(".")[2]: one.sentence for one in operator.check(with_service(text))}


def test_whole_options_are_let_in() -> None:
    assert found(WHOLE) == {}
    assert found({key: value for key, value in WHOLE.items() if key != "maxSurgePercent"}) == {}


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("maxSurgePercent", 101, "at most 100"),
        ("stepSizePercent", 51, "larger than maxSurgePercent"),
        ("intervalSeconds", 0, "1 or more"),
        ("gatewayClassName", "", "name of a GatewayClass"),
    ],
)
def test_a_wrong_option_is_refused_in_its_place(key: str, value: object, words: str) -> None:
    refused = found(WHOLE | {key: value})
    assert list(refused) == [key]
    assert words in refused[key]


def test_without_options_it_is_refused() -> None:
    assert list(found(None)) == ["clusterUpgradeOptions"]
