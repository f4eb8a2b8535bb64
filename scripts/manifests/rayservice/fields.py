# ruff: noqa: N815  these are KubeRay's words
"""The RayService's own keys and their types, as KubeRay 1.7 has them; pods inside it are Kubernetes' matter.

The API server is told to drop nothing by `--validate=strict`, but only where the definition of the kind is installed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from manifests.documents import Document, Finding, of_kind

Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
Kubernetes = dict[str, Any]
"""Checked elsewhere, by Kubernetes' own schemas, or not used here."""
Texts = dict[str, str]


class Fields(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class AutoscalerOptions(Fields):
    version: Literal["v1", "v2"] | None = None
    upscalingMode: Literal["Default", "Aggressive", "Conservative"] | None = None
    idleTimeoutSeconds: Count | None = None
    image: str | None = None
    imagePullPolicy: Literal["Always", "IfNotPresent", "Never"] | None = None
    resources: Kubernetes | None = None
    securityContext: Kubernetes | None = None
    env: list[Kubernetes] | None = None
    envFrom: list[Kubernetes] | None = None
    volumeMounts: list[Kubernetes] | None = None
    command: list[str] | None = None
    args: list[str] | None = None


class SecretKey(Fields):
    name: str
    key: str
    optional: bool | None = None


class SecretSource(Fields):
    secretKeyRef: SecretKey | None = None


class Credential(Fields):
    value: str | None = None
    valueFrom: SecretSource | None = None


class GcsFaultTolerance(Fields):
    backend: Literal["redis", "rocksdb"] | None = None
    redisAddress: str | None = None
    redisUsername: Credential | None = None
    redisPassword: Credential | None = None
    externalStorageNamespace: str | None = None
    storage: Kubernetes | None = None


class AuthOptions(Fields):
    mode: Literal["disabled", "token"] | None = None
    secretName: str | None = None
    enableK8sTokenAuth: bool | None = None


class HeadGroup(Fields):
    template: Kubernetes
    rayStartParams: Texts | None = None
    resources: Texts | None = None
    labels: Texts | None = None
    headService: Kubernetes | None = None
    serviceType: Literal["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"] | None = None
    enableIngress: bool | None = None
    ingressOptions: Kubernetes | None = None


class WorkerGroup(Fields):
    groupName: str
    template: Kubernetes
    replicas: Count | None = None
    minReplicas: Count  # KubeRay has a default, Ray's autoscaler none
    maxReplicas: Count
    idleTimeoutSeconds: Count | None = None
    priority: int | None = None
    numOfHosts: Count | None = None
    rayStartParams: Texts | None = None
    resources: Texts | None = None
    labels: Texts | None = None
    scaleStrategy: Kubernetes | None = None
    suspend: bool | None = None


class RayCluster(Fields):
    rayVersion: str | None = None
    enableInTreeAutoscaling: bool | None = None
    autoscalerOptions: AutoscalerOptions | None = None
    gcsFaultToleranceOptions: GcsFaultTolerance | None = None
    authOptions: AuthOptions | None = None
    headServiceAnnotations: Texts | None = None
    headGroupSpec: HeadGroup
    workerGroupSpecs: list[WorkerGroup] | None = None
    networkPolicy: Kubernetes | None = None
    tlsOptions: Kubernetes | None = None
    historyServerOptions: Kubernetes | None = None
    upgradeStrategy: Kubernetes | None = None
    suspend: bool | None = None
    managedBy: str | None = None


class UpgradeOptions(Fields):
    maxSurgePercent: Count | None = None
    stepSizePercent: Count
    intervalSeconds: Count
    gatewayClassName: str


class UpgradeStrategy(Fields):
    type: str | None = None
    clusterUpgradeOptions: UpgradeOptions | None = None


class Spec(Fields):
    serveConfigV2: str
    rayClusterConfig: RayCluster
    upgradeStrategy: UpgradeStrategy | None = None
    rayClusterDeletionDelaySeconds: Count | None = None
    excludeHeadPodFromServeSvc: bool | None = None
    serveService: Kubernetes | None = None
    suspend: bool | None = None
    managedBy: str | None = None


class RayService(Fields):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayService"]
    metadata: Kubernetes
    spec: Spec


def check(documents: list[Document]) -> Iterator[Finding]:
    """Unknown keys, missing keys and values of a wrong type."""
    for document in of_kind(documents, "RayService"):
        try:
            RayService.model_validate_json(json.dumps(document.body, default=str))
        except ValidationError as error:
            for fault in error.errors():
                yield document.finding(fault["loc"], f"KubeRay refuses this: {fault['msg']}.")
