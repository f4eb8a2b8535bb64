"""What `scripts/cluster` refuses to build, to deploy and to go back to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import cluster_world
from tests.cluster_world import IMAGE_ID, NAME, Machine, ray_service, rule

PRODUCTION = "ENVIRONMENT=prod\nMODEL_SOURCE=hugging_face\nMODEL_ID=org/model\nMODEL_REVISION=" + "4d" * 20 + "\n"
PLACE = f"CONTEXT=lab\nREGISTRY=registry.lab\nBUILD_BASE=registry.lab/ray@sha256:{'0' * 64}\n"


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with cluster_world.machine(tmp_path) as made:
        yield made


@pytest.mark.parametrize(
    ("local", "arguments", "says"),
    [
        ("", ["status"], "stage needs to be told its cluster: --context NAME, or CONTEXT=NAME in k8s/stage.local.env"),
        (
            "CONTEXT=lab\nREGISTRI=r\n",
            ["status"],
            "stage.local.env: REGISTRI is no setting; there are NAMESPACE, CONTEXT,",
        ),
        ("CONTEXT=lab\nwhat is this\n", ["status"], "stage.local.env:2: NAME=value is wanted"),
        ("CONTEXT=lab\nNAMESPACE=No_Name\n", ["status"], "'No_Name' is no name for a namespace"),
        ("CONTEXT=lab\n", ["image"], "stage needs REGISTRY"),
        ("CONTEXT=lab\n", ["token", "alice"], "its tokens come from your identity provider"),
        ("CONTEXT=lab\n", ["deploy"], "there is no release of stage on this machine yet: scripts/cluster"),
    ],
)
def test_an_environment_that_is_not_told_enough(machine: Machine, local: str, arguments: list[str], says: str) -> None:
    machine.settings("stage", "ENVIRONMENT=stage\n")
    machine.local("stage", local)
    done = machine.run(*arguments, "--env", "stage")
    assert done.returncode in (1, 2)
    assert says in done.stderr
    assert machine.lines == []


@pytest.mark.parametrize(
    ("settings", "local", "says"),
    [
        ("MODEL_SOURCE=demo\n", PLACE, "prod does not serve the demo model"),
        (PRODUCTION.replace("4d" * 20, "main"), PLACE, "prod wants MODEL_REVISION as a commit"),
        (PRODUCTION.replace("MODEL_ID=org/model\n", ""), PLACE, "MODEL_SOURCE=hugging_face needs MODEL_ID"),
        (PRODUCTION, "CONTEXT=lab\nREGISTRY=registry.lab\n", "prod is built on an image that cannot change"),
    ],
)
def test_prod_refuses_what_is_for_development(machine: Machine, settings: str, local: str, says: str) -> None:
    machine.settings("prod", settings)
    machine.local("prod", local)
    done = machine.run("image", "--env", "prod")
    assert done.returncode == 2
    assert says in done.stderr
    assert machine.lines == []


def test_prod_is_built_from_a_clean_checkout(machine: Machine) -> None:
    machine.settings("prod", PRODUCTION)
    machine.local("prod", PLACE)
    machine.first(rule("git status", " M serve_app/app.py\n"))
    done = machine.run("image", "--env", "prod")
    assert "prod is built from a clean checkout" in done.stderr
    assert machine.changes == []


def test_a_model_of_the_shell_is_refused(machine: Machine) -> None:
    machine.environment["MODEL_ID"] = "org/other"
    done = machine.run("image")
    assert "MODEL_ID is set in this shell and is not read: write it to k8s/overlays/dev/settings.env" in done.stderr
    assert machine.lines == []


def production(machine: Machine, surroundings: str = cluster_world.SURROUNDINGS) -> None:
    machine.settings("prod", PRODUCTION)
    machine.local("prod", PLACE)
    machine.make(machine.tree / ".venv" / "bin" / "python")
    digest = f"sha256:{'cd34' * 16}"
    files = {"build/cluster/prod/image-id": f"sha256:{IMAGE_ID}"}
    machine.first(
        rule("podman build", files=files),
        rule("podman push", files={"build/cluster/prod/digest": digest}),
        rule("kubectl kustomize .*/surroundings", surroundings),
        rule("get secrets", cluster_world.SECRETS),
        rule("get raycluster", cluster_world.ray_cluster(f"registry.lab/{NAME}@{digest}")),
    )


def test_images_of_a_registry_are_deployed_by_their_digest(machine: Machine) -> None:
    production(machine)
    assert machine.run("image", "--env", "prod").returncode == 0
    done = machine.run("deploy", "--env", "prod")
    assert done.returncode == 0, done.stderr
    push = f"podman push --digestfile build/cluster/prod/digest registry.lab/{NAME}:{IMAGE_ID[:12]}"
    assert push in machine.lines
    written = (machine.tree / "build" / "cluster" / "prod" / "service" / "kustomization.yaml").read_text()
    assert f"newName: registry.lab/{NAME}\n    digest: sha256:cd34" in written
    assert not any(line.startswith("kind") for line in machine.lines)


def test_a_placeholder_does_not_reach_prod(machine: Machine) -> None:
    production(machine, cluster_world.SURROUNDINGS + "  host: REPLACE-ME.example.org\n")
    machine.run("image", "--env", "prod")
    machine.forget()
    done = machine.run("deploy", "--env", "prod")
    assert done.returncode == 2
    assert done.stderr.endswith("error: the manifests of prod still hold REPLACE-ME.example.org\n")
    assert machine.changes == []


def test_what_the_check_of_production_finds_does_not_reach_prod(machine: Machine) -> None:
    production(machine)
    machine.first(rule("python scripts/check_production.py", "StatefulSet/redis claims no volume\n", status=1))
    machine.run("image", "--env", "prod")
    machine.forget()
    done = machine.run("deploy", "--env", "prod")
    assert done.returncode == 2
    assert "prod refuses these manifests:\nStatefulSet/redis claims no volume\n" in done.stderr
    [checked] = [one["stdin"] for one in machine.asked if "check_production" in one["line"]]
    assert "kind: StatefulSet" in checked
    assert "kind: RayService" in checked
    assert machine.changes == []


def test_prod_is_not_deployed_unchecked(machine: Machine) -> None:
    production(machine)
    machine.run("image", "--env", "prod")
    (machine.tree / ".venv" / "bin" / "python").unlink()
    assert "and that needs: make setup" in machine.run("deploy", "--env", "prod").stderr


def test_secrets_of_prod_are_demanded_and_never_made(machine: Machine) -> None:
    production(machine)
    machine.first(rule("get secrets", f"{NAME} redis-url\nredis password\n"))
    machine.run("image", "--env", "prod")
    done = machine.run("deploy", "--env", "prod")
    assert done.returncode == 1
    assert f"create secret generic {NAME} --from-file=database-url=FILE" in done.stderr
    assert f"create secret generic {NAME}-ray --from-file=auth_token=FILE" in done.stderr
    assert "generic redis" not in done.stderr
    assert not any("create --filename -" in line for line in machine.lines)


def test_no_key_is_made_up_for_a_secret_that_is_taken_whole(machine: Machine) -> None:
    items_of_volume = "          items:\n          - key: password\n            path: password\n"
    production(machine, cluster_world.SURROUNDINGS.replace(items_of_volume, ""))
    machine.first(rule("get secrets", ""))
    machine.run("image", "--env", "prod")
    assert "create secret generic redis --from-file=FOLDER\n" in machine.run("deploy", "--env", "prod").stderr


def test_a_release_of_another_environment_is_refused(machine: Machine) -> None:
    machine.run("image")
    machine.local("stage", "CONTEXT=lab\n")
    file = str(machine.tree / "build" / "releases" / "release-dev-latest.json")
    done = machine.run("deploy", "--env", "stage", "--release", file)
    assert "is a release of dev, not of stage" in done.stderr


def test_an_upgrade_wants_something_healthy_to_go_back_to(machine: Machine) -> None:
    machine.first(rule("get rayservice", ray_service(ready=False)))
    done = machine.run("upgrade")
    assert "there is no healthy service to upgrade; first scripts/cluster status" in done.stderr
    assert machine.changes == []
