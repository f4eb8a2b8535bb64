"""The KubeRay operator: from its helm chart, or from its Go module on a cluster made with --here.

The manifests work with both versions.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from operations import image, tools
from operations.runner import Json, Runner, parsed
from operations.steps import StepFailed
from operations.target import ROOT, read_file, site_file

VERSION = "1.7.0"
RELEASE = "kuberay-operator"
REPOSITORY = "https://ray-project.github.io/kuberay-helm/"
CHART = (RELEASE, "--repo", REPOSITORY, "--version", VERSION)
DEADLINE_S = 420.0
MODULE = "github.com/ray-project/kuberay/ray-operator"
"""scripts/node/operator/go.mod pins its version."""
IMAGE = "localhost/kuberay-operator"
METRICS = [{"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": "--enable-metrics"}]


def namespace(run: Runner) -> str:
    """The operator's namespace, the only one from which the network policies let it in."""
    return read_file(site_file(run.target.environment)).get("OPERATOR_NAMESPACE", "kuberay-system")


def install(run: Runner) -> str:
    """Install the operator, or upgrade an older one. The right version is left alone, and so is a newer one."""
    if run.target.is_here:
        return _install_module(run)
    space, found = namespace(run), _found(run)
    own = [version for place, version in found if place == space]
    if found and not own:
        place, running = found[0]
        if running != VERSION:
            raise StepFailed(_left_alone(running, place))
        raise StepFailed(
            f"KubeRay {VERSION} runs in {place}, and the network policies let it in from {space} alone: "
            f"write OPERATOR_NAMESPACE={place} to {site_file(run.target.environment)}"
        )
    running = own[0] if own else ""
    if running == VERSION:
        return f"KubeRay {VERSION} is there"
    if own and (not running or _order(running) > _order(VERSION)):
        raise StepFailed(_left_alone(running, space))
    if running:
        _upgrade_definitions(run, running)
    command = ["helm", "upgrade", "--install", RELEASE, *CHART, "--kube-context", run.target.context]
    command += ["--namespace", space, "--create-namespace", "--wait", "--timeout", "5m"]
    run.long(command, deadline_s=DEADLINE_S)
    return f"KubeRay {VERSION} " + (f"after {running}" if running else "installed")


def _install_module(run: Runner) -> str:
    """Definitions, roles and deployment from the operator's Go module, and an image of the program built from it."""
    download = tools.go("mod", "download", "-C", str(tools.OPERATOR.relative_to(ROOT)), "-json", MODULE)
    answer = run.read(download, assumed='{"Version": "vVERSION", "Dir": "FOLDER"}', deadline_s=DEADLINE_S)
    module, space = parsed(answer, "go mod download"), namespace(run)
    version = str(module["Version"]).removeprefix("v")
    if not run.dry:
        program = tools.programs() / "ray-operator"
        made = image.program(f"{IMAGE}:v{version}", program, place="manager", User="65532:65532")
        for node in image.nodes(run):
            node.bring(made)
    if (space, version) in _found(run):
        return f"KubeRay {version} is there"
    folder = run.target.folder / "kuberay"
    if not run.dry:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(Path(module["Dir"]) / "config", folder / "config")
    _write_kustomization(run, folder, version, space)
    apply = run.target.apply("--filename", "-", namespace=space)
    run.pipe(["kubectl", "kustomize", str(folder.relative_to(ROOT))], apply, deadline_s=DEADLINE_S)
    ready = run.kubectl("rollout", "status", f"deployment/{RELEASE}", "--timeout=5m", namespace=space)
    run.long(ready, deadline_s=DEADLINE_S)
    return f"KubeRay {version} installed"


def _write_kustomization(run: Runner, folder: Path, version: str, space: str) -> None:
    """The module's manifests with our namespace and image, and with what the helm chart adds: the label that network
    policies select, and the metrics that alerts use."""
    made = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space}}
    run.write(folder / "namespace.yaml", json.dumps(made))
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": space,
        "resources": ["namespace.yaml", "config/default"],
        "labels": [{"pairs": {"app.kubernetes.io/name": RELEASE}, "includeSelectors": True}],
        "images": [{"name": "quay.io/kuberay/operator", "newName": IMAGE, "newTag": f"v{version}"}],
        "patches": [{"target": {"kind": "Deployment"}, "patch": json.dumps(METRICS)}],
    }
    run.write(folder / "kustomization.yaml", json.dumps(kustomization, indent=2) + "\n")


def _upgrade_definitions(run: Runner, running: str) -> None:
    """helm installs custom resource definitions but never upgrades them, and the new operator needs new ones."""
    if not run.target.is_local:  # others may have Ray clusters there, which the same operator manages
        place = run.target.context
        run.confirm(f"KubeRay {running} becomes {VERSION} for every RayService and RayCluster at {place}.", place)
    run.pipe(["helm", "show", "crds", *CHART], run.target.apply("--filename", "-"), deadline_s=DEADLINE_S)


def _left_alone(version: str, place: str) -> str:
    return (
        f"KubeRay {version or 'of a version that its image does not tell'} runs in {place}, and {VERSION} is wanted. "
        "It belongs to whoever put it there: have it changed, or take an empty cluster"
    )


def _found(run: Runner) -> list[tuple[str, str]]:
    """Namespace and version of every operator in the cluster."""
    operators = run.objects("deployments", "--all-namespaces", "--selector", f"app.kubernetes.io/name={RELEASE}")
    return [(operator["metadata"]["namespace"], _version(operator)) for operator in operators]


def _version(operator: Json) -> str:
    images = [str(one.get("image", "")) for one in operator["spec"]["template"]["spec"]["containers"]]
    found = re.search(r":v?(\d+\.\d+\.\d+)", " ".join(images))
    return found[1] if found else ""


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
