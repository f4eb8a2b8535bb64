"""The kinds of what an overlay applies: does the cluster know all of them, and where do the others come from?"""

from __future__ import annotations

import re

from operations.work import Work

KIND = re.compile(r"^apiVersion: (\S+)$.*?^kind: (\S+)$", re.MULTILINE | re.DOTALL)
"""Version and kind of each rendered document; kustomize writes both at the margin, in this order."""
COMES_FROM = {
    "cert-manager.io": "cert-manager, https://cert-manager.io, or leave out the component redis-tls",
    "external-secrets.io": "the External Secrets operator, https://external-secrets.io, or leave out the component "
    "external-secrets and make the Secrets by hand",
    "gateway.networking.k8s.io": "Gateway API, https://gateway-api.sigs.k8s.io, or leave out the component gateway-api",
    "monitoring.coreos.com": "the Prometheus operator, https://prometheus-operator.dev, or leave out the component "
    "monitoring",
    "networking.istio.io": "Istio, https://istio.io, or leave out the component service-mesh",
    "security.istio.io": "Istio, https://istio.io, or leave out the component service-mesh",
}
"""What brings each group that is not Kubernetes' own. KubeRay's is missing: `install` brings it, after this check."""


def unknown(work: Work) -> list[str]:
    """One line for each kind of the overlay that the cluster does not know, or for a question that had no answer."""
    kubectl, overlay = work.target.kubectl, f"k8s/overlays/{work.target.environment}"
    manifests = work.run.ask(["kubectl", "kustomize", overlay])
    if manifests.status != 0:
        return [f"{overlay} cannot be built: {manifests.reason}"]
    resources, versions = work.run.ask(kubectl("api-resources", "--no-headers")), work.run.ask(kubectl("api-versions"))
    wanted = list(dict.fromkeys(KIND.findall(manifests.output)))
    # One API of the cluster that does not answer makes the first question fail, after it has told of all the others.
    for answer in (resources, versions):
        if wanted and not answer.output.strip():
            return [f"the cluster {work.target.context} does not tell its kinds: {answer.reason or 'it said nothing'}"]
    # The first lists each kind in the version that the cluster likes best, and it may serve the wanted one as well.
    known = {(_group(row[-3]), row[-1]) for row in map(str.split, resources.output.splitlines()) if len(row) >= 4}
    served = set(versions.output.split())
    missing: dict[str, list[str]] = {}
    for version, kind in wanted:
        if version not in served or (_group(version), kind) not in known:
            missing.setdefault(version, []).append(kind)
    return [
        f"the cluster knows no {' and no '.join(kinds)} of {version}: "
        + COMES_FROM.get(_group(version), "nothing of this project brings it")
        for version, kinds in missing.items()
    ]


def _group(version: str) -> str:
    """The group of an apiVersion; empty for that of Kubernetes' first kinds."""
    return version.rpartition("/")[0]
