"""What tests of the manifests and of `scripts/cluster` begin with."""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster_world import Tools
from manifests.documents import Document
from overlays import as_filled_in, as_shipped


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    """Stand-ins of kubectl and helm, for calls of the program in this process."""
    made = Tools(tmp_path, "kubectl", "helm")
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    return made


@pytest.fixture(scope="session")
def shipped() -> dict[str, list[Document]]:
    """What each overlay gives a cluster, as it stands in git."""
    return {name: documents for name, (documents, _) in as_shipped().items()}


@pytest.fixture(scope="session")
def filled_in() -> dict[str, list[Document]]:
    """What each overlay gives a cluster, prod with the values of a site."""
    return {name: documents for name, (documents, _) in as_filled_in().items()}
