"""Write every text in this repository that follows from facts elsewhere: `make generate`. With `--check` only compare.

OUTPUTS says what is made from what. A file that is generated as a whole says so in its first line. In a page that is
otherwise written by hand, a generated section stands between two comments, the first of which names its source.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from pkgutil import resolve_name
from textwrap import indent
from typing import Any, Final, Literal, NamedTuple, get_args, get_origin

import yaml
from annotated_types import Ge, Le
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, also where another one is installed

from serve_app import errors, keyspace
from serve_app.app import ApplicationArgs
from serve_app.gateway.routes.table import ROUTES
from serve_app.models.registry import ModelConfig
from serve_app.settings import Settings

ROOT: Final = Path(__file__).resolve().parents[1]
NETWORK: Final = "k8s/network.yaml"
SERVE: Final = "serve_app/serve.yaml and k8s/service/sizes.yaml"
Ports = list[dict[str, Any]]
RAY: Final = ["head", "gateway", "models", "burst"]
COMPONENT: Final = "app.kubernetes.io/component"
ACCOUNTS: Final = "cluster.local/ns/sem-image-classifier/sa/"


class Output(NamedTuple):
    """A generated file, or one section of a page."""

    path: str
    source: str
    """The file that holds the facts."""
    renew: Callable[[str, str], str]
    """Takes the current text of the file (empty if it does not exist) and the source; returns the generated text."""


def notice(source: str) -> str:
    """The line that warns against editing a generated text."""
    return f"Generated from {source} by `make generate`: change it there."


def section(page: str, name: str, source: str, lines: Iterable[str], *, yaml_indent: str | None = None) -> str:
    """The page with these lines between `<!-- generated: NAME … -->` and `<!-- end: NAME -->`, in YAML `# …`."""
    first, last = f"<!-- generated: {name}.", f"<!-- end: {name} -->"
    text = "\n".join([f"{first} {notice(source)} -->", "", *lines, "", last])
    if yaml_indent is not None:
        first, last = f"# generated: {name}.", f"# end: {name}"
        text = f"\n{yaml_indent}".join([f"{first} {notice(source)}", *lines, last])
    pattern = re.compile(f"{re.escape(first)}.*?{re.escape(last)}", re.DOTALL)
    renewed, count = pattern.subn(lambda _: text, page)
    if count != 1:
        sys.exit(f"A page needs one section {name!r}: a line `{first} -->` and below it a line `{last}`.")
    return renewed


def table(heading: tuple[str, ...], rows: Iterable[Iterable[str]]) -> list[str]:
    """A table in Markdown."""
    first, *others = [f"| {' | '.join(row)} |" for row in (heading, *rows)]
    return [first, "|" + "---|" * len(heading), *others]


def read_yaml(path: str) -> Any:
    """A file of this repository as data."""
    return yaml.safe_load((ROOT / path).read_text("utf-8"))


def secrets(page: str, source: str) -> str:
    """The contents of each Secret, for docs/security.md."""
    listed = read_yaml(source)["secrets"]
    rows = [
        (f"`{name}`", f"`{key}`", row["opens"], row["for"])
        for name, keys in listed.items()
        for key, row in keys.items()
    ]
    return section(page, "secrets", source, table(("Secret", "Key", "Opens", "For"), rows))


def external_secrets(_: str, source: str) -> str:
    """The Secrets that the component external-secrets fetches: all except those that other components and operators
    make."""
    read = read_yaml(source)
    documents = []
    for name in (one for one in read["secrets"] if one not in read["made_elsewhere"]):
        spec = {
            "refreshInterval": "1h",
            "secretStoreRef": {"kind": "ClusterSecretStore", "name": "site"},
            "target": {"name": name, "creationPolicy": "Owner"},
            "dataFrom": [{"extract": {"key": f"sem-image-classifier/{name}"}}],
        }
        metadata = {"name": name, "namespace": "sem-image-classifier"}
        documents.append(resource("external-secrets.io/v1", "ExternalSecret", metadata, spec))
    return manifests(source, documents)


# Settings and the keys of the Serve config: the fields of a pydantic model, each described by the text below it.


def descriptions(source: str, kind: type[BaseModel]) -> dict[str, str]:
    """The docstring below each field of a class, on one line."""
    module = ast.parse((ROOT / source).read_text("utf-8"))
    [body] = [node.body for node in module.body if isinstance(node, ast.ClassDef) and node.name == kind.__name__]
    found = {}
    for node, below in pairwise(body):
        if isinstance(node, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            found[ast.unparse(node.target)] = " ".join(str(below.value.value).split()).removesuffix(".")
    if missing := kind.model_fields.keys() - found.keys():
        sys.exit(f"{source}: {kind.__name__} has no description of {', '.join(sorted(missing))}.")
    return found


def fields(source: str, kind: type[BaseModel], written: Callable[[str], str] = str) -> list[tuple[str, ...]]:
    """The rows of a table: name, values, default and meaning of each field of a class."""
    meanings = descriptions(source, kind)
    return [
        (f"`{written(name)}`", values(field), default(field), meanings[name])
        for name, field in kind.model_fields.items()
    ]


def values(field: FieldInfo) -> str:
    """The valid values of a field: `whole number, 1 to 500`."""
    if get_origin(field.annotation) is Literal:
        *first, last = (f"`{choice}`" for choice in get_args(field.annotation))
        return f"{', '.join(first)} or {last}"
    name = next((name for kind, name in VALUES.items() if kind in str(field.annotation)), "text")
    bounds = {type(bound).__name__: bound for bound in field.metadata}
    least, most = bounds.get("Ge"), bounds.get("Le")
    texts = [name]
    if isinstance(least, Ge) and isinstance(most, Le):
        texts.append(f"{least.ge} to {most.le}")
    else:
        texts += [
            f"{word} {getattr(bounds[bound], bound.lower())}" for bound, word in BOUNDS.items() if bound in bounds
        ]
    return ", ".join(texts)


VALUES: Final = {
    "Secret": "text, secret",
    "Path": "path",
    "IssuerRule": "JSON",
    "ModelConfig": "list",
    "dict": "names and numbers",
    "tuple": "list",
    "int": "whole number",
    "float": "number",
}
"""A part of a field's type, and the name of its values."""
BOUNDS: Final = {"Ge": "at least", "Gt": "above", "Le": "at most"}


def default(field: FieldInfo) -> str:
    """A default in the form of the environment or the file."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if isinstance(value, tuple):
        value = ",".join(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "empty" if value in (None, "") else f"`{value}`"


SETTINGS_BEGIN: Final = {
    "where-it-runs": "environment",
    "who-may-ask": "oidc_issuers",
    "metrics-and-traces": "metrics_token",
    "limits": "rate_submits_per_s",
    "jobs": "job_ttl",
    "images": "image_max_bytes",
    "model": "model_source",
    "requests": "submit_timeout_s",
}
"""The sections of the page, and the setting with which each begins."""


def settings(page: str, source: str) -> str:
    """The settings, a table for each section of docs/settings.md."""
    names = list(Settings.model_fields)
    rows = fields(source, Settings, str.upper)
    begins = [names.index(first) for first in SETTINGS_BEGIN.values()]
    for name, begin, end in zip(SETTINGS_BEGIN, begins, [*begins[1:], len(names)], strict=True):
        page = section(page, name, source, table(("Setting", "Value", "Default", "Meaning"), rows[begin:end]))
    return page


def application_keys(page: str, source: str) -> str:
    """The keys of `args` in a Serve config, for docs/operations.md."""
    return section(page, "args", source, table(CONFIG_HEADING, fields(source, ApplicationArgs)))


def model_keys(page: str, source: str) -> str:
    """The keys of one block of `models`, for docs/operations.md."""
    return section(page, "model", source, table(CONFIG_HEADING, fields(source, ModelConfig)))


CONFIG_HEADING: Final = ("Key", "Value", "Default", "Meaning")


# Problems


def problem_types() -> dict[str, str]:
    """Each problem's slug, and the line below its heading: its status and title."""
    lines = {kind.slug: f"**Not shown** · {kind.title}" for kind in errors.ModelOutage.__subclasses__()}
    for slug, kind in errors.PROBLEMS.items():
        status = "Job FAILED" if issubclass(kind, errors.JobError) else kind.status
        lines[slug] = f"**{status}** · {kind.title}"
    return lines


def problems(page: str, source: str) -> str:
    """Status and title below each heading of docs/problems.md, whose prose is written by hand."""
    lines = problem_types()
    headings = re.findall(r"^### (.+)$", page, re.MULTILINE)
    if sorted(headings) != sorted(lines):
        sys.exit(f"docs/problems.md needs one heading `### slug` for each of {source}: {set(headings) ^ set(lines)}")
    return re.sub(
        r"^### (.+)\n\n(?:\*\*.*\n)?", lambda found: f"### {found[1]}\n\n{lines[found[1]]}\n", page, flags=re.M
    )


def routes(page: str, source: str) -> str:
    """The table of routes, for docs/api.md."""
    rows = [
        (
            f"`{one.method}`",
            f"`{one.path}`",
            "yes" if one.tracked else "no",
            one.deadline,
            f"`{one.tracked}`" if one.tracked else "not counted",
        )
        for one in ROUTES
    ]
    return section(page, "routes", source, table(("Method", "Path", "Token", "Deadline", "Counted as"), rows))


# Keys of Redis


def redis_keys(_: str, source: str) -> str:
    """Every key of the job Redis, for docs/redis-keys.md."""
    rows = [(f"`{key.template}`", key.room, key.kind, key.holds, _bound(key), key.leaves) for key in keyspace.KEYS]
    heading = ("Key", "Room", "Type", "What it is", "Bound", "Leaves")
    return "\n".join([f"<!-- {notice(source)} -->", REDIS_KEYS, *table(heading, rows), ""])


def _bound(key: keyspace.Key) -> str:
    """The bound in words, after its number or the name of its setting."""
    most = key.most
    if isinstance(most, str) and "." in most:
        most = int(resolve_name(f"serve_app.{most}"))
    return f"{most:,} {key.bound}" if isinstance(most, int) else f"{most} {key.bound}".strip()


REDIS_KEYS: Final = """
# Keys of the job Redis

Each key belongs to one [room](architecture.md#the-rooms), which decides what is in it. Times are Redis' clock. Keys
that grow have a bound, and the last column says when each leaves. In a name, `{owner}` is a principal's id and `{id}`
that of a job or a delivery; `{hash}` is of an Idempotency-Key, its owner and its route.

An older release uses the same keys during an upgrade, so their names, types and TTLs stay.
"""


# Manifests


def prometheus_rules(_: str, source: str) -> str:
    """The alerts as a resource of the Prometheus operator."""
    resource = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "sem-image-classifier", "namespace": "sem-image-classifier"},
    }
    groups = (ROOT / source).read_text("utf-8").partition("\ngroups:")[2]
    return manifests(source, [resource]) + "spec:\n  groups:" + indent(groups, "  ")


def serve_config(variant: str) -> dict[str, Any]:
    """The application of the laptop with the sizes of the cluster, and of a variant of it."""
    sizes = read_yaml("k8s/service/sizes.yaml")
    config = changed(read_yaml("serve_app/serve.yaml"), sizes["cluster"])
    return dict(config if variant == "cluster" else changed(config, sizes[variant]))


def changed(value: Any, changes: Any) -> Any:
    """A value with changes: mappings by key, lists of named objects by name."""
    if isinstance(value, dict) and isinstance(changes, dict):
        return value | {name: changed(value.get(name), change) for name, change in changes.items()}
    if isinstance(value, list) and isinstance(changes, list):
        named = {change["name"]: change for change in changes}
        if unknown := named.keys() - {one["name"] for one in value}:
            sys.exit(
                f"k8s/service/sizes.yaml has sizes of {', '.join(unknown)}, which serve_app/serve.yaml does not have."
            )
        return [changed(one, named.get(one["name"], {})) for one in value]
    return changes


def cluster_config(manifest: str, source: str) -> str:
    """`serveConfigV2` of rayservice.yaml."""
    lines = ["serveConfigV2: |", *indent(dumped(serve_config("cluster"), flow=False), "  ").splitlines()]
    return section(manifest, "serveConfigV2", source, lines, yaml_indent="  ")


def variant_config(variant: str) -> Callable[[str, str], str]:
    """A patch that replaces `serveConfigV2` in a variant of rayservice.yaml."""

    def renew(_: str, source: str) -> str:
        patch = {"apiVersion": "ray.io/v1", "kind": "RayService", "metadata": {"name": "sem-image-classifier"}}
        config = indent(dumped(serve_config(variant), flow=False), "    ")
        return manifests(source, [patch]) + f"spec:\n  serveConfigV2: |\n{config}"

    return renew


def manifests(source: str, documents: list[dict[str, Any]]) -> str:
    """A generated file of manifests."""
    return f"# {notice(source)}\n" + "---\n".join(map(dumped, documents))


class Dumper(yaml.SafeDumper):
    """Indents lists, and writes a repeated value in full."""

    def ignore_aliases(self, _: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> Any:
        return super().increase_indent(flow, False)


def dumped(value: Any, *, flow: bool | None = None) -> str:
    """As YAML, with the innermost mappings and lists on one line each unless `flow` is False."""
    return str(yaml.dump(value, Dumper=Dumper, sort_keys=False, default_flow_style=flow, width=120, allow_unicode=True))


# Who may reach whom


class Network:
    """The table of k8s/network.yaml."""

    def __init__(self, source: str) -> None:
        table = read_yaml(source)
        self.parties: dict[str, dict[str, Any]] = table["parties"]
        self.addresses: list[dict[str, Any]] = table["addresses"]
        self.policies: dict[str, dict[str, Any]] = table["policies"]
        self.mesh: dict[str, dict[str, Any]] = table["mesh"]
        self.ways: dict[tuple[str, str], Ports] = {}
        """The ports of each connection, by source and target."""
        for row in self.addresses:
            ports = [{"protocol": one, "port": row["port"]} for one in row.get("protocols", ["TCP"])]
            for source in (name for listed in row["from"] for name in (RAY if listed == "ray" else (listed,))):
                self.ways.setdefault((source, row["to"]), []).extend(ports)

    def sources(self, to: str) -> list[str]:
        """Every source that may reach a party."""
        return [name for name in self.parties if (name, to) in self.ways]

    def ports(self, sources: list[str], targets: list[str]) -> Ports:
        """The ports of the targets that the sources may reach; one rule requires the same ports for all."""
        first, *others = [self.ways.get((source, to), []) for source in sources for to in targets]
        if not first or any(other != first for other in others):
            sys.exit(f"k8s/network.yaml: no one rule says what {sources} may reach of {targets}.")
        return first

    def peer(self, names: list[str]) -> dict[str, Any]:
        """A peer of a network policy: pods of this namespace, or one party outside."""
        outside = self.parties[names[0]].get("peer")
        if not outside:
            return {"podSelector": selector(names)}
        if "cidr" in outside:
            return {"ipBlock": outside}
        labels = {"podSelector": {"matchLabels": outside["labels"]}} if "labels" in outside else {}
        return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": outside["namespace"]}}, **labels}


def selector(pods: list[str]) -> dict[str, Any]:
    """Pods by their component."""
    if len(pods) == 1:
        return {"matchLabels": {COMPONENT: pods[0]}}
    return {"matchExpressions": [{"key": COMPONENT, "operator": "In", "values": pods}]}


def addresses(page: str, source: str) -> str:
    """Every address and its permitted sources, for docs/security.md."""
    rows = [
        (f"`{row['to']}:{row['port']}`", row["what"], ", ".join(row["from"]) or "nobody")
        for row in Network(source).addresses
    ]
    return section(page, "addresses", source, table(("Address", "What is there", "Let in"), rows))


def network_policies(_: str, source: str) -> str:
    """The table's connections as network policies."""
    network = Network(source)
    policies = []
    for name, row in network.policies.items():
        pods = row.get("pods") or network.sources(row["to"][0])
        spec: dict[str, Any] = {"podSelector": selector(pods), "policyTypes": []}
        if "from" in row:
            groups = [[one] for one in row["from"]] or [network.sources(pods[0])]
            spec["policyTypes"].append("Ingress")
            spec["ingress"] = [{"from": [network.peer(one)], "ports": network.ports(one, pods)} for one in groups]
        if "to" in row:
            spec["policyTypes"].append("Egress")
            spec["egress"] = [{"to": [network.peer([to])], "ports": network.ports(pods, [to])} for to in row["to"]]
        policies.append(resource("networking.k8s.io/v1", "NetworkPolicy", {"name": name}, spec))
    return manifests(source, policies)


def mesh_rules(_: str, source: str) -> str:
    """The table's connections by account, as rules of the service mesh. The first rule closes every pod that no other
    selects."""
    network = Network(source)
    policies = [authorization("allow-nothing", {})]
    for name, row in network.mesh.items():
        pods: list[str] = row["pods"]
        sources = network.sources(pods[0])
        ours = [one for one in sources if "peer" not in network.parties[one]]
        accounts = sorted({network.parties[one].get("account", one) for one in ours})
        rule: dict[str, Any] = {"from": [{"source": {"principals": [ACCOUNTS + one for one in accounts]}}]}
        if pods[0] not in RAY:  # Ray's pods reach one another on all ports
            rule |= on_ports(network.ports(ours, pods))
        rules = [rule]
        for one in sources:
            if one not in ours:
                namespace = network.parties[one]["peer"]["namespace"]
                rules.append(
                    {"from": [{"source": {"namespaces": [namespace]}}], **on_ports(network.ports([one], pods))}
                )
        spec = {"selector": {"matchLabels": row["selector"]}, "action": "ALLOW", "rules": rules}
        policies.append(authorization(name, spec))
    return manifests(source, policies)


def authorization(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    """A rule of Istio's."""
    metadata = {"name": name, "namespace": "sem-image-classifier"}
    return resource("security.istio.io/v1", "AuthorizationPolicy", metadata, spec)


def on_ports(ports: Ports) -> dict[str, Any]:
    """Ports as Istio lists them."""
    return {"to": [{"operation": {"ports": [str(one["port"]) for one in ports]}}]}


def resource(version: str, kind: str, metadata: dict[str, str], spec: dict[str, Any]) -> dict[str, Any]:
    """A Kubernetes resource."""
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}


OUTPUTS: Final = (
    Output("docs/settings.md", "serve_app/settings.py", settings),
    Output("docs/operations.md", "serve_app/app.py", application_keys),
    Output("docs/operations.md", "serve_app/models/registry.py", model_keys),
    Output("docs/problems.md", "serve_app/errors.py", problems),
    Output("docs/api.md", "the rows in serve_app/gateway/routes/", routes),
    Output("docs/redis-keys.md", "serve_app/keyspace.py", redis_keys),
    Output("docs/security.md", "k8s/secrets.yaml", secrets),
    Output("k8s/components/external-secrets/secrets.yaml", "k8s/secrets.yaml", external_secrets),
    Output("docs/security.md", NETWORK, addresses),
    Output("k8s/base/network/policies.yaml", NETWORK, network_policies),
    Output("k8s/components/service-mesh/who-may.yaml", NETWORK, mesh_rules),
    Output("k8s/monitoring/rules.yaml", "k8s/monitoring/alerts.yaml", prometheus_rules),
    Output("rayservice.yaml", SERVE, cluster_config),
    Output("k8s/service/dev/serve.yaml", SERVE, variant_config("dev")),
    Output("k8s/service/components/gpu/serve.yaml", SERVE, variant_config("gpu")),
)


def main() -> None:
    """Write the outputs that differ, or with `--check` name them and fail."""
    check = sys.argv[1:] == ["--check"]
    stale = False
    for output in OUTPUTS:
        path = ROOT / output.path
        text = path.read_text("utf-8") if path.exists() else ""
        renewed = output.renew(text, output.source)
        if renewed == text:
            continue
        if check:
            stale = True
            print(f"{output.path} does not say what {output.source} says. Run `make generate` and commit the result.")
        else:
            path.write_text(renewed, "utf-8")
            print(f"{output.path} is renewed from {output.source}.")
    sys.exit(1 if stale else 0)


if __name__ == "__main__":
    main()
