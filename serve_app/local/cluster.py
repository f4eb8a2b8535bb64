"""One Ray node on loopback with the application on it, as two supervised families of processes.

The node is started by `ray start`, because only there its address can be 127.0.0.1, which keeps Ray's ports on
loopback; the application by `serve run`, on a Serve that logs as its config says. Ray's token authentication is on, its
usage statistics are off."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import httpx2
import yaml

from serve_app.contracts import Json
from serve_app.local.process_supervisor import supervised
from serve_app.local.server import free_ports, is_free
from serve_app.local.state import LocalError, keep, make_folder, password

NODE_DEADLINE_S = 90.0
APPLICATION_DEADLINE_S = 180.0
STOP_GRACE_S = 15.0
POLL_S = 0.2
PORTS = 9
"""Most ports that a cluster needs."""
PROXY_CALLBACK = "serve_app.proxy:middlewares"
"""Our middlewares for Serve's proxy."""
LOGICAL_CPUS = 8
"""The number of CPUs that Ray assumes. Replicas share the real ones; none reserves a whole one here."""
STARTED_WITH: Final = ("proxy_location", "http_options", "logging_config")


class Cluster:
    """The application of one Serve config, on its own Ray node.

    `environment` is added to the replicas' environment (REDIS_URL, …). With `haproxy` the node uses Serve's HAProxy and
    throughput mode, as on Kubernetes; then HAProxy's statistics port is open to the network, so the default is the
    plain proxy. `logs` is a folder for the output of node and application; Ray's own logs are also copied there when
    the cluster stops."""

    def __init__(
        self,
        folder: Path,
        config: Path,
        environment: Mapping[str, str],
        *,
        api_port: int = 0,
        dashboard_port: int = 0,
        haproxy: bool = False,
        logs: Path | None = None,
    ) -> None:
        self.folder = folder.absolute()
        self.logs = logs or self.folder
        self._keeps_logs = logs is not None
        self.config = config
        self._ports = free_ports(PORTS)
        self.api_port = api_port or self._ports.pop()
        self.dashboard_port = dashboard_port or self._ports.pop()
        self.node_port, self.agent_port, self.client_port = (self._ports.pop() for _ in range(3))
        # Short, because Ray and HAProxy create sockets in it, and a socket's path has at most 97 characters.
        digest = hashlib.sha256(f"{os.getuid()} {self.folder}".encode()).hexdigest()[:8]
        self.ray_folder = Path("/tmp") / f"semapi-{digest}"  # noqa: S108  made 0700 by us, and refused when it is not
        inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        self.environment = {**inherited, **environment, **self._ray_environment(haproxy)}
        self._families: list[subprocess.Popen[bytes]] = []

    @property
    def url(self) -> str:
        return f"http://localhost:{self.api_port}"

    @property
    def dashboard_url(self) -> str:
        return f"http://localhost:{self.dashboard_port}"

    @property
    def token_file(self) -> Path:
        """Ray's own token: the dashboard requires it, `ray` and `serve` commands read it."""
        return self.folder / "ray-token"

    def start(
        self, progress: Callable[[str], None] = lambda _: None, meanwhile: Callable[[], None] = lambda: None
    ) -> None:
        """Start and return when the service is healthy; `meanwhile` is called repeatedly while it waits.

        Raises LocalError with the end of the log that shows the reason.
        """
        for port in (self.api_port, self.dashboard_port):
            if not is_free(port):
                raise LocalError(
                    f"Port {port} is in use by another program; stop it or choose another port: semapi up --help."
                )
        make_folder(self.folder)
        application_command = self._application_command()
        password(self.token_file)
        self._make_ray_folder()
        try:
            progress("starting a Ray node")
            node = self._launch("node", self._node_command())
            self._wait(node, "node", self._node_answers, NODE_DEADLINE_S, meanwhile)
            progress("starting the application")
            # On SIGINT `serve run` shuts down and replicas give back their jobs. SIGTERM would just end it.
            application = self._launch("application", application_command, signal.SIGINT)
            self._wait(application, "application", self.is_healthy, APPLICATION_DEADLINE_S, meanwhile)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the application, then the node with all its descendants, including HAProxy."""
        for family in reversed(self._families):
            family.terminate()
            try:
                family.communicate(timeout=STOP_GRACE_S + 20)
            except subprocess.TimeoutExpired:
                family.kill()
        self._families.clear()
        self._remove_ray_folder("ray")

    def is_healthy(self) -> bool:
        return _get(f"{self.url}/health") is not None

    def runs(self) -> bool:
        """False once the node or the application has ended by itself."""
        return all(family.poll() is None for family in self._families)

    def pids(self) -> list[int]:
        """The supervisors; every process of the cluster descends from one of them."""
        return [family.pid for family in self._families]

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def _remove_ray_folder(self, kept_as: str) -> None:
        if self._keeps_logs:
            keep(self.ray_folder / "session_latest" / "logs", self.logs / kept_as)
        shutil.rmtree(self.ray_folder, ignore_errors=True)

    def _make_ray_folder(self) -> None:
        self._remove_ray_folder("ray-of-the-run-before")  # left only if the previous run was killed
        try:
            self.ray_folder.mkdir(mode=0o700)
        except OSError as error:
            raise LocalError(f"{self.ray_folder} cannot be made ({error.strerror}): remove what is there.") from error

    def _launch(
        self, name: str, command: list[str], end_signal: signal.Signals = signal.SIGTERM
    ) -> subprocess.Popen[bytes]:
        self.log(name).unlink(missing_ok=True)
        family = supervised(command, self.environment, self.log(name), end_signal=end_signal, grace_s=STOP_GRACE_S)
        self._families.append(family)
        return family

    def _wait(
        self,
        family: subprocess.Popen[bytes],
        name: str,
        is_ready: Callable[[], bool],
        seconds: float,
        meanwhile: Callable[[], None],
    ) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and family.poll() is None:
            if is_ready():
                return
            meanwhile()
            if failure := self._deployment_failure():
                raise LocalError(f"The {name} did not start: {failure}")
            time.sleep(POLL_S)
        tail = "\n".join(self.log(name).read_text(errors="replace").splitlines()[-25:])
        raise LocalError(f"The {name} did not start. The end of {self.log(name)}:\n{tail}")

    def _node_answers(self) -> bool:
        return _get(f"{self.dashboard_url}/api/version", password(self.token_file)) is not None

    def _deployment_failure(self) -> str:
        """Serve's message about a failed application; empty if none has failed."""
        details = _get_json(f"{self.dashboard_url}/api/serve/applications/", password(self.token_file))
        for application in details.get("applications", {}).values():
            if application["status"] == "DEPLOY_FAILED":
                return _why(application)
        return ""

    def _node_command(self) -> list[str]:
        options = {
            "node-ip-address": "127.0.0.1",
            "port": self.node_port,
            "dashboard-host": "127.0.0.1",
            "dashboard-port": self.dashboard_port,
            "dashboard-agent-listen-port": self.agent_port,
            "ray-client-server-port": self.client_port,
            "min-worker-port": 0,  # Ray's default range contains the token issuer's port
            "max-worker-port": 0,
            "num-cpus": LOGICAL_CPUS,
            "temp-dir": self.ray_folder,
        }
        flags = [f"--{name}={value}" for name, value in options.items()]
        return [_script("ray"), "start", "--head", "--block", "--disable-usage-stats", *flags]

    def _application_command(self) -> list[str]:
        config = self._read_config()
        config["http_options"] = {**config.get("http_options", {}), "host": "127.0.0.1", "port": self.api_port}
        resolved = self.folder / "serve.yaml"
        resolved.write_text(yaml.safe_dump(config, sort_keys=False))
        address = f"127.0.0.1:{self.node_port}"
        return [sys.executable, "-P", "-m", "serve_app.local.cluster", address, str(resolved)]

    def _read_config(self) -> Json:
        try:
            config = yaml.safe_load(self.config.read_text())
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise LocalError(f"The Serve config {self.config} cannot be read: {error}") from error
        if not isinstance(config, dict) or not config.get("applications"):
            raise LocalError(f"The Serve config {self.config} names no applications.")
        return config

    def _ray_environment(self, haproxy: bool) -> dict[str, str]:
        environment = {
            # Spooled uploads and leftovers of killed processes are private, and are deleted with the folder.
            "TMPDIR": str(self.ray_folder),
            # Without this Ray replaces 127.0.0.1 by the machine's address (the default on macOS and Windows differs).
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_file),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_SERVE_LOG_TO_STDERR": "0",
            "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": PROXY_CALLBACK,
            # A node that is told to end waits until its work has moved to other nodes; here there are none.
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            # Ray's default niceness of 15 leaves no lower priority for inference, which yields to the gateway.
            "RAY_worker_niceness": "0",
            "AUTOSCALER_METRIC_PORT": str(self._ports.pop()),
            "DASHBOARD_METRIC_PORT": str(self._ports.pop()),
            # Ray's default of ten control loops a second uses most of an idle laptop's processor time.
            "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
            # By default a replica drains for half a minute; on one machine no traffic arrives any more.
            "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        }
        if haproxy:
            environment |= {
                "RAY_SERVE_ENABLE_HA_PROXY": "1",
                "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
                "RAY_SERVE_HAPROXY_STATS_PORT": str(self._ports.pop()),
                "RAY_SERVE_HAPROXY_METRICS_PORT": str(self._ports.pop()),
                # A request's headers must fit in one buffer, 16 KiB by default; tokens are up to 64 KiB long.
                "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": "98304",
                # Serve would count every request again from HAProxy's log, at a sixteenth of the cost of a read.
                "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
                "RAY_SERVE_HAPROXY_LOG_TARGET": "ring@buf0",
                # Two users of one machine would share the default folder, which the first of them owns.
                "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(self.ray_folder / "h" / "haproxy.cfg"),
                "RAY_SERVE_HAPROXY_SOCKET_PATH": str(self.ray_folder / "h" / "admin.sock"),
                "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(self.ray_folder / "h"),
                "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(self.ray_folder / "h" / "server-state"),
            }
        return environment


def _why(application: Json) -> str:
    """The failed deployments with the last line of each traceback; without one, Serve's message."""
    failed = {name: one for name, one in application["deployments"].items() if one["status"] == "DEPLOY_FAILED"}
    reasons = [f"{name}: {(one['message'].strip().splitlines() or [''])[-1]}" for name, one in failed.items()]
    return "; ".join(reasons) or str(application["message"])


def _script(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _get(url: str, token: str = "") -> httpx2.Response | None:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        answer = httpx2.get(url, headers=headers, timeout=5, trust_env=False)
    except httpx2.HTTPError:
        return None
    return answer if answer.status_code == 200 else None


def _get_json(url: str, token: str) -> Json:
    answer = _get(url, token)
    return answer.json() if answer else {}


def run(address: str, config: str) -> None:
    """Start Serve on the Ray node at `address`, then do as `serve run` does, until it is ended.

    `serve run` (Ray 2.60) gives the config's `logging_config` to replicas only: its proxy would write text, and one
    more line for each request. But it leaves a Serve that already runs as it is. `start` runs this
    module as a program for it.
    """
    import ray
    from ray import serve
    from ray.serve.scripts import cli

    options = yaml.safe_load(Path(config).read_text())
    ray.init(address=address, namespace="serve")
    serve.start(**{name: options[name] for name in STARTED_WITH if name in options})
    cli(["run", f"--address={address}", config])


if __name__ == "__main__":
    run(*sys.argv[1:])
