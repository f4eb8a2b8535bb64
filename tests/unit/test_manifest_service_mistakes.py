"""Mistakes in rayservice.yaml, one at a time: each is found, in its line, with a sentence that names it."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from manifests import commands, kubernetes, network, pods, references
from manifests.documents import read
from manifests.everything import Check
from manifests.rayservice import capacity, fields, operator, promises, serve, start

from tests.manifests_given import SERVICE_TEXT, with_service


class Mistake(NamedTuple):
    """`old` becomes `new` where it first stands (after `after`), and that is found in the line that holds `shown`."""

    check: Check
    old: str
    new: str
    path: str
    """The end of the finding's path."""
    words: str
    after: str = ""
    shown: str = ""
    """Empty: the first line of `new`."""


MODELS, BURST = "groupName: models", "groupName: burst"
PASSWORD = """\
      redisPassword:
        valueFrom:
          secretKeyRef: {name: sem-image-classifier-ray-redis, key: password}
"""
GATEWAY_RESOURCE = r"""'"{\"gateway\": 1}"'"""

MISTAKES = {
    "a misspelt key of Serve": Mistake(
        serve.check, "keep_alive_timeout_s", "keep_alive_timeouts_s", "http_options.keep_alive_timeouts_s", "would drop"
    ),
    "a text for a number, to Serve": Mistake(serve.check, "port: 8000", 'port: "8000"', "http_options.port", "integer"),
    "a misspelt argument": Mistake(serve.check, "gateway_cpus", "gateway_cpu", "args.gateway_cpu", "Extra inputs"),
    "a text for a number, to the application": Mistake(
        serve.check, "max_batch_size: 8", 'max_batch_size: "8"', "models[0].max_batch_size", "integer"
    ),
    "an application that is not there": Mistake(
        serve.check, "serve_app.app:build", "serve_app.app:built", "import_path", "imported"
    ),
    "a model that is not there": Mistake(
        serve.check,
        "sem_classifier:SemClassifier",
        "sem_classifier:Classifier",
        "args",
        "not a subclass",
        shown="args:",
    ),
    "an override of no deployment": Mistake(
        serve.check,
        "        args:\n",
        "        deployments: [{name: gatewya, max_ongoing_requests: 3}]\n        args:\n",
        "deployments[0].name",
        "gateway, sem-classifier",
    ),
    "an override with a misspelt key": Mistake(
        serve.check,
        "        args:\n",
        "        deployments: [{name: gateway, max_queue_requests: 3}]\n        args:\n",
        "deployments[0].max_queue_requests",
        "would drop",
    ),
    "an override with a misspelt key of autoscaling": Mistake(
        serve.check,
        "        args:\n",
        "        deployments: [{name: gateway, autoscaling_config: {target_num_ongoing_requests: 3}}]\n        args:\n",
        "autoscaling_config.target_num_ongoing_requests",
        "would drop",
    ),
    "proxies on the head alone": Mistake(
        serve.check, "proxy_location: EveryNode", "proxy_location: HeadOnly", "proxy_location", "readiness"
    ),
    "a replica that no worker fits": Mistake(
        capacity.check,
        "num_cpus: 2",
        "num_cpus: 4",
        "models[0]",
        "No worker of any group fits",
        shown="- name: sem-classifier",
    ),
    "more replicas than workers": Mistake(
        capacity.check,
        "max_replicas: 8",
        "max_replicas: 9",
        "models[0]",
        "maxReplicas take 8",
        shown="- name: sem-classifier",
    ),
    "a place that no group offers": Mistake(
        capacity.check, "{gateway: 1}", "{gateways: 1}", "args", "No worker of any group fits", shown="args:"
    ),
    "a home that is no group": Mistake(
        capacity.check,
        "home_group: models",
        "home_group: model",
        "models[0].home_group",
        "No worker group is called model;",
    ),
    "workers without a replica": Mistake(
        capacity.check, "minReplicas: 2", "minReplicas: 3", "minReplicas", "never be Ready", after=MODELS
    ),
    "more gateways than pods for them": Mistake(
        capacity.check, "gateway_replicas: 2", "gateway_replicas: 5", "args", "take 4", shown="args:"
    ),
    "an unknown option of ray start": Mistake(
        start.check, 'num-cpus: "0"', 'num-cpu: "0"', "rayStartParams.num-cpu", "no option"
    ),
    "replicas on the head": Mistake(start.check, 'num-cpus: "0"', 'num-cpus: "2"', "num-cpus", "beside the control"),
    "resources that Ray's autoscaler cannot read": Mistake(
        start.check,
        GATEWAY_RESOURCE,
        "'{gateway: 1}'",
        "spec.rayClusterConfig",
        "cannot read the groups",
        shown="rayClusterConfig:",
    ),
    "resources that bash takes apart": Mistake(
        start.check, GATEWAY_RESOURCE, """'"{"gateway": 1}"'""", "rayStartParams.resources", "bash must make JSON"
    ),
    "a misspelt variable of Serve": Mistake(
        start.check, "RAY_SERVE_ENABLE_HA_PROXY,", "RAY_SERVE_ENABLE_HAPROXY,", "env[0]", "reads no variable"
    ),
    "a misspelt variable of Ray's compiled part": Mistake(
        start.check, "RAY_worker_niceness", "RAY_worker_nicenes", "env[12]", "reads no variable"
    ),
    "a group without HAProxy": Mistake(
        start.check, "                  - *haproxy\n", "", "env", "differs from the head's", after=MODELS, shown="env:"
    ),
    "a variable that stands twice": Mistake(
        start.check,
        "                  - *throughput\n",
        "                  - *haproxy\n",
        "env[1]",
        "twice",
    ),
    "another Ray than the image's": Mistake(start.check, '"2.60.0"', '"2.59.0"', "rayVersion", "locked Ray"),
    "an upgrade that does not exist": Mistake(
        operator.check, "type: NewCluster", "type: NewClusters", "upgradeStrategy.type", "none of"
    ),
    "group timeouts without autoscaler v2": Mistake(
        operator.check,
        "      version: v2",
        "      version: v1",
        "idleTimeoutSeconds",
        "version: v2",
        shown="idleTimeoutSeconds",
    ),
    "a name that is too long": Mistake(
        operator.check, "  name: sem-image-classifier #", f"  name: {'a' * 48} #", "metadata.name", "at most 47"
    ),
    "fewer at most than at least": Mistake(
        operator.check, "minReplicas: 0", "minReplicas: 5", "minReplicas", "larger than maxReplicas", after=BURST
    ),
    "two groups of one name": Mistake(operator.check, BURST, MODELS, "groupName", "another group"),
    "a Redis password beside the options": Mistake(
        operator.check,
        "                - &haproxy {",
        "                - {name: REDIS_PASSWORD, value: x}\n                - &haproxy {",
        "env",
        "gcsFaultToleranceOptions",
        shown="env:",
    ),
    "a head without the port for Serve": Mistake(
        operator.check,
        "{name: serve, containerPort: 8000} # without",
        "{name: http, containerPort: 8000} #",
        "ports",
        "no Service",
        shown="ports:",
    ),
    "pods that restart under autoscaler v2": Mistake(
        operator.check,
        "            serviceAccountName: models\n",
        "            serviceAccountName: models\n            restartPolicy: Always\n",
        "spec.restartPolicy",
        "Never",
        shown="restartPolicy",
    ),
    "a feature that is switched off": Mistake(
        operator.check,
        "    authOptions:",
        "    networkPolicy: {mode: DenyAll}\n    authOptions:",
        "networkPolicy",
        "feature gate",
    ),
    "a misspelt key of KubeRay": Mistake(
        fields.check,
        "excludeHeadPodFromServeSvc",
        "excludeHeadPodFromServeService",
        "excludeHeadPodFromServeService",
        "Extra inputs",
    ),
    "a text for a number, to KubeRay": Mistake(
        fields.check, "maxReplicas: 4 # room", 'maxReplicas: "4" # room', "maxReplicas", "integer"
    ),
    "a misspelt key of a pod": Mistake(
        kubernetes.check,
        "terminationGracePeriodSeconds: 75",
        "terminationGracePeriod: 75",
        "headGroupSpec.template.spec.terminationGracePeriod",
        "unexpected",
    ),
    "a volume of a wrong type": Mistake(
        kubernetes.check, "{sizeLimit: 1Gi}", "[]", "volumes[1].emptyDir", "not of type"
    ),
    "the tag latest": Mistake(
        pods.check,
        "sem-image-classifier:0.1.0",
        "sem-image-classifier:latest",
        "containers[0].image",
        "names no version",
    ),
    "an image without a tag": Mistake(
        pods.check,
        "sem-image-classifier:0.1.0",
        "registry.local:5000/sem-image-classifier",
        "containers[0].image",
        "names no version",
    ),
    "another image in a group": Mistake(
        pods.check,
        "image: *image",
        "image: sem-image-classifier:0.2.0",
        "containers[0].image",
        "Another image",
        after=MODELS,
    ),
    "a limit above the request": Mistake(
        pods.check,
        "limits: *models-resources",
        'limits: {cpu: "4", memory: 6Gi}',
        "resources",
        "must be equal",
        shown="resources:",
    ),
    "a sidecar with all capabilities": Mistake(
        pods.check,
        "        capabilities: {drop: [ALL]}\n",
        "",
        "autoscalerOptions.securityContext",
        "drop ALL",
        shown="securityContext",
    ),
    "a read-only root and nothing to write to": Mistake(
        pods.check,
        "- {name: autoscaler-tmp, mountPath: /tmp}",
        "- {name: autoscaler-tmp, mountPath: /var}",
        "volumeMounts",
        "emptyDir",
        shown="volumeMounts:",
    ),
    "less time than the drain takes": Mistake(
        pods.check,
        "terminationGracePeriodSeconds: 120",
        "terminationGracePeriodSeconds: 60",
        "terminationGracePeriodSeconds",
        "take 60 s",
        after=MODELS,
    ),
    "a secret that is not there": Mistake(
        references.check,
        "{name: sem-image-classifier-ray-redis, key: password}",
        "{name: ray-redis, key: password}",
        "secretKeyRef",
        "no Secret ray-redis",
    ),
    "a key that is not there": Mistake(
        references.check, "key: redis-url", "key: redis_url", "secretKeyRef", "no key redis_url"
    ),
    "a secret in the open": Mistake(
        references.check,
        "                    valueFrom: {secretKeyRef: {name: sem-image-classifier, key: database-url}}",
        "                    value: postgresql://app:secret@postgres/app",
        "env[18]",
        "in the open",
        shown="name: DATABASE_URL",
    ),
    "a Redis that is not there": Mistake(
        references.check, "redis://ray-redis:6379", "redis://redis-ray:6379", "redisAddress", "no Service redis-ray"
    ),
    "an account that is not there": Mistake(
        references.check,
        "serviceAccountName: models",
        "serviceAccountName: model",
        "serviceAccountName",
        "no ServiceAccount",
    ),
    "a volume that is not there": Mistake(
        references.check,
        "- {name: autoscaler-tmp, emptyDir: {sizeLimit: 1Gi}}",
        "",
        "volumeMounts[0]",
        "no volume",
        shown="autoscaler-tmp, mountPath",
    ),
    "the port of Ray Client": Mistake(
        network.check,
        "{name: gcs-server, containerPort: 6379}",
        "{name: client, containerPort: 10001}",
        "ports[0]",
        "runs code",
    ),
    "no token": Mistake(
        network.check, "mode: token", "mode: disabled", "authOptions", "runs code", shown="authOptions:"
    ),
    "a dashboard for the world": Mistake(
        network.check,
        "    headGroupSpec:\n",
        "    headGroupSpec:\n      serviceType: LoadBalancer\n",
        "headGroupSpec.serviceType",
        "to all",
        shown="serviceType",
    ),
    "a head whose loss takes all": Mistake(
        promises.check,
        "gcsFaultToleranceOptions:",
        "gcsFaultTolerance:",
        "rayClusterConfig",
        "takes every replica",
        shown="rayClusterConfig:",
    ),
    "replicas that a silent loss of the head kills": Mistake(
        promises.check,
        "- &patience {name: RAY_SERVE_SLOW_STARTUP_WARNING_S, value",
        "- &patience {name: RAY_SERVE_LOG_TO_STDERR, value",
        "env",
        "kills healthy replicas",
        shown="env:",
    ),
    "a proxy that waits for ever": Mistake(
        promises.check,
        "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S",
        "RAY_SERVE_HAPROXY_TCP_NODELAY",
        "env",
        "would hang",
        shown="env:",
    ),
    "a proxy that refuses large tokens": Mistake(
        promises.check,
        'RAY_SERVE_HAPROXY_TUNE_BUFSIZE, value: "98304"',
        'RAY_SERVE_HAPROXY_TUNE_BUFSIZE, value: "65536"',
        "env",
        "token of many groups",
        shown="env:",
    ),
    "an old cluster that goes too early": Mistake(
        promises.check,
        "rayClusterDeletionDelaySeconds: 70",
        "rayClusterDeletionDelaySeconds: 10",
        "rayClusterDeletionDelaySeconds",
        "outlive",
    ),
    "a head that leaves before its workers": Mistake(
        promises.check,
        "preStop: {sleep: {seconds: 65}}",
        "preStop: {sleep: {seconds: 5}}",
        "lifecycle",
        "Workers end within 60 s",
        shown="lifecycle:",
    ),
    "an upgrade that is never made": Mistake(
        promises.check, "type: NewCluster", 'type: "None"', "upgradeStrategy.type", "never made"
    ),
    "a Redis for Ray without a password": Mistake(
        promises.check,
        PASSWORD,
        "",
        "redisPassword",
        "needs a password",
        shown="gcsFaultToleranceOptions:",
    ),
    "no autoscaler for groups that grow": Mistake(
        promises.check,
        "enableInTreeAutoscaling: true",
        "enableInTreeAutoscaling: false",
        "maxReplicas",
        "never grows",
        shown="maxReplicas: 4",
    ),
    "a key without a value": Mistake(
        kubernetes.check, "idleTimeoutSeconds: 120", "idleTimeoutSeconds:", "idleTimeoutSeconds", "no value"
    ),
    "a token for each cluster": Mistake(
        promises.check,
        "      secretName: sem-image-classifier-ray\n",
        "",
        "secretName",
        "of its own",
        shown="authOptions:",
    ),
    "a number that the autoscaler owns": Mistake(
        promises.check,
        "        minReplicas: 0\n",
        "        replicas: 0\n        minReplicas: 0\n",
        "replicas",
        "owns this number",
    ),
    "pods that may all be on one node": Mistake(
        promises.check,
        "            topologySpreadConstraints: *spread\n",
        "",
        "template.spec",
        "one lost node",
        after=MODELS,
        shown="spec:",
    ),
    "the database's secret beside a decoder": Mistake(
        promises.check,
        "                  - *bucket-key\n",
        "                  - {name: DATABASE_URL, value: postgresql://postgres/app}\n",
        "env[18]",
        "Only gateways need DATABASE_URL",
    ),
    "a model among the gateways": Mistake(
        promises.check,
        "              resources: {models: 0.01}",
        "              num_gpus: 0",
        "models[0]",
        "beside the gateways' secrets",
        shown="- name: sem-classifier",
    ),
    "a probe that calls what the image has not": Mistake(
        commands.check,
        "                volumeMounts: &worker-mounts",
        "                startupProbe: {exec: {command: [sh, -c, 'curl -f localhost:8000/-/healthz | grep success']}}\n"
        "                volumeMounts: &worker-mounts",
        "startupProbe.exec.command",
        "has no curl",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_found_in_its_place(mistake: Mistake) -> None:
    start_at = SERVICE_TEXT.index(mistake.after) if mistake.after else 0
    at = SERVICE_TEXT.index(mistake.old, start_at)
    changed = SERVICE_TEXT[:at] + mistake.new + SERVICE_TEXT[at + len(mistake.old) :]
    found = list(mistake.check(with_service(changed)))
    named = [one for one in found if one.path.endswith(mistake.path) and mistake.words in one.sentence]
    assert named, found
    lines = changed.splitlines()
    shown = mistake.shown or mistake.new.strip().splitlines()[0]
    assert any(shown in lines[one.line - 1] for one in named), named
    assert {one.file for one in named} == {"rayservice.yaml"}


def test_a_key_that_stands_twice_is_found() -> None:
    text = SERVICE_TEXT.replace("    rayVersion:", "    rayVersion: x\n    rayVersion:", 1)
    _, [finding] = read(text, "rayservice.yaml")
    line = text[: text.rindex("    rayVersion:")].count("\n") + 1
    assert (finding.line, finding.path) == (line, "spec.rayClusterConfig.rayVersion")


def test_what_is_no_yaml_is_found_in_its_line() -> None:
    text = SERVICE_TEXT.replace("  upgradeStrategy:", "  upgradeStrategy: [", 1)
    _, [finding] = read(text, "rayservice.yaml")
    assert finding.line > 1
    assert "no YAML" in finding.sentence
