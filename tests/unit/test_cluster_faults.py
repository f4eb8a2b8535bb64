"""`scripts/cluster` when something fails: what was done, what was not, what to run next; never a stack trace."""

from __future__ import annotations

import shlex
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import cluster_world
from tests.cluster_world import IMAGE, NAME, Machine, Service, entry, items, ray_service, rule

LACKING = {
    "metadata": {"name": "models-1", "labels": {"ray.io/cluster": "green"}},
    "status": {
        "phase": "Pending",
        "containerStatuses": [
            {
                "name": "ray-worker",
                "image": "localhost/x:1",
                "state": {
                    "waiting": {"reason": "ErrImageNeverPull", "message": "not present with pull policy of Never"}
                },
            }
        ],
    },
}


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with cluster_world.machine(tmp_path) as made:
        yield made


STEPS = ["tools", "cluster", "KubeRay", "image", "manifests", "namespace", "secrets", "surroundings", "servers"]
STEPS += ["tables", "service", "readiness", "smoke test"]


@pytest.mark.parametrize(
    ("broken", "step", "command"),
    [
        ("helm upgrade", "KubeRay", "install, then scripts/cluster image, then scripts/cluster deploy"),
        ("podman build", "image", "image, then scripts/cluster deploy, then scripts/cluster smoke"),
        ("dry-run=server", "surroundings", "deploy, then scripts/cluster smoke"),
        (f"port-forward service/{NAME}", "smoke test", "smoke"),
    ],
)
def test_a_failure_in_the_middle_says_what_was_done_and_how_to_go_on(
    machine: Machine, broken: str, step: str, command: str
) -> None:
    machine.first(rule(broken, status=3, errors="first line\nthe reason of it\n"))
    done = machine.run("all")
    assert done.returncode == 1
    error = done.stderr[done.stderr.index("error: ") :]
    number = STEPS.index(step)
    assert error.startswith(f"error: {step}: ")
    assert f"done:     {', '.join(STEPS[:number])}\n" in error
    assert f"not done: {', '.join(STEPS[number:])}\n" in error
    assert f"next:     scripts/cluster {command}" in error
    assert "the reason of it" in done.stderr
    assert broken.split()[0] in machine.lines[-1]  # nothing was begun after it


def test_the_next_commands_can_be_typed_as_they_are(machine: Machine) -> None:
    machine.settings("stage", "ENVIRONMENT=stage\n")
    machine.local("stage", "REGISTRY=r\n")
    machine.first(rule("podman build", status=1, errors="no space left\n"))
    done = machine.run("all", "--env", "stage", "--context", "lab", "--namespace", "trial")
    [said] = [line.removeprefix("next:     ") for line in done.stderr.splitlines() if line.startswith("next:")]
    commands = [shlex.split(command) for command in said.split(", then ")]
    assert [command[1] for command in commands] == ["image", "deploy", "smoke"]
    machine.environment["SEMAPI_TOKEN"] = "t"
    for _, *words in commands:
        printed = machine.run(*words, "--dry-run")
        assert printed.returncode == 0, printed.stderr
        assert "--context lab --namespace trial " in printed.stdout or "podman push" in printed.stdout


def test_the_next_command_names_a_file_with_a_blank_in_its_name(machine: Machine) -> None:
    machine.run("image")
    file = (machine.tree / "build" / "releases" / "release-dev-latest.json").resolve()
    moved = file.rename(machine.tree / "of today.json")
    machine.first(rule("create --filename build", status=1, errors="forbidden\n"))
    done = machine.run("deploy", "--release", str(moved))
    [said] = [line.removeprefix("next:     ") for line in done.stderr.splitlines() if line.startswith("next:")]
    assert shlex.split(said)[1:] == ["deploy", "--release", str(moved)]


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ([rule("get job migrate", {"status": {"conditions": [{"type": "Failed", "status": "True"}]}})], "no such role"),
        (
            [
                rule("get rayservice", ray_service(ready=False)),
                rule("get pods", items(LACKING)),
            ],
            "pod models-1 has no image localhost/x:1: not present with pull policy of Never",
        ),
        ([rule("get rayservice", ray_service(generation=0))], "not ready after "),
        ([rule("get raycluster", cluster_world.ray_cluster("localhost/old:1"))], "not ready after "),
        ([rule("get rayservice", "no json")], "printed something else than JSON: 'no json'"),
    ],
)
def test_a_service_that_does_not_become_ready_is_explained(
    machine: Machine, answers: list[dict[str, object]], says: str
) -> None:
    machine.first(*answers, rule("logs job/migrate", errors="no such role\n", status=1))
    done = machine.run("all", "--timeout", "1")
    assert done.returncode == 1
    assert says in done.stderr
    assert not any('"ConfigMap"' in one["stdin"] for one in machine.asked), "what never served is no release"


def test_an_api_server_that_is_away_for_a_moment_ends_nothing(machine: Machine) -> None:
    machine.first(rule("get rayservice", status=1, errors="connection refused\n", once=True))
    done = machine.run("all")
    assert done.returncode == 0, done.stderr
    assert "connection refused" in done.stderr


def test_an_upgrade_that_does_not_come_up_says_that_the_old_release_still_serves(machine: Machine) -> None:
    conditions = [{"type": "Ready", "status": "True"}, {"type": "UpgradeInProgress", "status": "True"}]
    coming = {
        "rayClusterName": "blue",
        "applicationStatuses": {NAME: {"status": "DEPLOY_FAILED", "message": "no model"}},
    }
    stuck = ray_service(conditions=conditions, pendingServiceStatus=coming)
    machine.run("all")
    machine.forget()
    machine.first(
        rule("get rayservice", ray_service(), once=True, before="build"),
        rule("get rayservice", stuck, after="podman build"),
    )
    done = machine.run("upgrade", "--timeout", "1")
    assert done.returncode == 1
    assert "the application sem-image-classifier is DEPLOY_FAILED: no model" in done.stderr
    assert "the release before still serves; scripts/cluster rollback takes the new one back" in done.stderr


def test_a_command_without_end_is_ended_at_its_deadline(machine: Machine) -> None:
    code = "from operations.runner import Runner\nRunner(dry=False).read(['kubectl', 'get', 'nodes'], deadline_s=0.5)"
    machine.first(rule("get nodes", stays_s=60))
    (machine.tree / "scripts" / "cluster").write_text(
        "from operations.failure import Failed\nimport sys\n"
        f"try:\n    exec({code!r})\nexcept Failed as error:\n    sys.exit(str(error))\n"
    )
    began = time.monotonic()
    done = machine.run()
    assert "kubectl get nodes gave no answer within 0.5 s and was ended" in done.stderr
    assert time.monotonic() - began < 30


def test_an_interrupt_ends_what_runs_and_tells_what_was_done(machine: Machine, tmp_path: Path) -> None:
    machine.first(rule("podman build", stays_s=60, files={str(tmp_path / "begun"): ""}))
    with machine.start("all") as process:
        while not (tmp_path / "begun").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "error: image: interrupted\ndone:     tools, cluster, KubeRay\n" in errors
    assert "next:     scripts/cluster image" in errors


def test_a_fault_of_the_program_itself_is_one_line_too(machine: Machine) -> None:
    machine.first(rule("get rayservice", {"metadata": {}, "status": {"conditions": 7}}))
    done = machine.run("status")
    assert done.returncode == 70
    assert "error: a fault of this program: " in done.stderr
    assert "Traceback" in (machine.tree / "build" / "cluster" / "fault.log").read_text()


@pytest.mark.parametrize(
    ("behaviour", "says"),
    [
        ({"label": "Fibres"}, "says Fibres, and the sample shows nanowires"),
        ({"status": "FAILED"}, "ended FAILED: it broke"),
    ],
)
def test_a_smoke_test_fails_for_what_is_wrong(tmp_path: Path, behaviour: dict[str, object], says: str) -> None:
    with cluster_world.machine(tmp_path, type("Other", (Service,), behaviour)) as machine:
        done = machine.run("smoke")
    assert done.returncode == 1
    assert says in done.stderr


def test_a_service_elsewhere_is_asked_with_a_token_of_ones_own(tmp_path: Path) -> None:
    with cluster_world.serving() as port, cluster_world.machine(tmp_path) as machine:
        machine.local("stage", f"CONTEXT=lab\nREGISTRY=r\nSERVICE_URL=http://127.0.0.1:{port}/\n")
        refused = machine.run("smoke", "--env", "stage")
        assert "set SEMAPI_TOKEN to a token of your own" in refused.stderr
        machine.environment["SEMAPI_TOKEN"] = "token-of-smoke"
        assert machine.run("smoke", "--env", "stage").returncode == 0
    assert machine.lines == []


def test_a_rollback_that_failed_is_repeated_to_the_same_release(machine: Machine) -> None:
    machine.first(
        rule("get configmaps", items(entry("bbb", "2", IMAGE), entry("aaa", "1", IMAGE))),
        rule("get rayservice", ray_service(mark="bbb"), before="apply"),
        rule("get rayservice", ray_service(mark="aaa", ready=False)),
    )
    done = machine.run("rollback", "--timeout", "1")
    assert "error: readiness: not ready after 1." in done.stderr
    [said] = [line.removeprefix("next:     ") for line in done.stderr.splitlines() if line.startswith("next:")]
    assert said == "scripts/cluster rollback aaa, then scripts/cluster smoke"
    machine.run(*shlex.split(said.split(", then ")[0])[1:], "--timeout", "1")
    applied = [one["stdin"] for one in machine.asked if " apply " in one["line"]]
    assert applied == ["manifests of aaa\n"] * 2
