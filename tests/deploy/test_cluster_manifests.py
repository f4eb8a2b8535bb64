"""`scripts/cluster` with the manifests of this repository and a real kubectl, which needs no cluster to render them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_world import IMAGE, ROOT, Machine, release
from operations import render
from operations.target import BUILD, NAME, read_file
from overlays import DIGEST, PARAMETERS, SITE

KUBECTL = shutil.which("kubectl")
APART = {"dev-issuer", "site", "external-postgres"}
"""What dev has, and what takes away a server that dev's sizes are written for."""
CONTAINERFILE = ROOT / "k8s" / "image" / "Containerfile"
kustomized = pytest.mark.skipif(KUBECTL is None, reason="needs kubectl to render the overlays")
MADE_FOR_DEVELOPMENT = {
    NAME: {"redis-url", "database-url"},
    f"{NAME}-ray": {"auth_token"},
    f"{NAME}-ray-redis": {"password"},
    "redis": {"password"},
    "postgres": {"password"},
}
COMPONENTS = sorted({path.parent.name for path in (ROOT / "k8s" / "components").glob("*/kustomization.yaml")} - APART)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A checkout with this repository's manifests, and kubectl itself."""
    made = Machine(tmp_path)
    shutil.rmtree(made.tree / "k8s")
    shutil.copytree(ROOT / "k8s", made.tree / "k8s", ignore=shutil.ignore_patterns("*.local.env"))
    shutil.copy(ROOT / "rayservice.yaml", made.tree)
    (made.bin / "kubectl").symlink_to(str(KUBECTL))
    return made


def released(machine: Machine, environment: str, image: str) -> None:
    given = read_file(str(machine.tree / "k8s" / "overlays" / environment / "settings.env"))
    model = {f"model_{part.lower()}": given.get(f"MODEL_{part}", "") for part in ("SOURCE", "ID", "REVISION")}
    made = release(environment=environment, image=image, **model)
    machine.write(f"build/releases/release-{environment}-latest.json", json.dumps(made))


def rendered(machine: Machine, environment: str, image: str, *options: str) -> str:
    released(machine, environment, image)
    done = machine.run("config", "--manifests", "--env", environment, *options)
    assert done.returncode == 0, done.stderr
    return done.stdout.partition("---\n")[2]


def built(machine: Machine) -> str:
    """Dev as it is built by hand."""
    builds = [[str(KUBECTL), *render.KUSTOMIZE[1:], f"k8s/{folder}/dev"] for folder in ("overlays", "service")]
    return "---\n".join(subprocess.check_output(build, cwd=machine.tree, text=True) for build in builds)


def settings_and_readers(text: str) -> tuple[dict[str, Any], list[str]]:
    """The settings of a rendered stream, and the names of settings that its pods ask for."""
    [settings] = [one for one in render.documents(text, "ConfigMap") if "ENVIRONMENT" in one["data"]]
    return settings, re.findall(r"configMapRef:\n +name: (\S+)$", text, re.MULTILINE)


@kustomized
@pytest.mark.slow(reason="overlays are rendered")
def test_every_pod_has_the_image_and_reads_the_settings_of_its_release(machine: Machine) -> None:
    image, names = f"localhost/{NAME}:1234567e8901", []  # which YAML may take for a number
    file = machine.tree / "k8s" / "overlays" / "dev" / "settings.env"
    for chosen, added in ((IMAGE, ""), (image, ""), (image, "JOB_TTL=60\n")):
        file.write_text(file.read_text() + added)
        text = rendered(machine, "dev", chosen)
        assert set(re.findall(rf"image: (\S*{NAME}\S*)$", text, re.MULTILINE)) == {chosen}
        assert re.search(rf'^    {NAME}/release: "?[0-9a-f]{{12}}"?$', text, re.MULTILINE)
        settings, readers = settings_and_readers(text)
        assert settings["immutable"] is True
        assert readers == [settings["metadata"]["name"]] * 4  # head and three groups
        names.append(settings["metadata"]["name"])
    assert names[0] == names[1], "with the same settings an image alone changes no name"
    assert names[0] != names[2], "others do not take the place of those that are read"


@kustomized
def test_by_hand_the_settings_have_the_name_that_the_service_asks_for(machine: Machine) -> None:
    settings, readers = settings_and_readers(built(machine))
    assert {settings["metadata"]["name"], *readers} == {NAME}


@kustomized
@pytest.mark.parametrize("component", COMPONENTS)
def test_a_component_demands_no_secret_that_nobody_knows_how_to_make(machine: Machine, component: str) -> None:
    overlay = machine.tree / "k8s" / "overlays" / "dev"
    with (overlay / "site.env").open("a") as file:
        file.write("".join(f"{name}={value}\n" for name, value in PARAMETERS.items()))
    with_component(machine, component)
    if (ROOT / "k8s" / "service" / "components" / component).exists():
        with (machine.tree / "k8s" / "service" / "dev" / "kustomization.yaml").open("a") as file:
            file.write(f"components: [../components/{component}]\n")
    needed = {} if component == "external-secrets" else dict(MADE_FOR_DEVELOPMENT)
    if component == "postgres-ca":
        needed["postgres-ca"] = {"ca.crt"}  # whoever has the server has its authority: k8s/secrets.yaml
    assert render.secret_keys(render.documents(built(machine))) == needed
    listed = yaml.safe_load((ROOT / "k8s" / "secrets.yaml").read_text())["secrets"]
    assert {name: keys - set(listed[name]) for name, keys in needed.items()} == {name: set() for name in needed}


def with_component(machine: Machine, component: str) -> None:
    around = machine.tree / "k8s" / "overlays" / "dev" / "kustomization.yaml"
    around.write_text(around.read_text().replace("components: [", f"components: [../../components/{component}, "))


@kustomized
def test_what_belongs_to_the_edge_is_not_drawn_into_the_namespace(machine: Machine) -> None:
    with_component(machine, "service-mesh")
    text = rendered(machine, "dev", IMAGE)
    where = {one["kind"]: one["metadata"].get("namespace", "none") for one in render.documents(text)}
    assert where.pop("EnvoyFilter") == "ingress-nginx"
    assert where.pop("Namespace") == "none"
    assert set(where.values()) == {NAME}


@kustomized
def test_a_mesh_is_for_the_namespace_that_its_accounts_name(machine: Machine) -> None:
    with_component(machine, "service-mesh")
    with pytest.raises(AssertionError, match=r"lead out of the namespace trial.*/sa/gateway"):
        rendered(machine, "dev", IMAGE, "--namespace", "trial")


@kustomized
@pytest.mark.slow(reason="overlays are rendered and checked")
def test_prod_is_applied_when_a_site_has_filled_it_in_and_its_check_finds_nothing(machine: Machine) -> None:
    machine.write("k8s/prod.local.env", "CONTEXT=lab\n")
    overlay, image = machine.tree / "k8s" / "overlays" / "prod", f"registry.lab/{NAME}@{DIGEST}"

    def refused() -> str:
        released(machine, "prod", image)
        done = machine.run("deploy", "--env", "prod")
        assert done.returncode == 2
        return done.stderr

    assert "the manifests of prod still hold REPLACE-ME" in refused()
    settings, kustomization = overlay / "settings.env", overlay / "kustomization.yaml"
    (overlay / "site.env").write_text(SITE)
    settings.write_text(settings.read_text().replace("REPLACE-ME.example.org", "login.facility.org"))
    kustomization.write_text(re.sub(r"sha256:REPLACE-ME[\w-]*", DIGEST, kustomization.read_text()))
    assert "checked before they are applied, and that needs: make setup" in refused()
    python = machine.write(".venv/bin/python", "#!/bin/sh\necho redis claims no volume\nexit 1\n")
    python.chmod(0o755)
    assert "prod refuses these manifests:\nredis claims no volume\n" in refused()
    python.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT}{os.pathsep}{ROOT}/scripts exec {sys.executable} "$@"\n')
    shutil.copy(ROOT / "scripts" / "check_manifests.py", machine.tree / "scripts")
    text = rendered(machine, "prod", image)
    assert set(re.findall(r"^ +image: (\S+)$", text, re.MULTILINE)) == {image, f"valkey/valkey@{DIGEST}"}


@kustomized
def test_config_shows_what_the_settings_come_to_and_no_password(machine: Machine) -> None:
    settings = machine.tree / "k8s" / "overlays" / "dev" / "settings.env"
    settings.write_text(settings.read_text() + "TRACES_ENDPOINT=http://me:word@collector:4318\n")
    machine.write("k8s/dev.local.env", "BUILD_TORCH=pypi\nBUILD_PIP_INDEX_URL=https://me:word@index.lab\n")
    done = machine.run("config")
    for text in ("CONTEXT          kind-", "TORCH=pypi", "MODEL_SOURCE     demo", "http://********@collector:4318"):
        assert text in done.stdout
    assert "word" not in done.stdout


def test_the_build_is_given_arguments_that_it_knows(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.write("k8s/overlays/stage/settings.env", "MODEL_SOURCE=private\nMODEL_ID=lab/model\nMODEL_REVISION=v3\n")
    machine.write("k8s/stage.local.env", "CONTEXT=lab\nREGISTRY=r\n" + "".join(f"BUILD_{one}=x\n" for one in BUILD))
    printed = machine.run("image", "--env", "stage", "--dry-run").stdout
    given = set(re.findall(r"--build-arg (\w+)=", printed))
    text = CONTAINERFILE.read_text("utf-8")
    assert len(given) == 6 + len(BUILD) - 1  # the index of packages is a secret
    assert given - set(re.findall(r"^ARG (\w+)", text, re.MULTILINE)) == set()
    assert re.findall(r"--secret id=(\w+),", printed) == ["pip_index_url"]
    assert "--mount=type=secret,id=pip_index_url" in text
