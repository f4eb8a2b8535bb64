"""`--namespace` is refused where the manifests hold names that would still lead to the usual namespace."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from operations.delivery.home import names_at_home

from tests import cluster_world
from tests.cluster_world import NAME, ROOT, Machine, rule

CERTIFICATE = f"  dnsNames: [redis, redis.{NAME}.svc, redis.{NAME}.svc.cluster.local]\n"
COMPONENTS = ROOT / "k8s" / "components"


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with cluster_world.machine(tmp_path) as made:
        yield made


def deploy(machine: Machine, *options: str) -> tuple[int, str]:
    machine.first(rule("kubectl kustomize .*/surroundings", cluster_world.SURROUNDINGS + CERTIFICATE))
    machine.run("image")
    machine.forget()
    done = machine.run("deploy", *options)
    return done.returncode, done.stderr


def test_a_name_that_would_lead_home_is_refused_elsewhere(machine: Machine) -> None:
    status, said = deploy(machine, "--namespace", "trial")
    assert status == 2
    assert f"namespace trial; write it into them: redis.{NAME}.svc, redis.{NAME}.svc.cluster.local\n" in said
    assert machine.changes == []


def test_at_home_it_is_applied(machine: Machine) -> None:
    status, said = deploy(machine)
    assert status == 0, said


@pytest.mark.parametrize("component", ["redis-tls", "service-mesh"])
def test_the_components_that_hold_such_names(component: str) -> None:
    text = "".join(path.read_text() for path in (COMPONENTS / component).glob("*.yaml"))
    assert names_at_home(text, "trial")
    assert names_at_home(text, NAME) == []


def test_other_names_may_hold_the_usual_one() -> None:
    text = f"image: registry.lab/{NAME}:1\nkey: {NAME}/{NAME}\nhost: collector.logging.svc.cluster.local\n"
    assert names_at_home(text, "trial") == []
