"""What `scripts/cluster` refuses before anything is changed, and what a dry run prints."""

from __future__ import annotations

import json
import re
import shutil
import venv
from pathlib import Path

import pytest
from cluster_world import ROOT, Machine, Rule, Tools, entry, items, namespace, ray_service, release, rule
from operations import command_line, kind
from operations import tools as programs
from operations.deploy import Removal, ensure_namespace
from operations.steps import StepFailed
from operations.target import HERE, KIND, NAME, PROTECTED

PRODUCTION = "ENVIRONMENT=prod\nMODEL_SOURCE=hugging_face\nMODEL_ID=org/model\nMODEL_REVISION=" + "4d" * 20 + "\n"
PLACE = f"CONTEXT=lab\nREGISTRY=registry.lab\nBUILD_BASE=registry.lab/ray@sha256:{'0' * 64}\n"
VARIED = {
    "logs": ["gateway", "redis", "operator"],
    "restart": ["service", "head", "redis"],
    "deploy": ["", "--rebuild"],
}
DRY = [f"{command} {word}" for command in command_line.COMMANDS for word in VARIED.get(command, [""])]


@pytest.mark.parametrize("context", [KIND + NAME, HERE + NAME])
@pytest.mark.parametrize("command", DRY)
def test_a_dry_run_starts_no_program_and_writes_no_file(tmp_path: Path, command: str, context: str) -> None:
    machine = Machine(tmp_path)
    shutil.copytree(ROOT / "scripts" / "node", machine.tree / "scripts" / "node")
    files = set(machine.tree.rglob("*"))
    done = machine.run(*command.split(), "--dry-run", "--context", context)
    assert done.returncode == 0, done.stderr
    assert [path for path in set(machine.tree.rglob("*")) - files if "__pycache__" not in str(path)] == []
    assert done.stdout.strip()
    assert [line for line in done.stderr.splitlines() if not line.strip()] == []
    named = [line for line in re.findall(r"kubectl .*", done.stdout) if "kustomize" not in line.partition("|")[0]]
    assert [line for line in named if f"--context {context} " not in line and "--client" not in line] == []


def test_without_pyyaml_it_runs_in_the_environment_of_the_checkout_or_says_what_to_install(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    del machine.environment["PYTHONPATH"]
    done = machine.run("status", "--dry-run")
    assert done.returncode == 1
    assert done.stderr.startswith("error: PyYAML is needed: make setup, or install")
    machine.write(".venv/bin/python", '#!/bin/sh\necho "in .venv: $*"\n').chmod(0o755)
    script = machine.tree / "scripts" / "cluster"
    assert machine.run("status", "--dry-run").stdout == f"in .venv: {script} status --dry-run\n"
    venv.create(machine.tree / ".venv", clear=True)  # as a set-up leaves it that did not end
    assert machine.run("status", "--dry-run").stderr == done.stderr


def test_a_reset_deletes_nothing_before_the_image_is_there(tmp_path: Path) -> None:
    said = Machine(tmp_path).run("reset", "--dry-run").stdout
    assert said.index("podman build") < said.index("kind load") < said.index("delete rayservice")


def test_a_service_and_an_operator_elsewhere_are_asked_where_they_are(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.write("k8s/overlays/dev/site.env", "OPERATOR_NAMESPACE=platform\n")
    assert "--namespace platform --create-namespace" in machine.run("install", "--dry-run").stdout
    assert "--namespace platform logs" in machine.run("logs", "operator", "--dry-run").stdout
    machine.write("k8s/stage.local.env", "CONTEXT=lab\nSERVICE_URL=https://sem.lab/\n")
    machine.environment["SEMAPI_TOKEN"] = "mine"
    assert "POST https://sem.lab/api/v1/jobs" in machine.run("smoke", "--env", "stage", "--dry-run").stdout


STAGE = [
    ("", "status", "stage needs to be told its cluster: --context NAME, or CONTEXT=NAME in k8s/stage.local.env"),
    ("CONTEXT=lab\nREGISTRI=r\n", "status", "stage.local.env: REGISTRI is no setting; there are NAMESPACE, CONTEXT,"),
    ("CONTEXT=lab\nwhat is this\n", "status", "stage.local.env:2: NAME=value is wanted"),
    ("CONTEXT=lab\nNAMESPACE=No_Name\n", "status", "'No_Name' is no name for a namespace"),
    ("CONTEXT=lab\n", "image", "stage needs REGISTRY"),
    ("CONTEXT=lab\n", "token alice", "its tokens come from your identity provider"),
    ("CONTEXT=lab\n", "smoke", "stage has no development issuer: set SEMAPI_TOKEN to a token of your own"),
    ("CONTEXT=lab\n", "deploy", "there is no release of stage on this machine yet: scripts/cluster"),
    ("CONTEXT=lab\n", "deploy --release dev.json", "dev.json is a release of dev, not of stage"),
    ("CONTEXT=lab\n", "up", "lab is not on this machine: this program neither makes nor deletes it"),
    ("CONTEXT=lab\n", "down --yes", "lab is not on this machine: this program neither makes nor deletes it"),
]
PROD = [
    ("MODEL_SOURCE=demo\n", PLACE, "image", "prod does not serve the demo model"),
    (PRODUCTION.replace("4d" * 20, "main"), PLACE, "image", "prod wants MODEL_REVISION as a commit"),
    (PRODUCTION.replace("MODEL_ID=org/model\n", ""), PLACE, "image", "MODEL_SOURCE=hugging_face needs MODEL_ID"),
    (PRODUCTION, "CONTEXT=lab\nREGISTRY=r\n", "image", "prod is built on an image that cannot change"),
    (PRODUCTION, PLACE, "image", "prod is built from a clean checkout"),
    (PRODUCTION, PLACE, "reset --yes", "prod is not deleted by this program"),
    (PRODUCTION, PLACE, "remove --yes", "prod is not deleted by this program"),
]
ROWS = [
    *(("stage", "ENVIRONMENT=stage\nMODEL_SOURCE=demo\n", *row) for row in STAGE),
    *(("prod", *row) for row in PROD),
    ("dev", "MODEL_SOURCE=private\nMODEL_ID=lab/other\n", "", "deploy --release dev.json", "names private lab/other"),
    ("dev", "MODEL_SOURCE=demo\n", "", "image", "is not read: write it to k8s/overlays/dev/settings.env"),
    *(
        ("dev", "", "", f"{command} --yes --namespace sem-prod", "the namespace sem-prod is protected")
        for command in ("reset", "remove")
    ),
]


@pytest.mark.parametrize(("environment", "settings", "local", "command", "says"), ROWS)
def test_what_is_refused_before_any_program_is_started(
    tmp_path: Path, environment: str, settings: str, local: str, command: str, says: str
) -> None:
    """There is none: a program that is not there would be the message."""
    machine = Machine(tmp_path)
    machine.write(f"k8s/overlays/{environment}/settings.env", settings)
    machine.write(f"k8s/{environment}.local.env", local)
    file = str(machine.write("dev.json", json.dumps(release())))
    if "is not read" in says:
        machine.environment["MODEL_ID"] = "org/other"
    done = machine.run(*command.replace("dev.json", file).split(), "--env", environment)
    assert done.returncode in (1, 2)
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_protected_namespaces() -> None:
    protected = "default kube-system kube-public kube-node-lease storage-system prod sem-prod prod-sem production live"
    protected += " kuberay-system istio-system ingress-nginx cert-manager monitoring"
    assert [name for name in protected.split() if not PROTECTED.fullmatch(name)] == []
    others = f"{NAME} sem sem-stage products reproduction alive kubectl-tests"
    assert [name for name in others.split() if PROTECTED.fullmatch(name)] == []


FOREIGN = [rule("get namespace", namespace(team="billing"))]
OURS = [rule("get namespace", namespace()), rule("kind get clusters", f"{NAME}\n")]
ONE = [rule("get configmaps", items(entry("aaa", "1"))), rule("get rayservice", ray_service(mark="aaa"))]
ASKED: list[tuple[str, list[Rule], str]] = [
    ("upgrade", [rule("get rayservice", ray_service(ready=False))], "there is no healthy service to upgrade"),
    ("rollback", ONE, "there is no earlier release in the cluster; there are: aaa"),
    ("rollback zzz", ONE, "there is no release zzz in the cluster"),
    *((f"{word} --yes --namespace argocd", FOREIGN, "was not made for this service") for word in ("reset", "remove")),
    ("remove --yes", FOREIGN, f"label namespace {NAME} app.kubernetes.io/part-of={NAME}"),
    ("reset --yes", [*OURS, rule("get configmaps .*ENVIRONMENT", "dev prod")], "calls itself prod"),
    *((command, OURS, "--yes does it without asking") for command in ("reset", "remove", "down")),
    ("install --context lab", [rule("get deployments", status=1, errors="Forbidden")], "Forbidden"),
]


@pytest.mark.parametrize(("command", "rules", "says"), ASKED)
def test_what_is_refused_for_what_is_in_the_cluster(tmp_path: Path, command: str, rules: list[Rule], says: str) -> None:
    machine = Machine(tmp_path, "kubectl", "kind")
    machine.answer(*rules)
    done = machine.run(*command.split())
    assert done.returncode in (1, 2)
    assert says in done.stderr
    assert machine.changes == []


def test_a_namespace_that_came_in_the_place_of_the_permitted_one_is_not_deleted_and_one_of_others_not_filled(
    tools: Tools,
) -> None:
    removal = Removal(tools.work())
    tools.answer(rule("get namespace", namespace("first")))
    removal.permit()
    tools.answer(rule("get namespace", namespace("second")))
    for step in (removal.service, removal.namespace):
        with pytest.raises(StepFailed, match="was made anew since it was confirmed: nothing in it is deleted"):
            step()
    tools.answer(*FOREIGN)
    with pytest.raises(StepFailed, match="was not made for this service"):
        ensure_namespace(tools.work())
    assert tools.changes == []


@pytest.mark.parametrize("nodes", [[], [{"status": {}}]])
def test_a_kind_cluster_of_another_name_is_deleted_if_it_was_made_here(
    tools: Tools, nodes: list[dict[str, object]]
) -> None:
    tools.have("kind")
    assert f"{NAME}/cluster: made" in (ROOT / "k8s" / "kind.yaml").read_text()
    label = f"get nodes --selector {NAME}/cluster=made"
    tools.answer(rule("kind get clusters", "lab\n"), rule(label, items(*nodes)))
    if nodes:
        kind.down(tools.work())
    else:
        with pytest.raises(StepFailed, match="was not made by this program"):
            kind.down(tools.work())
    assert tools.changes == ["kind delete cluster --name lab"] * len(nodes)


VERSIONS = [
    rule("kubectl version", {"clientVersion": {"gitVersion": "v1.33.1"}}),
    rule("podman version", "5.4.2\n"),
    rule("helm version", "v3.9.1+g1\n"),
    rule("--context lab .* version", {"serverVersion": {"gitVersion": "v1.30.9"}}),
]


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ("dev", ["helm is 3.9, 3.12 is needed (installs KubeRay): ", "kind is not installed", "kind.sigs.k8s.io"]),
        ("stage", ["the cluster runs Kubernetes 1.30; 1.31 is needed", "helm is 3.9"]),
    ],
)
def test_all_that_is_missing_or_too_old_is_named_at_once(tools: Tools, environment: str, says: list[str]) -> None:
    tools.have("podman")
    tools.answer(*VERSIONS)
    with pytest.raises(StepFailed) as error:
        programs.check(tools.work(environment))
    assert [text for text in says if text not in str(error.value)] == []


OVERLAY = """data:
  text: |
    apiVersion: nobody/v1
    kind: Nothing
---
apiVersion: external-secrets.io/v1
kind: ExternalSecret
---
apiVersion: monitoring.coreos.com/v1
kind: PodMonitor
---
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
"""
SECRETS = "externalsecrets   es    external-secrets.io/v2         true   ExternalSecret\n"
KINDS = f"""{SECRETS}podmonitors       pmon  monitoring.coreos.com/v1       true   PodMonitor
prometheusrules         monitoring.coreos.com/v1       true   PrometheusRule
"""
GROUPS = "external-secrets.io/v2\nmonitoring.coreos.com/v1\nv1\n"


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ([rule("api-resources", KINDS, status=1, errors="metrics.k8s.io/v1beta1 is away\n")], ""),
        ([rule("api-resources", SECRETS)], "no PodMonitor and no PrometheusRule of monitoring.coreos.com/v1: the Prom"),
        ([rule("api-versions", GROUPS)], "no ExternalSecret of external-secrets.io/v1: the External Secrets operator"),
        ([rule("api-resources", status=1, errors="Forbidden\n")], "lab does not list its kinds: Forbidden"),
        ([rule("kustomize", status=1, errors="no such file\n")], "stage cannot be built: no such file"),
    ],
)
def test_kinds_that_the_cluster_does_not_know_are_named_with_where_they_come_from(
    tools: Tools, rules: list[Rule], says: str
) -> None:
    served = rule("api-versions", GROUPS + "external-secrets.io/v1\n")
    tools.answer(*rules, rule("kustomize", OVERLAY), rule("api-resources", KINDS), served)
    told = programs.unknown_kinds(tools.work("stage"))
    assert [says in line for line in told] == [True] * bool(says)
