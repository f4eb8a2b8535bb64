"""The faults of `make chaos`: what is killed, frozen, filled or stopped, and how each is known to have struck."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, TypeVar

import psutil

from loadtest.client import PersistentUser
from loadtest.service import LocalService, frozen, wait_until
from serve_app.keyspace import JOB

CONTROLLER = "ServeController"
PILE = 96
"""Jobs that wait before a fault: enough that both replicas then get full chunks."""
PATIENCE_S = 300.0
"""Deadline of a condition. Nothing is measured by it: times come from the records."""
STEADY_S = 3.0
OUTAGE_S = 60.0
EMPTY_MAX = 6
REFUSED = "503"
KILLED_REDIS = "SIGKILL and restart of the job Redis under `appendfsync {}`, with jobs waiting and claimed"

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., "list[Strike]"])


@dataclass(frozen=True)
class Strike:
    """One blow: when, the jobs that were claimed by its victim, and how it is known to have struck."""

    at: float
    held: list[str]
    evidence: str


@dataclass(frozen=True)
class Environment:
    """What a fault works on: the running service and the user who loads it meanwhile, in threads of its own."""

    service: LocalService
    model: str
    user: PersistentUser
    replicas: Mapping[str, int]
    """Of each deployment while nothing is broken."""
    hostile: list[str] = field(default_factory=list)
    """Ids of the jobs that must end dead, or FAILED after a hang."""

    def claimed(self) -> list[str]:
        """Jobs under a lease."""
        return sorted(self.service.leases(self.model))

    def frozen_models(self) -> AbstractContextManager[list[psutil.Process]]:
        """All model replicas frozen: what is claimed stays claimed."""
        return frozen(self.service.replicas(self.model))

    def pile_up(self) -> None:
        """Return when full chunks go out: behind a pile of jobs the replicas have just begun to work again."""
        with self.frozen_models():
            _wait_until(lambda: self.service.in_flight(self.model) >= PILE)
            ended = self.service.ledger(self.model)["completed"]
        _wait_until(lambda: self.service.ledger(self.model)["completed"] > ended)

    def held_by_frozen_replica(self) -> list[str]:
        """Claimed jobs that have not ended for STEADY_S, although another replica works."""
        since: dict[str, float] = {}

        def look() -> list[str]:
            now, claimed = time.monotonic(), self.claimed()
            for job in claimed:
                since.setdefault(job, now)
            return [job for job in claimed if now - since[job] > STEADY_S]

        return _wait_until(look)

    @contextmanager
    def frozen_gateway(self) -> Iterator[tuple[psutil.Process, list[str], float]]:
        """A frozen gateway whose dispatcher holds claimed jobs, those jobs, and when it was frozen."""
        for victim in sorted(self.service.replicas("gateway")):
            self.pile_up()
            with frozen({victim}) as [process]:
                at = time.time()
                if held := self.service.held_by_frozen_gateway(self.model):
                    yield process, held, at
                    return
        raise AssertionError("no gateway held a claimed job")

    def wait_until_gone(self, replica: int, deployment: str) -> None:
        """Return when Serve does not count on that process any more."""
        _wait_until(lambda: replica not in self.service.replicas(deployment))

    def wait_until_whole(self) -> None:
        """Return when all deployments have all their replicas and the service calls itself ready."""
        for deployment, count in self.replicas.items():
            self.service.wait_until_whole(deployment, count, PATIENCE_S)

    def wait_until_completed(self, ids: Sequence[str]) -> None:
        """Return when these jobs have completed, by their records."""
        _wait_until(lambda: set(self._records(ids, "status")) <= {"COMPLETED"})

    def started_again(self, ids: Sequence[str]) -> bool:
        """Whether one of these jobs was delivered more than once."""
        return any(int(deliveries or 0) > 1 for deliveries in self._records(ids, "deliveries"))

    def _records(self, ids: Sequence[str], name: str) -> list[str | None]:
        with self.service.redis() as redis:
            return [redis.hget(JOB(id=job_id), name) for job_id in ids]


@dataclass(frozen=True)
class Fault:
    """What the table of results calls it, and the function that strikes and returns when all is whole again."""

    title: str
    strike: Callable[[Environment], list[Strike]]


FAULTS: Final[dict[str, Fault]] = {}
"""By the name that the command line takes, in the order in which they strike."""


def _fault(name: str, title: str, **options: str) -> Callable[[F], F]:
    """Register a function as this fault, with these arguments beside the environment."""

    def register(strike: F) -> F:
        FAULTS[name] = Fault(title, partial(strike, **options))
        return strike

    return register


def _wait_until(look: Callable[[], T | None]) -> T:
    return wait_until(look, PATIENCE_S)


@_fault("model-replicas", "kill -9 of every model replica in turn, each while it holds claimed jobs")
def _kill_model_replicas(environment: Environment) -> list[Strike]:
    strikes: list[Strike] = []
    empty = 0
    while len(strikes) < environment.replicas[environment.model]:
        strike = _kill_model_replica(environment, min(environment.service.replicas(environment.model)))
        if environment.started_again(strike.held):
            strikes.append(strike)
        else:  # what it seemed to hold still waited in Serve's router, and went to the other replica: one more kill
            empty += 1
            assert empty < EMPTY_MAX, "no kill hits a replica that holds jobs"
    if empty:
        strikes[-1] = replace(strikes[-1], evidence=f"{strikes[-1].evidence}; {empty} more killed that held none")
    return strikes


def _kill_model_replica(environment: Environment, victim: int) -> Strike:
    environment.pile_up()
    with frozen({victim}) as [process]:
        held, at = environment.held_by_frozen_replica(), time.time()
        process.kill()
    environment.wait_until_gone(victim, environment.model)
    environment.wait_until_whole()
    environment.wait_until_completed(held)
    return Strike(at, held, f"model replica {victim} is gone, another took its place")


@_fault("gateway-replica", "kill -9 of a gateway replica whose dispatcher holds claimed jobs")
def _kill_gateway_replica(environment: Environment) -> list[Strike]:
    # From the freeze on it is as good as dead: its leases run out.
    with environment.frozen_gateway() as (process, held, at):
        process.kill()
    environment.wait_until_gone(process.pid, "gateway")
    environment.wait_until_whole()
    return [Strike(at, held, f"gateway replica {process.pid} is gone, another took its place")]


@_fault("controller", "kill -9 of the Serve controller")
def _kill_controller(environment: Environment) -> list[Strike]:
    [victim, *_], held, at = _controllers(environment), environment.claimed(), time.time()
    victim.kill()
    _wait_until(lambda: [one for one in _controllers(environment) if one.pid != victim.pid])
    environment.wait_until_whole()
    return [Strike(at, held, f"controller {victim.pid} is gone, another took its place")]


def _controllers(environment: Environment) -> list[psutil.Process]:
    found = []
    for process in environment.service.processes():
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if CONTROLLER in " ".join(process.cmdline()):
                found.append(process)
    return found


@_fault("ray", "kill -9 of every process of the Ray node at once, then a start of the whole node")
def _kill_ray(environment: Environment) -> list[Strike]:
    environment.pile_up()
    cluster = environment.service.cluster
    with environment.frozen_models():
        held, at = _wait_until(environment.claimed), time.time()
        family = [one for guard in cluster.pids() for one in psutil.Process(guard).children(recursive=True)]
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    cluster.stop()
    left = [process.pid for process in family if process.is_running()]
    assert not left, f"these processes of the Ray node live on: {left}"
    cluster.start()
    environment.wait_until_whole()
    return [Strike(at, held, f"all {len(family)} processes of the Ray node are gone, the node was started again")]


@_fault("redis-everysec", KILLED_REDIS.format("everysec"), policy="everysec")
@_fault("redis-always", KILLED_REDIS.format("always"), policy="always")
def _kill_redis(environment: Environment, policy: str) -> list[Strike]:
    server = environment.service.stack.valkey
    environment.pile_up()
    with environment.service.redis() as redis:
        redis.config_set("appendfsync", policy)
    with environment.frozen_models():
        held, at, victim = _wait_until(environment.claimed), time.time(), server.pid
        server.kill()
        server.start()
    with environment.service.redis() as redis:  # its file says always: the next fault finds it so
        assert redis.config_get("appendfsync") == {"appendfsync": "always"}
    environment.wait_until_whole()
    return [Strike(at, held, f"Redis {victim} was killed under {policy}; {server.pid} read its file")]


@_fault("redis-full", "No memory left in Redis: submits are refused, what is accepted runs to its end meanwhile")
def _fill_redis(environment: Environment) -> list[Strike]:
    def refusals() -> int:
        return sum(reason.startswith(REFUSED) for reason in environment.user.failures)

    environment.pile_up()
    with environment.service.redis() as redis:
        limit = redis.config_get("maxmemory")["maxmemory"]
        try:
            with environment.frozen_models():
                held, before = _wait_until(environment.claimed), refusals()
                redis.config_set("maxmemory", redis.info("memory")["used_memory"])
                at = time.time()
                _wait_until(lambda: refusals() > before)
            _wait_until(lambda: environment.service.in_flight(environment.model) == 0)
        finally:
            redis.config_set("maxmemory", limit)
    environment.wait_until_whole()
    return [Strike(at, held, f"{refusals() - before} submits refused; meanwhile all in flight ended")]


@_fault("postgres", "PostgreSQL stopped for a minute, under load all the time")
def _stop_postgres(environment: Environment) -> list[Strike]:
    server, user = environment.service.stack.postgres, environment.user
    held, at, accepted, failed = environment.claimed(), time.time(), len(user.accepted), len(user.failures)
    server.stop()
    time.sleep(OUTAGE_S)  # the fault itself lasts so long; nothing is waited for
    accepted, failed = len(user.accepted) - accepted, len(user.failures) - failed
    server.start()
    return [Strike(at, held, f"no PostgreSQL for {OUTAGE_S:g} s: {accepted} jobs accepted, {failed} submits failed")]


@_fault(
    "frozen-gateway",
    "SIGSTOP of a gateway that holds claimed jobs, until others have ended them; then it wakes and goes on",
)
def _freeze_gateway(environment: Environment) -> list[Strike]:
    with environment.frozen_gateway() as (process, held, at):
        environment.wait_until_completed(held)
        assert process.is_running(), "Serve ended the gateway before it could wake"
    environment.wait_until_whole()
    return [Strike(at, held, f"gateway replica {process.pid} slept until others had ended its jobs, then woke")]


@_fault("poison", "A poison image: it kills the process that runs it, every time", act="die")
@_fault("hang", "An image on which the forward pass never returns", act="hang")
def _send_hostile(environment: Environment, act: str) -> list[Strike]:
    environment.pile_up()
    service, model = environment.service, environment.model
    before, at = service.replicas(model), time.time()
    job_id = environment.user.submit(0, {"act": act})
    environment.hostile.append(job_id)
    _wait_until(lambda: environment.user.read(job_id)["status"] == "FAILED")
    environment.wait_until_whole()
    lost = before - service.replicas(model)
    assert lost, "no replica was lost"
    return [Strike(at, [], f"{len(lost)} of {len(before)} replicas replaced, the image's job ended FAILED")]
