"""The faults of `make chaos`: each kills, freezes, fills or stops one part, proves it, and waits for recovery."""

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
BACKLOG = 96
"""Jobs that wait before a fault: enough for full chunks on both replicas."""
DEADLINE_S = 300.0
"""For each condition that a fault waits for. No result depends on it: times come from the records."""
STEADY_S = 3.0
OUTAGE_S = 60.0
MISSES_MAX = 6

T = TypeVar("T")
REDIS_KILL = "SIGKILL and restart of the job Redis under `appendfsync {}`, with jobs waiting and claimed"


@dataclass(frozen=True)
class Strike:
    """One stroke of a fault: its time, the jobs that its victim held, and the evidence of its effect."""

    at: float
    held: list[str]
    evidence: str


@dataclass(frozen=True)
class Environment:
    """The running service, and the user whose threads load it during the fault."""

    service: LocalService
    model: str
    user: PersistentUser
    replicas: Mapping[str, int]
    """Of each deployment before the fault."""
    hostile: list[str] = field(default_factory=list)
    """Ids of the jobs that must end dead, or FAILED after a hang."""

    def claimed(self) -> list[str]:
        """Jobs under a lease."""
        return sorted(self.service.leases(self.model))

    def frozen_models(self) -> AbstractContextManager[list[psutil.Process]]:
        """Freeze all model replicas: claimed jobs stay claimed."""
        return frozen(self.service.replicas(self.model))

    def pile_up(self) -> None:
        """Return when the replicas have just begun to work through a backlog of BACKLOG jobs, in full chunks."""
        with self.frozen_models():
            _wait_until(lambda: self.service.in_flight(self.model) >= BACKLOG)
            completed = self.service.ledger(self.model)["completed"]
        _wait_until(lambda: self.service.ledger(self.model)["completed"] > completed)

    def held_by_frozen_replica(self) -> list[str]:
        """Jobs that stay claimed for STEADY_S although another replica works."""
        since: dict[str, float] = {}

        def look() -> list[str]:
            now, claimed = time.monotonic(), self.claimed()
            for job in claimed:
                since.setdefault(job, now)
            return [job for job in claimed if now - since[job] > STEADY_S]

        return _wait_until(look)

    @contextmanager
    def frozen_gateway(self) -> Iterator[tuple[psutil.Process, list[str], float]]:
        """A frozen gateway whose dispatcher holds claimed jobs, those jobs, and the time of the freeze."""
        for victim in sorted(self.service.replicas("gateway")):
            self.pile_up()
            with frozen({victim}) as [process]:
                at = time.time()
                if held := self.service.held_by_frozen_gateway(self.model):
                    yield process, held, at
                    return
        raise AssertionError("no gateway held a claimed job")

    def wait_until_replaced(self, replica: int, deployment: str) -> None:
        """Return when Serve no longer counts that process as running, and all replicas run."""
        _wait_until(lambda: replica not in self.service.replicas(deployment))
        self.wait_until_whole()

    def wait_until_whole(self) -> None:
        """Return when all deployments have all their replicas and the service is ready."""
        for deployment, count in self.replicas.items():
            self.service.wait_until_whole(deployment, count, DEADLINE_S)

    def wait_until_completed(self, ids: Sequence[str]) -> None:
        """Return when these jobs have completed, by their records."""
        _wait_until(lambda: set(self._records(ids, "status")) <= {"COMPLETED"})

    def started_again(self, ids: Sequence[str]) -> bool:
        """Whether one of these jobs was delivered more than once."""
        return any(int(deliveries or 0) > 1 for deliveries in self._records(ids, "deliveries"))

    def _records(self, ids: Sequence[str], name: str) -> list[str | None]:
        with self.service.redis() as redis:
            return [redis.hget(JOB(id=job_id), name) for job_id in ids]


def _wait_until(look: Callable[[], T | None]) -> T:
    return wait_until(look, DEADLINE_S)


def kill_model_replicas(environment: Environment) -> list[Strike]:
    """Kill as many model replicas as there are, one after the other, each while it holds claimed jobs."""
    strikes: list[Strike] = []
    misses = 0
    while len(strikes) < environment.replicas[environment.model]:
        strike = _kill_model_replica(environment, min(environment.service.replicas(environment.model)))
        if environment.started_again(strike.held):
            strikes.append(strike)
        else:  # the jobs still waited in Serve's router, which sent them to the other replica: kill one more
            misses += 1
            assert misses < MISSES_MAX, "no killed replica held jobs"
    if misses:
        strikes[-1] = replace(strikes[-1], evidence=f"{strikes[-1].evidence}; {misses} more killed that held none")
    return strikes


def _kill_model_replica(environment: Environment, victim: int) -> Strike:
    environment.pile_up()
    with frozen({victim}) as [process]:
        held, at = environment.held_by_frozen_replica(), time.time()
        process.kill()
    environment.wait_until_replaced(victim, environment.model)
    environment.wait_until_completed(held)
    return Strike(at, held, f"model replica {victim} was replaced")


def kill_gateway_replica(environment: Environment) -> list[Strike]:
    """Kill a gateway whose dispatcher holds claimed jobs. Its leases run out from the freeze on."""
    with environment.frozen_gateway() as (process, held, at):
        process.kill()
    environment.wait_until_replaced(process.pid, "gateway")
    return [Strike(at, held, f"gateway replica {process.pid} was replaced")]


def freeze_gateway(environment: Environment) -> list[Strike]:
    """Freeze a gateway that holds claimed jobs until other gateways have completed them, then let it continue."""
    with environment.frozen_gateway() as (process, held, at):
        environment.wait_until_completed(held)
        assert process.is_running(), "Serve ended the gateway before it could continue"
    environment.wait_until_whole()
    return [Strike(at, held, f"gateway replica {process.pid} was frozen until others had completed its jobs")]


def kill_controller(environment: Environment) -> list[Strike]:
    """Kill the Serve controller."""
    [victim, *_], held, at = _controllers(environment), environment.claimed(), time.time()
    victim.kill()
    _wait_until(lambda: [one for one in _controllers(environment) if one.pid != victim.pid])
    environment.wait_until_whole()
    return [Strike(at, held, f"controller {victim.pid} was replaced")]


def _controllers(environment: Environment) -> list[psutil.Process]:
    found = []
    for process in environment.service.processes():
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if CONTROLLER in " ".join(process.cmdline()):
                found.append(process)
    return found


def kill_ray(environment: Environment) -> list[Strike]:
    """Kill all processes of the Ray node at once, then start the node again."""
    environment.pile_up()
    cluster = environment.service.cluster
    with environment.frozen_models():
        held, at = _wait_until(environment.claimed), time.time()
        family = [one for supervisor in cluster.pids() for one in psutil.Process(supervisor).children(recursive=True)]
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    cluster.stop()
    left = [process.pid for process in family if process.is_running()]
    assert not left, f"these processes of the Ray node still run: {left}"
    cluster.start()
    environment.wait_until_whole()
    return [Strike(at, held, f"all {len(family)} processes of the Ray node ended, and the node was started again")]


def kill_redis(environment: Environment, policy: str) -> list[Strike]:
    """Kill the job Redis under this `appendfsync`, with jobs waiting and claimed, and start it again."""
    server = environment.service.stack.valkey
    environment.pile_up()
    with environment.service.redis() as redis:
        redis.config_set("appendfsync", policy)
    with environment.frozen_models():
        held, at, victim = _wait_until(environment.claimed), time.time(), server.pid
        server.kill()
        server.start()
    with environment.service.redis() as redis:  # the next fault needs the policy of the configuration file
        assert redis.config_get("appendfsync") == {"appendfsync": "always"}
    environment.wait_until_whole()
    return [Strike(at, held, f"Redis {victim} was killed under {policy}; {server.pid} read its file")]


def fill_redis(environment: Environment) -> list[Strike]:
    """Leave Redis no memory until all accepted jobs have ended; new ones are refused meanwhile."""

    def refusals() -> int:
        return sum(reason.startswith("503") for reason in environment.user.failures)

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


def stop_postgres(environment: Environment) -> list[Strike]:
    """Stop PostgreSQL for OUTAGE_S."""
    server, user = environment.service.stack.postgres, environment.user
    held, at, accepted, failed = environment.claimed(), time.time(), len(user.accepted), len(user.failures)
    server.stop()
    time.sleep(OUTAGE_S)  # the fault itself
    accepted, failed = len(user.accepted) - accepted, len(user.failures) - failed
    server.start()
    return [Strike(at, held, f"no PostgreSQL for {OUTAGE_S:g} s: {accepted} jobs accepted, {failed} submits failed")]


def submit_hostile(environment: Environment, act: str) -> list[Strike]:
    """Submit an image on which the forward pass kills its process, or never returns."""
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


@dataclass(frozen=True)
class Fault:
    """Its title in the table of results, and the function that strikes and returns after the recovery."""

    title: str
    strike: Callable[[Environment], list[Strike]]


FAULTS: Final = {
    "model-replicas": Fault(
        "kill -9 of every model replica in turn, each while it holds claimed jobs", kill_model_replicas
    ),
    "gateway-replica": Fault("kill -9 of a gateway replica whose dispatcher holds claimed jobs", kill_gateway_replica),
    "controller": Fault("kill -9 of the Serve controller", kill_controller),
    "ray": Fault("kill -9 of every process of the Ray node at once, then a start of the whole node", kill_ray),
    "redis-always": Fault(REDIS_KILL.format("always"), partial(kill_redis, policy="always")),
    "redis-everysec": Fault(REDIS_KILL.format("everysec"), partial(kill_redis, policy="everysec")),
    "redis-full": Fault("No memory left in Redis: submits are refused, accepted jobs run to their end", fill_redis),
    "postgres": Fault("PostgreSQL stopped for a minute, under load all the time", stop_postgres),
    "frozen-gateway": Fault(
        "SIGSTOP of a gateway that holds claimed jobs, until others have completed them", freeze_gateway
    ),
    "poison": Fault(
        "A poison image: it kills the process that runs it, every time", partial(submit_hostile, act="die")
    ),
    "hang": Fault("An image on which the forward pass never returns", partial(submit_hostile, act="hang")),
}
"""By the names that the command line takes, in the order in which they strike."""
