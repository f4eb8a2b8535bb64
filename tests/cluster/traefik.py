"""An edge of other people's make before the service: Traefik, with the routes of k8s/components/gateway-api.

It is built from the Go module in edge/, once for each version of that folder, and kept beside the programs of the node.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from manifests.documents import rendered
from operations import image, tools
from operations.runner import Runner
from operations.target import NAME
from real_cluster import EDGE_SPACE, RealCluster, wait

MODULE = Path(__file__).with_name("edge")
MANIFEST = MODULE / "traefik.yaml"
PACKAGE = "github.com/traefik/traefik/v3/cmd/traefik"
PARTS = {"lego": "github.com/go-acme/lego/v5", "go-http-auth": "github.com/abbot/go-http-auth"}
"""Folders of the module that hold a file or two for a copy of another module."""
GATEWAY_API = "sigs.k8s.io/gateway-api"
KINDS = ("backendtlspolicies", "gatewayclasses", "gateways", "grpcroutes", "httproutes", "referencegrants", "tlsroutes")
"""What Traefik watches of the Gateway API; it starts to serve when all of them are there."""
ROUTES = ("Gateway", "HTTPRoute")
HOST = "sem.test"
CERTIFICATE = f"{NAME}-tls"
DOWNLOAD_S = 300.0
BUILD_S = 3600.0
READY_S = 60


class Edge(RealCluster):
    """The cluster as clients outside have it: under its name, by TLS, through the edge."""

    def __init__(self, cluster: RealCluster) -> None:
        vars(self).update(vars(cluster))
        self.authority, self._hosts = self.folder / "edge.crt", self.folder / "hosts"

    def service_url(self) -> str:
        """Where clients of the edge reach the service."""
        return f"https://{HOST}"

    def inside(self, *command: str) -> list[str]:
        """The command where the edge's name leads to it and its certificate is trusted."""
        told = 'mount --bind "$0" /etc/hosts && exec "$@"'
        trusted = [f"{name}={self.authority}" for name in ("SSL_CERT_FILE", "CURL_CA_BUNDLE")]
        way = ["env", *trusted, "unshare", "--mount", "sh", "-c", told, str(self._hosts)]
        return super().inside(*way, *command)

    def curl(self, token: str, path: str, *options: str) -> str:
        """The answer to a request by curl, which must be a good one."""
        given = ["--silent", "--show-error", "--fail-with-body", "--header", f"Authorization: Bearer {token}", *options]
        command = self.inside("curl", *given, f"{self.service_url()}{path}")
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, f"{path}: {done.stdout} {done.stderr}"
        return done.stdout

    @contextmanager
    def standing(self, program: Path) -> Iterator[None]:
        """Traefik and the routes are there as long as the block lasts."""
        definitions = sorted(_module(GATEWAY_API).glob("config/crd/experimental/gateway.networking.k8s.io_*.yaml"))
        wanted = [f"--filename={file}" for file in definitions if file.stem.rpartition("_")[2] in KINDS]
        try:
            self.kubectl("apply", "--server-side", *wanted)
            self.kubectl("wait", *wanted, "--for=condition=Established", f"--timeout={READY_S}s")
            self._bring(program)
            self.kubectl("apply", "--server-side", "--filename", str(MANIFEST), f"--namespace={EDGE_SPACE}")
            self.kubectl("apply", "--server-side", "--filename", "-", input=self._certificate() + self._routes())
            self._wait()
            yield
        finally:
            self.kubectl("delete", "--ignore-not-found", "secret", CERTIFICATE)
            self.kubectl("delete", "--ignore-not-found", "--filename", str(MANIFEST), f"--namespace={EDGE_SPACE}")
            self.kubectl("delete", "--ignore-not-found", *wanted)

    def _bring(self, program: Path) -> None:
        made = image.program("localhost/traefik:1", program)
        for node in image.nodes(Runner(self.target)):
            node.bring(made)

    def _certificate(self) -> str:
        """The Secret that the Gateway names: a certificate that signs itself."""
        key = self.folder / "edge.key"
        names = ["-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}"]
        names += ["-addext", "keyUsage=critical,digitalSignature,keyCertSign"]
        made = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-keyout", str(key)]
        subprocess.run(
            ["openssl", "req", "-x509", *made, *names, "-out", str(self.authority)], check=True, capture_output=True
        )
        files = [f"--cert={self.authority}", f"--key={key}", "--dry-run=client", "--output=json"]
        return self.kubectl("create", "secret", "tls", CERTIFICATE, *files)

    def _routes(self) -> str:
        """What the component adds to the overlay of development, as documents to follow others."""
        overlays = self.checkout / "k8s" / "overlays"
        folder = shutil.copytree(overlays / "dev", overlays / "edge", dirs_exist_ok=True)
        kustomization, site = folder / "kustomization.yaml", folder / "site.env"
        before, after = "../../components/site", "../../components/gateway-api, ../../components/site"
        kustomization.write_text(kustomization.read_text().replace(before, after))
        site.write_text(re.sub(r"^HOST=.*$", f"HOST={HOST}\nGATEWAY_CLASS=traefik", site.read_text(), flags=re.M))
        documents, findings = rendered(self.checkout, "k8s/overlays/edge")
        assert findings == []
        return "".join(f"\n---\n{json.dumps(one.body)}" for one in documents if one.kind in ROUTES)

    def _wait(self) -> None:
        ready = (f"--namespace={EDGE_SPACE}", f"--timeout={READY_S}s")
        self.kubectl("rollout", "status", "deployment/traefik", *ready, timeout_s=READY_S + 30)
        self.kubectl("wait", f"gateway/{NAME}", "--for=condition=Programmed", f"--timeout={READY_S}s", timeout_s=90)
        service = self.object("service", "traefik", f"--namespace={EDGE_SPACE}")
        self._hosts.write_text(f"127.0.0.1 localhost\n{service['spec']['clusterIP']} {HOST}\n")
        wait(lambda: self.curl("", "/readyz"), READY_S, "nothing answers behind the edge")


def build() -> Path:
    """The program, built where it is not there yet."""
    made = built()
    if not made.is_file():
        made.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=made.parent) as folder:
            module = Path(folder, "module")
            for part, name in PARTS.items():
                shutil.copytree(_module(name), module / part, ignore=shutil.ignore_patterns("*_test.go", "dns"))
            shutil.copytree(MODULE, module, dirs_exist_ok=True)
            program = Path(folder, made.name)
            flags = ["-ldflags=-s -w", "-o", str(program)]
            _go("build", "-C", str(module), *flags, PACKAGE, deadline_s=BUILD_S)
            program.rename(made)
    return made


def built() -> Path:
    """Where the program is once it is built. Its folder's name follows from what it is built from."""
    files = sorted(file for file in MODULE.rglob("*.*") if file.suffix in tools.SOURCES)
    content = b"".join(file.read_bytes() for file in files)
    return tools.CACHE / "edge" / hashlib.sha256(content).hexdigest()[:12] / "traefik"


def _module(name: str) -> Path:
    """The folder of a module, in the version that edge/go.mod pins."""
    found = re.search(rf"\s{re.escape(name)} (v\S+)", (MODULE / "go.mod").read_text())
    assert found, f"edge/go.mod does not pin {name}"
    return Path(json.loads(_go("mod", "download", "-json", f"{name}@{found[1]}", deadline_s=DOWNLOAD_S))["Dir"])


def _go(*arguments: str, deadline_s: float) -> str:
    done = subprocess.run(tools.go(*arguments), cwd="/", capture_output=True, text=True, timeout=deadline_s)
    assert done.returncode == 0, f"go {' '.join(arguments)}: {(done.stderr or done.stdout)[-2000:]}"
    return done.stdout
