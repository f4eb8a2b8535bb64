"""The KubeRay operator: helm's on clusters of others and of kind, that of its Go module on a cluster without Docker.

The manifest holds on both versions.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from operations.failure import Failed
from operations.ground import here, images, programs
from operations.target import ROOT, read_file, site_file
from operations.work import Json, Work, parsed

VERSION = "1.7.0"
RELEASE = "kuberay-operator"
REPOSITORY = "https://ray-project.github.io/kuberay-helm/"
CHART = (RELEASE, "--repo", REPOSITORY, "--version", VERSION)
DEADLINE_S = 420.0
MODULE = "github.com/ray-project/kuberay/ray-operator"
"""scripts/node/operator/go.mod has its version."""
IMAGE = "localhost/kuberay-operator"
METRICS = [{"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": "--enable-metrics"}]


def namespace(work: Work) -> str:
    """Where the operator is: the network policies let it in from there alone."""
    return read_file(site_file(work.target.environment)).get("OPERATOR_NAMESPACE", "kuberay-system")


def install(work: Work) -> str:
    """Install or upgrade the operator; what is there in the right version is left alone, a newer one always."""
    if work.target.is_here:
        return _install_module(work)
    space, found = namespace(work), _found(work)
    own = [version for place, version in found if place == space]
    if found and not own:
        raise Failed(_elsewhere(work, space, *found[0]))
    running = own[0] if own else ""
    if running == VERSION:
        return f"KubeRay {VERSION} is there"
    if own and (not running or _order(running) > _order(VERSION)):
        raise Failed(_left_alone(running, space))
    if running:
        _upgrade_definitions(work, running)
    command = ["helm", "upgrade", "--install", RELEASE, *CHART, "--kube-context", work.target.context]
    command += ["--namespace", space, "--create-namespace", "--wait", "--timeout", "5m"]
    work.run.work(command, deadline_s=DEADLINE_S)
    return f"KubeRay {VERSION} " + (f"after {running}" if running else "installed")


def _install_module(work: Work) -> str:
    """Definitions, roles and deployment as the operator's Go module has them, and an image of the built program."""
    download = programs.go("mod", "download", "-C", str(programs.OPERATOR.relative_to(ROOT)), "-json", MODULE)
    answer = work.run.read(download, assumed='{"Version": "vVERSION", "Dir": "FOLDER"}', deadline_s=DEADLINE_S)
    module, space = parsed(answer, "go mod download"), namespace(work)
    version = str(module["Version"]).removeprefix("v")
    if not work.run.dry:
        file, name = programs.programs() / "ray-operator", f"{IMAGE}:v{version}"
        image = images.program(name, file, place="manager", User="65532:65532")
        for node in images.nodes(work, programs.programs(), here.sockets(work.target)):
            node.bring(image)
    if (space, version) in _found(work):
        return f"KubeRay {version} is there"
    folder = work.target.folder / "kuberay"
    if not work.run.dry:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(Path(module["Dir"]) / "config", folder / "config")
    _write_kustomization(work, folder, version, space)
    apply = work.target.apply("--filename", "-", namespace=space)
    work.run.pipe(["kubectl", "kustomize", str(folder.relative_to(ROOT))], apply, deadline_s=DEADLINE_S)
    ready = work.target.kubectl("rollout", "status", f"deployment/{RELEASE}", "--timeout=5m", namespace=space)
    work.run.work(ready, deadline_s=DEADLINE_S)
    return f"KubeRay {version} installed"


def _write_kustomization(work: Work, folder: Path, version: str, space: str) -> None:
    """The module's manifests with our namespace and image, and what helm's have: the label that policies choose by, and
    the metrics that alerts ask for.
    """
    made = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space}}
    work.run.write(folder / "namespace.yaml", json.dumps(made))
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": space,
        "resources": ["namespace.yaml", "config/default"],
        "labels": [{"pairs": {"app.kubernetes.io/name": RELEASE}, "includeSelectors": True}],
        "images": [{"name": "quay.io/kuberay/operator", "newName": IMAGE, "newTag": f"v{version}"}],
        "patches": [{"target": {"kind": "Deployment"}, "patch": json.dumps(METRICS)}],
    }
    work.run.write(folder / "kustomization.yaml", json.dumps(kustomization, indent=2) + "\n")


def _upgrade_definitions(work: Work, running: str) -> None:
    """helm installs custom resource definitions and never upgrades them: the new operator would read old ones."""
    if not work.target.is_local:  # others may have clusters of Ray there, which the same operator looks after
        place = work.target.context
        work.confirm(f"KubeRay {running} becomes {VERSION} for every RayService and RayCluster at {place}.", place)
    definitions = ["helm", "show", "crds", *CHART]
    work.run.pipe(definitions, work.target.apply("--filename", "-"), deadline_s=DEADLINE_S)


def _elsewhere(work: Work, space: str, place: str, version: str) -> str:
    if version != VERSION:
        return _left_alone(version, place)
    return (
        f"KubeRay {VERSION} runs in {place}, and the network policies let it in from {space} alone: "
        f"write OPERATOR_NAMESPACE={place} to {site_file(work.target.environment)}"
    )


def _left_alone(version: str, place: str) -> str:
    return (
        f"KubeRay {version or 'of a version that its image does not tell'} runs in {place}, and {VERSION} is wanted. "
        "It belongs to whoever put it there: have it changed, or take an empty cluster"
    )


def _found(work: Work) -> list[tuple[str, str]]:
    """Namespace and version of every operator in the cluster."""
    selector = f"app.kubernetes.io/name={RELEASE}"
    operators = work.objects("deployments", "--all-namespaces", "--selector", selector)
    return [(operator["metadata"]["namespace"], _version(operator)) for operator in operators]


def _version(operator: Json) -> str:
    images = [str(one.get("image", "")) for one in operator["spec"]["template"]["spec"]["containers"]]
    found = re.search(r":v?(\d+\.\d+\.\d+)", " ".join(images))
    return found[1] if found else ""


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
