"""`scripts/cluster` when something fails that a real cluster cannot be brought to: what was done, what to run next."""

from __future__ import annotations

import base64
import json
import re
import shlex
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cluster_world import IMAGE, IMAGE_ID, Machine, Tools, entry, items, ray_cluster, ray_service, rule
from operations import access, kuberay
from operations import release as releases
from operations.deploy import Rollback, ensure_secrets, enter, resized
from operations.steps import Interrupted, Step, StepFailed, carry_out
from operations.target import NAME, Model, Target


@pytest.mark.parametrize("fault", [StepFailed("the reason"), KeyboardInterrupt()])
def test_a_failure_in_the_middle_says_what_was_done_and_how_to_go_on_as_it_can_be_typed(fault: BaseException) -> None:
    def breaks() -> str:
        raise fault

    file = "of today's.json"
    command = shlex.join(["deploy", "--release", file])
    steps = [Step("first", "one", str), Step("second", command, breaks), Step("third", command, str)]
    target = Target("stage", Model("demo"), options=("--context", "lab", "--namespace", "trial"))
    with pytest.raises(StepFailed) as error:
        carry_out(target.command, [*steps, Step("fourth", "smoke", str)], dry=False)
    reason, done, left, after = str(error.value).splitlines()
    assert reason in ("second: the reason", "second: interrupted")
    assert (done, left) == ("done:     first", "not done: second, third, fourth")
    options = ["--env", "stage", *target.options]
    words = [shlex.split(one)[1:] for one in after.removeprefix("next:     ").split(", then ")]
    assert words == [["deploy", "--release", file, *options], ["smoke", *options]]
    assert isinstance(error.value, Interrupted) == isinstance(fault, KeyboardInterrupt)


@pytest.mark.slow(reason="a pause before the second attempt")
def test_an_answer_that_fails_once_is_asked_for_again_and_what_never_served_is_no_release(tools: Tools) -> None:
    run, serves = tools.work(), replace(releases.SHOWN, image=IMAGE)
    tools.answer(rule("get rayservice", "no json"))
    with pytest.raises(StepFailed, match="returned something else than JSON: 'no json'"):
        enter(run, serves, "manifests", "mark")
    assert tools.changes == []
    refused = rule("get rayservice", status=1, errors="connection refused\n", once=True)
    well = [rule("get rayservice", ray_service()), rule("get raycluster", ray_cluster()), rule("json", items())]
    tools.answer(refused, *well)
    assert enter(replace(run, timeout_s=60.0), serves, "manifests", "mark") == "4 endpoints serve"
    assert " apply " in tools.changes[0]


def test_a_command_without_end_is_ended_at_its_deadline(tools: Tools) -> None:
    tools.answer(rule("get nodes", stays_s=60))
    run = tools.work()
    began = time.monotonic()
    with pytest.raises(StepFailed, match=r"kubectl get nodes gave no answer within 0.5 s and was ended"):
        run.read(["kubectl", "get", "nodes"], deadline_s=0.5)
    assert time.monotonic() - began < 30


def test_an_interrupt_ends_what_runs(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "podman")
    machine.answer(rule("podman build", stays_s=60, files={str(tmp_path / "begun"): ""}))
    with machine.start("image") as process:
        while not (tmp_path / "begun").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors == "error: image: interrupted\nnext:     scripts/cluster image\n"


def test_a_fault_of_the_program_itself_is_one_line_too(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "kubectl")
    machine.answer(rule("get rayservice", {"metadata": {}, "status": {"conditions": 7}}), rule("json", items()))
    done = machine.run("status")
    assert done.returncode == 70
    assert "error: a fault of this program: " in done.stderr
    assert "Traceback" in (machine.tree / "build" / "cluster" / "fault.log").read_text()


@pytest.mark.parametrize(
    ("status", "label", "says"),
    [("COMPLETED", "Fibres", "says Fibres, and the sample shows nanowires"), ("FAILED", "", "ended FAILED: it broke")],
)
def test_a_smoke_test_fails_for_what_is_wrong(status: str, label: str, says: str) -> None:
    result = {"label": label, "model": {"demo": True}}
    with pytest.raises(StepFailed, match=says):
        access.check({"job_id": "7", "status": status, "result": result, "problem": {"detail": "it broke"}})


def test_sizes_reach_the_cluster_that_serves_and_an_old_one_of_other_groups_is_left_alone(tools: Tools) -> None:
    def cluster(name: str, group: str, most: int) -> dict[str, Any]:
        groups = [{"groupName": group, "minReplicas": 1, "maxReplicas": most}]
        return {"metadata": {"name": name}, "spec": {"workerGroupSpecs": groups}}

    service = ray_service()
    service["spec"]["rayClusterConfig"] |= cluster("", "models", 8)["spec"]
    clusters = items(cluster("green", "models", 4), cluster("blue", "decoders", 4), cluster("new", "models", 8))
    tools.answer(rule("get rayservice", service), rule("get rayclusters", clusters))
    with resized(tools.work()):
        pass
    [change] = tools.changes
    assert "patch raycluster green --type=json" in change
    assert json.loads(change.partition("--patch=")[2]) == [
        {"op": "replace", "path": "/spec/workerGroupSpecs/0/maxReplicas", "value": 8}
    ]


def test_a_rollback_that_failed_is_repeated_to_the_same_release(tools: Tools) -> None:
    entries = items(entry("bbb", "2"), entry("aaa", "1"))
    back = Rollback(tools.work(), "")
    assert back.command() == "rollback"
    serving = rule("get rayservice", ray_service(mark="bbb"))
    tools.answer(rule("get configmaps", entries), serving, rule("get rayclusters", items()))
    back.find()
    assert back.command() == "rollback aaa"
    back.apply()
    assert "manifests of aaa\n" in [asked["stdin"] for asked in tools.asked]


def operator(version: str = "1.7.0", namespace: str = "kuberay-system") -> dict[str, Any]:
    tag = f":v{version}" if version else "@sha256:" + "5a" * 32
    containers = [{"image": f"quay.io/kuberay/operator{tag}"}]
    return {"metadata": {"namespace": namespace}, "spec": {"template": {"spec": {"containers": containers}}}}


UPGRADE = ["apply --server-side --force-conflicts --filename -", "helm upgrade"]


@pytest.mark.parametrize(
    ("found", "environment", "says", "does"),
    [
        ([operator("1.7.0", "platform")], "dev", "write OPERATOR_NAMESPACE=platform to k8s/overlays/dev/site.env", []),
        ([operator("")], "dev", "of a version that its image does not tell runs in kuberay-system", []),
        ([operator("1.5.1")], "dev", "after 1.5.1", UPGRADE),
        ([operator("1.5.1")], "stage", "1.5.1 becomes 1.7.0 for every RayService and RayCluster at lab", []),
        ([operator("1.8.0")], "dev", "KubeRay 1.8.0 runs in kuberay-system, and 1.7.0 is wanted", []),
    ],
)
def test_an_operator_that_is_there_is_kept_upgraded_with_its_definitions_or_left_alone(
    tools: Tools,
    found: list[dict[str, Any]],
    environment: str,
    says: str,
    does: list[str],
) -> None:
    tools.answer(rule("get deployments --all-namespaces", items(*found)), rule("show crds", "kind: X\n"))
    try:
        said = kuberay.install(tools.work(environment, yes=False))
    except StepFailed as error:
        said = str(error)
    assert says in said
    assert [word in line for word, line in zip(does, tools.changes, strict=True)] == [True] * len(does)


NEEDED = f"""kind: RayService
authOptions:
  mode: token
  secretName: {NAME}-ray
env:
- valueFrom:
    secretKeyRef:
      key: redis-url
      name: {NAME}
- valueFrom:
    secretKeyRef:
      key: password
      name: redis
"""
TLS = "---\nkind: Certificate\nmetadata:\n  name: redis-tls\nspec:\n  secretName: redis-tls\n"


@pytest.mark.parametrize(
    ("more", "there", "url"),
    [
        ("", "", r"redis://:([\w-]{32})@redis:6379/0"),
        ("", "redis password\n", r"redis://:(secret-of-before)@redis:6379/0"),
        (TLS, "", r"rediss://:([\w-]{32})@redis:6379/0\?ssl_ca_certs=/run/secrets/redis-ca/ca.crt"),
    ],
)
def test_secrets_of_development_are_random_kept_and_never_shown(
    tools: Tools,
    capfd: pytest.CaptureFixture[str],
    more: str,
    there: str,
    url: str,
) -> None:
    kept = {"data": {"password": base64.b64encode(b"secret-of-before").decode()}}
    tools.answer(rule("get secrets", there), rule("get secret redis", kept))
    work = replace(tools.work(), verbose=True)
    said = ensure_secrets(work, NEEDED + more)
    values = {one["metadata"]["name"]: one["stringData"] for one in json.loads(tools.asked[-1]["stdin"])["items"]}
    assert set(values) == {NAME, f"{NAME}-ray"} | ({"redis"} if not there else set())
    password = re.fullmatch(url, values[NAME]["redis-url"])[1]  # type: ignore[index]
    assert there or values["redis"]["password"] == password
    shown = "".join([said, *capfd.readouterr(), *(one["line"] for one in tools.asked)])
    assert not any(value in shown for secret in values.values() for value in secret.values())


def test_secrets_of_prod_are_demanded_and_never_made(tools: Tools) -> None:
    whole = "volumes:\n- name: x\n  secret:\n    secretName: whole\n"
    tools.answer(rule("get secrets", "redis password\n"))
    with pytest.raises(StepFailed) as error:
        ensure_secrets(tools.work("prod"), NEEDED + whole)
    made = re.findall(r"create secret generic (.*)", str(error.value))
    ours = f"{NAME} --from-file=redis-url=FILE", f"{NAME}-ray --from-file=auth_token=FILE"
    assert made == [*ours, "whole --from-file=FOLDER"]
    assert tools.changes == []


def test_old_entries_leave_the_cluster_with_settings_that_nobody_reads(tools: Tools) -> None:
    kept, oldest, serving, failed = (f"{NAME}-{mark * 12}" for mark in "abcd")
    entries = [entry(f"{n:02}", f"{n:02}") for n in range(12)]
    for old, settings in ((entries[11], kept), (entries[0], oldest)):
        old["data"]["manifests.yaml"] += f"- configMapRef:\n    name: {settings}\n"
    too_late = {"spec": {"envFrom": [{"configMapRef": {"name": serving}}]}}
    there = [{"metadata": {"name": name}} for name in (kept, oldest, serving, failed, NAME)]
    tools.answer(
        rule("get configmaps .*component=settings", items(*there)),
        rule("get configmaps .*component=release", items(*entries)),
        rule("get rayclusters", items(too_late)),
    )
    releases.record(tools.work(), releases.SHOWN, "manifests", "00")
    gone = [line.rpartition("delete configmap ")[2] for line in tools.changes if "delete configmap" in line]
    dropped = (f"{NAME}-release-01", f"{NAME}-release-00", oldest, failed)
    assert gone == [f"{name} --ignore-not-found" for name in dropped]


@pytest.mark.parametrize("builder", ["podman", "docker"])
def test_an_image_of_a_registry_has_its_digest_and_no_password_of_an_index(tmp_path: Path, builder: str) -> None:
    machine, digest, folder = Machine(tmp_path, builder), f"sha256:{'ef56' * 16}", "build/cluster/stage"
    machine.write("k8s/overlays/stage/settings.env", "MODEL_SOURCE=private\nMODEL_ID=lab/model\n")
    local = "CONTEXT=lab\nREGISTRY=registry.lab\nHF_TOKEN_FILE=token\nBUILD_PIP_INDEX_URL=https://me:word@index.lab\n"
    machine.write("k8s/stage.local.env", local)
    machine.answer(
        rule("^\\w+ build", files={f"{folder}/image-id": f"sha256:{IMAGE_ID}\n"}),
        rule("podman push", files={f"{folder}/digest": digest}),
        rule("docker image inspect", f'["other@sha256:1", "registry.lab/{NAME}@{digest}"]'),
    )
    done = machine.run("image", "--env", "stage")
    assert f"registry.lab/{NAME}@{digest}" in done.stderr, done.stderr
    lines = [one["line"] for one in machine.asked]
    assert "--build-arg MODEL_ID=lab/model" in lines[0]
    assert f"--secret id=hf_token,src=token --secret id=pip_index_url,src={folder}/pip-index-url ." in lines[0]
    assert lines[1] == f"{builder} tag {IMAGE_ID} registry.lab/{NAME}:{IMAGE_ID[:12]}"
    assert not (machine.tree / folder / "pip-index-url").exists()
    printed = machine.run("image", "--env", "stage", "--dry-run").stdout
    assert "word" not in "".join([done.stdout, done.stderr, printed, *lines])
