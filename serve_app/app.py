"""The Serve application: binds the gateway and one deployment per model, nothing else.

`serve run` and the RayService name `serve_app.app:build`; its arguments are one block per model. Serve reads the
type of those arguments from the signature, so annotations here are objects: no `from __future__ import annotations`.
"""

import gc
import hashlib
import os
from collections.abc import Mapping
from importlib.metadata import version as installed_version
from typing import Annotated, Any, Self, cast

from pydantic import BaseModel, ConfigDict, Field, model_validator
from ray import serve
from ray.serve import Application, Deployment
from ray.serve.handle import DeploymentHandle
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.contracts import ModelCard
from serve_app.gateway.app import build_gateway
from serve_app.jobs.scaling import BacklogPolicy
from serve_app.jobs.store import ReplicaHeartbeat
from serve_app.library_internals import check_internals, keep_on_loopback
from serve_app.models.handle import ServeHandle
from serve_app.models.registry import ModelConfig, card
from serve_app.models.server import ModelServer
from serve_app.proxy import BodyWanted
from serve_app.replica_logs import log_audit_beside_serve, log_requests_beside_serve, log_through_serve
from serve_app.settings import read_settings
from serve_app.tracing import make_tracer

GROUP_LABEL = "ray.io/node-group"
"""Ray gives it to a node from the name of the worker group that KubeRay starts it for."""

GRACEFUL_SHUTDOWN_S = 40
"""How long a stopping replica may continue its work. Equal to RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S in rayservice.yaml:
Serve stops a node's replicas this long before the node must end, so the drain starts at once."""


class ApplicationArgs(BaseModel):
    """The `args` of the application in a Serve config. An unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: Annotated[tuple[ModelConfig, ...], Field(min_length=1)]
    """One block for each model; the first answers `POST /api/v1/inference`."""
    gateway_replicas: Annotated[int, Field(ge=1)] = 2
    """Gateway replicas. With two, the loss of one costs no submit."""
    gateway_cpus: Annotated[float, Field(gt=0)] = 0.25
    """Processors that Ray reserves for a gateway replica."""
    gateway_resources: dict[str, Annotated[float, Field(gt=0)]] = {}
    """Custom resources of Ray that a gateway replica takes: it runs only on nodes that were started with them."""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [model.name for model in self.models]
        if len(set(names)) != len(names):
            raise ValueError(f"two models share a name: {', '.join(sorted(names))}")
        return self


@serve.deployment(
    name="gateway",
    max_ongoing_requests=256,
    max_queued_requests=1024,  # of one replica or proxy; more requests get 503 at once
    health_check_period_s=5,
    health_check_timeout_s=10,
    graceful_shutdown_timeout_s=GRACEFUL_SHUTDOWN_S,
)
@serve.ingress()
class Gateway:
    """The ingress replica: builds the Starlette application where its event loop runs."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, cards: list[ModelCard], handles: Mapping[str, DeploymentHandle[Any]], version: str
    ) -> None:
        check_internals()
        keep_on_loopback()
        log_through_serve()
        log_requests_beside_serve()
        log_audit_beside_serve()
        self.cards, self.handles, self.version = cards, handles, version
        self._application: Starlette | None = None

    async def __serve_build_asgi_app__(self) -> Starlette:
        handles = {model.name: ServeHandle(self.handles[model.name]) for model in self.cards}
        settings = read_settings()
        application = build_gateway(
            settings,
            self.cards,
            handles,
            version=self.version,
            tracer=make_tracer(settings),
            cluster=os.environ.get("RAY_CLUSTER_NAME", ""),  # KubeRay sets it in every pod
        )
        application.add_middleware(OneRequestId)
        application.add_middleware(BodyWanted)
        _collect_seldom()
        self._application = application
        return application

    async def check_health(self) -> None:
        """Raises while a background task of the gateway keeps failing; Serve then replaces this replica."""
        if self._application is not None:
            self._application.state.check_health()


def _collect_seldom() -> None:
    """Run the garbage collector rarely: requests leave few cycles, and imported objects stay. Saves a twentieth of the
    processor time of each request."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


class OneRequestId:
    """Removes the gateway's X-Request-ID, because Serve appends the same id to every response
    (`proxy.UsableRequestId`)."""

    def __init__(self, application: ASGIApp) -> None:
        self.application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_once(message: Message) -> None:
            if message["type"] == "http.response.start":
                del MutableHeaders(scope=message)["X-Request-ID"]
            await send(message)

        await self.application(scope, receive, send_once)


class Model(ModelServer):
    """A model replica as Serve starts it."""

    async def __init__(self, config: ModelConfig, version: str) -> None:  # type: ignore[misc]  # Serve awaits it
        check_internals()
        keep_on_loopback()
        log_through_serve()
        await super().__init__(config, version, ReplicaHeartbeat)


def bind_model(config: ModelConfig, version: str) -> Application:
    """The deployment of one model, scaled on its backlog."""
    deployment: Deployment = serve.deployment(  # type: ignore[assignment]  # called with a class, it is one
        Model,
        name=config.name,
        max_ongoing_requests=config.chunks_per_replica,
        graceful_shutdown_timeout_s=GRACEFUL_SHUTDOWN_S,
        graceful_shutdown_wait_loop_s=0.5,
        health_check_period_s=5,
        health_check_timeout_s=10,
        ray_actor_options={
            "num_cpus": config.num_cpus,
            "num_gpus": config.num_gpus,
            "resources": config.resources,
            **_home(config),
        },
        autoscaling_config={
            "min_replicas": config.min_replicas,
            "max_replicas": config.max_replicas,
            "upscale_delay_s": config.upscale_delay_s,
            "downscale_delay_s": config.downscale_delay_s,
            "policy": {
                "policy_function": BacklogPolicy,
                "policy_kwargs": {"model": config.name, "jobs_per_replica": config.jobs_per_replica},
            },
        },
    )
    application: Application = deployment.bind(config, version)
    return application


def _home(config: ModelConfig) -> dict[str, Any]:
    """Actor options that prefer the home group. Serve first stops replicas outside the selector; without one it would
    stop those on the oldest pods, and never those on pods added for a backlog."""
    if not config.home_group:
        return {}
    return {"label_selector": {GROUP_LABEL: config.home_group}, "fallback_strategy": [{"label_selector": {}}]}


def build(args: ApplicationArgs) -> Application:
    """The whole application. Gateway and models of one build share a version: a gateway feeds only its own."""
    described = installed_version("sem-image-classifier") + args.model_dump_json()
    version = hashlib.sha256(described.encode()).hexdigest()[:12]
    models = {config.name: bind_model(config, version) for config in args.models}
    ingress = cast(Deployment, Gateway)
    actor = {"num_cpus": args.gateway_cpus, "resources": args.gateway_resources}
    gateway = ingress.options(num_replicas=args.gateway_replicas, ray_actor_options=actor)
    application: Application = gateway.bind([card(config) for config in args.models], models, version)
    return application
