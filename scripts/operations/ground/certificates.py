"""The certificates of a cluster on this machine, and the files with which its parts and kubectl reach it."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from operations.work import Work

SERVER = "https://172.30.0.2:6443"
"""Where node1 serves the API, inside the namespaces of the nodes."""
API_NAMES = (
    "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,"
    "DNS:localhost,IP:127.0.0.1,IP:172.30.0.2,IP:10.96.0.1"
)
SUBJECTS = {
    "apiserver": ("/CN=kube-apiserver", API_NAMES),
    "admin": ("/O=system:masters/CN=admin", "DNS:admin"),
    "manager": ("/CN=system:kube-controller-manager", "DNS:manager"),
    "scheduler": ("/CN=system:kube-scheduler", "DNS:scheduler"),
    "proxy": ("/CN=system:kube-proxy", "DNS:proxy"),
    "router": ("/CN=kube-router", "DNS:router"),
}
"""Who each certificate is for, and under which names it may serve."""
DAYS = "365"
CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-days", DAYS)


def write(work: Work, folder: Path, kubeconfig: Path, context: str, nodes: dict[str, str]) -> None:
    """Write certificates, keys and a kubectl configuration for each holder into a folder that only root reads, and the
    administrator's to `kubeconfig`. `nodes` are the nodes' names and addresses. What is there is left as it is."""
    if not work.run.dry:
        folder.mkdir(parents=True, exist_ok=True)
        folder.parent.chmod(0o700)
    subjects = dict(SUBJECTS)
    for name, address in nodes.items():
        subjects[name] = (f"/O=system:nodes/CN=system:node:{name}", f"DNS:{name},IP:{address}")
    authority = ["-x509", *CURVE, "-keyout", str(folder / "ca.key"), "-subj", "/CN=" + context]
    _openssl(work, folder / "ca.crt", ["req", *authority])
    _openssl(work, folder / "accounts.key", ["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"])
    _openssl(work, folder / "accounts.pub", ["pkey", "-in", str(folder / "accounts.key"), "-pubout"])
    for name, (subject, names) in subjects.items():
        signer = ["-CA", str(folder / "ca.crt"), "-CAkey", str(folder / "ca.key"), "-subj", subject]
        extensions = ["-addext", f"subjectAltName={names}", "-addext", "basicConstraints=critical,CA:FALSE"]
        command = ["req", "-x509", *CURVE, "-keyout", str(folder / f"{name}.key"), *signer, *extensions]
        _openssl(work, folder / f"{name}.crt", command)
        _write_kubeconfig(work, folder, name, context, folder / f"{name}.conf")
    _write_kubeconfig(work, folder, "admin", context, kubeconfig)


def _openssl(work: Work, made: Path, command: list[str]) -> None:
    """Make a file unless it is there, whole or not at all."""
    if work.run.dry or not made.exists():
        part = made.with_suffix(".part")
        work.run.change(["openssl", *command, "-out", str(part)])
        if not work.run.dry:
            part.rename(made)


def _write_kubeconfig(work: Work, folder: Path, name: str, context: str, made: Path) -> None:
    if work.run.dry:
        return

    def data(file: str) -> str:
        return base64.b64encode((folder / file).read_bytes()).decode("ascii")

    user = {"client-certificate-data": data(f"{name}.crt"), "client-key-data": data(f"{name}.key")}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": context, "cluster": {"server": SERVER, "certificate-authority-data": data("ca.crt")}}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": context, "context": {"cluster": context, "user": name}}],
        "current-context": context,
    }
    part = made.with_suffix(".part")
    part.write_text(json.dumps(document, indent=1), "utf-8")
    part.rename(made)
