"""As much of a Kubernetes API server as Ray's autoscaler asks for: one RayCluster read and patched, its pods listed.

It takes the token of the head's account alone, over TLS with a certificate of its own.
"""

from __future__ import annotations

import ipaddress
import json
import secrets
import ssl
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from serve_app.contracts import Json
from simulator.pods.network import API_PORT

LIFETIME = timedelta(days=1)


class ApiServer:
    """Serves from a thread. `pods` lists a cluster's; a PATCH changes the RayClusters in `resources`."""

    def __init__(self, folder: Path, address: str, pods: Callable[[str], list[Json]]) -> None:
        self.resources: dict[str, Json] = {}
        self.patches: list[Json] = []
        self.refused = 0
        self.pods, self.address = pods, address
        self.account = folder / "serviceaccount"
        """What is mounted into a pod whose account may ask here."""
        self.account.mkdir(parents=True)
        self.token = secrets.token_hex(24)
        (self.account / "token").write_text(self.token)
        key = _make_certificate(self.account / "ca.crt", folder / "api-server.key", address)
        self._server = ThreadingHTTPServer((address, API_PORT), _handler(self))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.account / "ca.crt", key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, name="api-server", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def end(self) -> None:
        """Answer nobody any more."""
        self._server.shutdown()
        self._server.server_close()

    def patch(self, name: str, operations: list[Json]) -> Json:
        """A JSON patch of the operations that the autoscaler uses."""
        resource = self.resources[name]
        for operation in operations:
            *path, last = operation["path"].lstrip("/").split("/")
            place = resource
            for step in path:
                place = place[int(step)] if isinstance(place, list) else place[step]
            if operation["op"] not in ("add", "replace"):
                raise ValueError(f"the patch {operation['op']} is not known here")
            place[last] = operation["value"]
            self.patches.append(operation)
        return resource


def _handler(server: ApiServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(lambda: _read(server, self.path))

        def do_PATCH(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self._answer(lambda: server.patch(_name(self.path), json.loads(body)))

        def log_message(self, *_: object) -> None:
            pass

        def _answer(self, give: Callable[[], Json]) -> None:
            status, document = 200, {}
            if self.headers.get("Authorization") != f"Bearer {server.token}":
                server.refused += 1
                status = 401
            else:
                try:
                    document = give()
                except KeyError:
                    status = 404
            data = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    return Handler


def _read(server: ApiServer, path: str) -> Json:
    parts = urlsplit(path)
    if "/rayclusters/" in parts.path:
        return server.resources[_name(path)]
    every = [pod for name in server.resources for pod in server.pods(name)]
    if parts.path.endswith("/pods"):
        wanted = dict(pair.split("=", 1) for pair in parse_qs(parts.query).get("labelSelector", []))
        found = [pod for pod in every if wanted.items() <= pod["metadata"]["labels"].items()]
        return {"kind": "PodList", "metadata": {"resourceVersion": "1"}, "items": found}
    return {pod["metadata"]["name"]: pod for pod in every}[_name(path)]


def _name(path: str) -> str:
    return urlsplit(path).path.rsplit("/", 1)[-1]


def _make_certificate(path: Path, key_path: Path, address: str) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - LIFETIME)
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    key_path.write_bytes(private)
    key_path.chmod(0o600)
    return key_path
