"""Names that must lead somewhere: secrets and their keys, config maps, accounts, claims, services, selectors.

The API server accepts a name that leads nowhere; a pod then never starts, and a policy protects nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from manifests.documents import NAMES_OF_SECRETS, Document, Finding, Path, of_kind
from manifests.pods import CLUSTER, matches, pods_of

REFERENCES: Final = {
    "secretKeyRef": ("Secret", "name", "key"),
    "secretRef": ("Secret", "name", ""),
    "secret": ("Secret", "secretName", ""),
    "configMapKeyRef": ("ConfigMap", "name", "key"),
    "configMapRef": ("ConfigMap", "name", ""),
    "configMap": ("ConfigMap", "name", ""),
    "persistentVolumeClaim": ("PersistentVolumeClaim", "claimName", ""),
}
"""By the key under which a pod refers to something: its kind, and where its name and the key in it stand."""
SELECTING: Final = {
    "PodDisruptionBudget": "selector",
    "PodMonitor": "selector",
    "AuthorizationPolicy": "selector",
    "PeerAuthentication": "selector",
    "NetworkPolicy": "podSelector",
}
MADE_BY_KUBERAY: Final = ("{}-serve-svc", "{}-head-svc")
SECRET_WORDS: Final = ("PASSWORD", "SECRET", "TOKEN", "ACCESS_KEY", "REDIS_URL", "DATABASE_URL")

Known = dict[str, dict[str, set[str]]]
"""Per kind the names there are, with their keys; no keys where they are not to be known."""


def check(documents: list[Document]) -> Iterator[Finding]:
    """Names that lead nowhere, selectors that select nothing, and secrets in the open."""
    known = _known(documents)
    for document in documents:
        for path, kind, name, key in _references(document.body, ()) if document.kind != NAMES_OF_SECRETS else ():
            if name not in known.get(kind, {}):
                yield document.finding(path, f"There is no {kind} {name}; correct the name, or add it.")
            elif key and (keys := known[kind][name]) and key not in keys:
                yield document.finding(path, f"{kind} {name} has no key {key}; it has {', '.join(sorted(keys))}.")
        for path, service in _services(document):
            if service not in known.get("Service", {}):
                yield document.finding(path, f"There is no Service {service}; correct the name, or add it.")
    yield from _selectors(documents)
    yield from _open_secrets(documents)


def _known(documents: list[Document]) -> Known:
    known: Known = {}
    for document in documents:
        keys = {*document.mapping("data"), *document.mapping("stringData"), *document.mapping("binaryData")}
        known.setdefault(document.kind, {})[document.name] = keys
        if document.kind == "RayService":
            known.setdefault("Service", {}).update({name.format(document.name): set() for name in MADE_BY_KUBERAY})
        for name, content in document.mapping("secrets").items() if document.kind == NAMES_OF_SECRETS else ():
            known.setdefault("Secret", {})[str(name)] = set(content)
        if document.kind == "Certificate":
            name = str(document.at("spec", "secretName"))
            known.setdefault("Secret", {})[name] = {"ca.crt", "tls.crt", "tls.key"}
        for claim in document.items("spec", "volumeClaimTemplates"):
            for number in range(int(document.at("spec", "replicas") or 1)):
                name = f"{claim['metadata']['name']}-{document.name}-{number}"
                known.setdefault("PersistentVolumeClaim", {})[name] = set()
    return known


def _references(value: Any, path: Path) -> Iterator[tuple[Path, str, str, str]]:
    """Place, kind, name and key (empty: all of it) of everything that must be there."""
    for step, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        here = (*path, step)
        if step in REFERENCES and isinstance(part, dict) and not part.get("optional"):
            kind, name_key, key = REFERENCES[step]
            if name := part.get(name_key) or part.get("name"):
                for item in part.get("items") or [part]:
                    yield here, kind, str(name), str(item.get("key", "")) if key or item is not part else ""
        elif step == "serviceAccountName" and part != "default":
            yield here, "ServiceAccount", str(part), ""
        elif step == "imagePullSecrets":
            yield from ((here, "Secret", str(one.get("name")), "") for one in part)
        yield from _references(part, here)


def _services(document: Document) -> Iterator[tuple[Path, str]]:
    """The Services that a resource names."""
    if document.kind == "RayService":
        path: Path = (*CLUSTER, "gcsFaultToleranceOptions", "redisAddress")
        if address := document.at(*path):
            yield path, str(address).rpartition("//")[2].partition(":")[0].partition(".")[0]
    if document.kind == "StatefulSet":
        yield ("spec", "serviceName"), str(document.at("spec", "serviceName"))
    for number, rule in enumerate(document.items("spec", "rules") if document.kind == "Ingress" else []):
        for place, one in enumerate(rule["http"]["paths"]):
            yield ("spec", "rules", number, "http", "paths", place), str(one["backend"]["service"]["name"])


def _selectors(documents: list[Document]) -> Iterator[Finding]:
    """A policy that protects nothing, a Service that leads nowhere."""
    pods = [pod.labels for pod in pods_of(documents)]
    for document in documents:
        selectors = [(("spec", key), document.mapping("spec", key))] if (key := SELECTING.get(document.kind)) else []
        if document.kind == "Service":
            selectors = [(("spec", "selector"), {"matchLabels": document.mapping("spec", "selector")})]
        for direction, peers in (("ingress", "from"), ("egress", "to")) if document.kind == "NetworkPolicy" else ():
            for rule in document.items("spec", direction):
                ours = [peer for peer in rule.get(peers) or [] if "namespaceSelector" not in peer]
                selectors += [(("spec", direction), peer.get("podSelector") or {}) for peer in ours]
        for path, selector in selectors:
            if any(selector.values()) and not any(matches(selector, labels) for labels in pods):
                yield document.finding(path, "This selects no pod of these manifests; correct the labels.")


def _open_secrets(documents: list[Document]) -> Iterator[Finding]:
    for document in of_kind(documents, "Secret"):
        if document.mapping("data") or document.mapping("stringData"):
            yield document.finding((), "A Secret with its values is no file for git; name it in k8s/secrets.yaml.")
    for pod in pods_of(documents):
        for path, container in pod.containers():
            for number, variable in enumerate(container.get("env") or []):
                name = str(variable.get("name"))
                if variable.get("value") and any(word in name for word in SECRET_WORDS) and not name.endswith("_FILE"):
                    sentence = f"{name} is a secret in the open; take it from a Secret by valueFrom.secretKeyRef."
                    yield pod.document.finding((*path, "env", number), sentence)
