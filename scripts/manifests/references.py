"""Names that must lead somewhere: secrets and their keys, config maps, accounts, volumes, services, selectors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from manifests.documents import NAMES_OF_SECRETS, Document, Finding, Path, of_kind
from manifests.pods import Pod, pods_of

MADE_BY_KUBERAY: Final = ("{}-serve-svc", "{}-head-svc")
DEFAULT_ACCOUNT: Final = "default"
SECRET_WORDS: Final = ("PASSWORD", "SECRET", "TOKEN", "ACCESS_KEY", "REDIS_URL", "DATABASE_URL")
FILE_OF: Final = "_FILE"

Reference = tuple[Path, str, str, str, bool]
"""Place, kind, name, key (empty: as a whole), optional."""


def check(documents: list[Document]) -> Iterator[Finding]:
    """Names that lead nowhere."""
    known = _known(documents)
    for pod in pods_of(documents):
        yield from _unresolved(pod.document, _of_pod(pod), known)
    for document in documents:
        yield from _unresolved(document, _of_resource(document), known)
    yield from _selectors(documents)
    yield from _passwords(documents)


def _known(documents: list[Document]) -> dict[str, dict[str, set[str] | None]]:
    """Per kind the names there are, with their keys; None where the keys are not to be known."""
    known: dict[str, dict[str, set[str] | None]] = {}
    for document in documents:
        keys = {*document.mapping("data"), *document.mapping("stringData"), *document.mapping("binaryData")}
        has_keys = document.kind in ("Secret", "ConfigMap")
        known.setdefault(document.kind, {})[document.name] = keys if has_keys else None
        if document.kind == "RayService":
            for pattern in MADE_BY_KUBERAY:
                known.setdefault("Service", {})[pattern.format(document.name)] = None
        if document.kind == NAMES_OF_SECRETS:
            for name, content in document.mapping("secrets").items():
                known.setdefault("Secret", {})[str(name)] = set(content)
    for document in of_kind(documents, "Certificate"):
        known.setdefault("Secret", {})[str(document.at("spec", "secretName"))] = {"ca.crt", "tls.crt", "tls.key"}
    for document in of_kind(documents, "StatefulSet"):
        for claim in document.items("spec", "volumeClaimTemplates"):
            for number in range(int(document.at("spec", "replicas") or 1)):
                name = f"{claim['metadata']['name']}-{document.name}-{number}"
                known.setdefault("PersistentVolumeClaim", {})[name] = None
    return known


def _unresolved(
    document: Document, references: Iterator[Reference], known: dict[str, dict[str, set[str] | None]]
) -> Iterator[Finding]:
    for path, kind, name, key, is_optional in references:
        if is_optional or not name:
            continue
        if name not in known.get(kind, {}):
            yield document.finding(path, f"There is no {kind} {name}; correct the name, or add it.")
        elif key and (keys := known[kind][name]) is not None and key not in keys:
            yield document.finding(path, f"{kind} {name} has no key {key}; it has {', '.join(sorted(keys))}.")


def _of_pod(pod: Pod) -> Iterator[Reference]:
    account = pod.spec.get("serviceAccountName", DEFAULT_ACCOUNT)
    if account != DEFAULT_ACCOUNT:
        yield (*pod.spec_path, "serviceAccountName"), "ServiceAccount", str(account), "", False
    for number, one in enumerate(pod.spec.get("imagePullSecrets") or []):
        yield (*pod.spec_path, "imagePullSecrets", number), "Secret", str(one.get("name")), "", False
    for number, volume in enumerate(pod.spec.get("volumes") or []):
        yield from _of_volume(volume, (*pod.spec_path, "volumes", number))
    volumes = {volume.get("name") for volume in pod.spec.get("volumes") or []}
    volumes |= {claim["metadata"]["name"] for claim in pod.document.items("spec", "volumeClaimTemplates")}
    for path, container in pod.containers():
        yield from _of_variables(container, path)
        for number, mount in enumerate(container.get("volumeMounts") or []):
            if mount.get("name") not in volumes:
                yield (*path, "volumeMounts", number), "volume", str(mount.get("name")), "", False


def _of_volume(volume: dict[str, Any], path: Path) -> Iterator[Reference]:
    sources = [*([volume] if volume else []), *((volume.get("projected") or {}).get("sources") or [])]
    for source in sources:
        for field, kind, name_key in (("secret", "Secret", "secretName"), ("configMap", "ConfigMap", "name")):
            if isinstance(found := source.get(field), dict):
                name = str(found.get(name_key) or found.get("name") or "")
                items = [str(item.get("key")) for item in found.get("items") or []] or [""]
                for key in items:
                    yield (*path, field), kind, name, key, bool(found.get("optional"))
        if isinstance(claim := source.get("persistentVolumeClaim"), dict):
            yield (*path, "persistentVolumeClaim"), "PersistentVolumeClaim", str(claim.get("claimName")), "", False


def _of_variables(container: dict[str, Any], path: Path) -> Iterator[Reference]:
    for number, variable in enumerate(container.get("env") or []):
        source = variable.get("valueFrom") or {}
        for field, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
            if one := source.get(field):
                place = (*path, "env", number, "valueFrom", field)
                yield place, kind, str(one.get("name")), str(one.get("key")), bool(one.get("optional"))
    for number, source in enumerate(container.get("envFrom") or []):
        for field, kind in (("secretRef", "Secret"), ("configMapRef", "ConfigMap")):
            if one := source.get(field):
                yield (*path, "envFrom", number, field), kind, str(one.get("name")), "", bool(one.get("optional"))


def _of_resource(document: Document) -> Iterator[Reference]:
    if document.kind == "RayService":
        cluster: Path = ("spec", "rayClusterConfig")
        path: Path = (*cluster, "gcsFaultToleranceOptions", "redisPassword", "valueFrom", "secretKeyRef")
        if one := document.at(*path):
            yield path, "Secret", str(one.get("name")), str(one.get("key")), False
        path = (*cluster, "gcsFaultToleranceOptions", "redisAddress")
        if address := document.at(*path):
            yield path, "Service", str(address).rpartition("//")[2].partition(":")[0].partition(".")[0], "", False
        path = (*cluster, "authOptions", "secretName")
        yield path, "Secret", str(document.at(*path) or ""), "auth_token", False
    if document.kind == "StatefulSet":
        yield ("spec", "serviceName"), "Service", str(document.at("spec", "serviceName") or ""), "", False
    if document.kind == "Ingress":
        for number, entry in enumerate(document.items("spec", "tls")):
            yield ("spec", "tls", number), "Secret", str(entry.get("secretName") or ""), "", False
        for path, name in _backends(document):
            yield path, "Service", name, "", False


def _backends(document: Document) -> Iterator[tuple[Path, str]]:
    for number, rule in enumerate(document.items("spec", "rules")):
        for place, one in enumerate((rule.get("http") or {}).get("paths") or []):
            path: Path = ("spec", "rules", number, "http", "paths", place, "backend")
            yield path, str(((one.get("backend") or {}).get("service") or {}).get("name"))


def _selectors(documents: list[Document]) -> Iterator[Finding]:
    """Selectors that match no pod of these manifests: a policy that protects nothing, a Service that leads nowhere."""
    pods = [pod.labels for pod in pods_of(documents)]
    for document in documents:
        for path, selector in _selecting(document):
            if selector and not any(matches(selector, labels) for labels in pods):
                yield document.finding(path, "This selects no pod of these manifests; correct the labels.")
    for pod in pods_of(documents):
        own = pod.document.at("spec", "selector", "matchLabels")
        if (
            pod.document.kind != "RayService"
            and isinstance(own, dict)
            and not matches({"matchLabels": own}, pod.labels)
        ):
            yield pod.document.finding(("spec", "selector"), "It does not select the pods of its own template.")


def _selecting(document: Document) -> Iterator[tuple[Path, dict[str, Any]]]:
    if document.kind == "Service":
        yield ("spec", "selector"), {"matchLabels": document.mapping("spec", "selector")}
    if document.kind == "PodDisruptionBudget":
        yield ("spec", "selector"), document.mapping("spec", "selector")
    if document.kind in ("PodMonitor", "AuthorizationPolicy", "PeerAuthentication"):
        yield ("spec", "selector"), document.mapping("spec", "selector")
    if document.kind == "NetworkPolicy":
        yield ("spec", "podSelector"), document.mapping("spec", "podSelector")
        for direction, peers in (("ingress", "from"), ("egress", "to")):
            for number, rule in enumerate(document.items("spec", direction)):
                for place, peer in enumerate(rule.get(peers) or []):
                    if "podSelector" in peer and "namespaceSelector" not in peer:
                        yield ("spec", direction, number, peers, place), peer["podSelector"] or {}


def matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """A label selector on labels."""
    for name, value in (selector.get("matchLabels") or {}).items():
        if labels.get(name) != value:
            return False
    for rule in selector.get("matchExpressions") or []:
        value, values = labels.get(rule["key"]), rule.get("values") or []
        fits = {"In": value in values, "NotIn": value not in values, "Exists": value is not None}
        if not fits.get(rule["operator"], value is None):
            return False
    return True


def _passwords(documents: list[Document]) -> Iterator[Finding]:
    """Secrets in the open."""
    for document in of_kind(documents, "Secret"):
        if document.mapping("data") or document.mapping("stringData"):
            yield document.finding((), "A Secret with its values is no file for git; name it in k8s/secrets.yaml.")
    for document in of_kind(documents, "RayService"):
        value = ("spec", "rayClusterConfig", "gcsFaultToleranceOptions", "redisPassword", "value")
        if document.at(*value) is not None:
            yield document.finding(value, "A password in the open; name a Secret by valueFrom.secretKeyRef.")
    for pod in pods_of(documents):
        for path, container in pod.containers():
            for number, variable in enumerate(container.get("env") or []):
                name = str(variable.get("name"))
                if variable.get("value") and any(word in name for word in SECRET_WORDS) and not name.endswith(FILE_OF):
                    sentence = f"{name} is a secret in the open; take it from a Secret by valueFrom.secretKeyRef."
                    yield pod.document.finding((*path, "env", number), sentence)
