"""All private parts of Ray, Starlette, redis-py and multiprocessing that this service relies on.

Each is listed with the promise of ours that depends on it, and is checked when a replica starts: after an upgrade that
renames one, the replica fails and names it, instead of, for example, no longer draining without notice. Libraries are
imported inside functions, because light parts of the service that lack them import this module too.
"""

from __future__ import annotations

import inspect
import platform
import sys
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from importlib.metadata import version
from multiprocessing import spawn
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from starlette.formparsers import MultiPartParser, MultipartPart

DRAIN: Final = "a gateway that Serve stops ends the requests it holds for their callers, and claims no more"
GIVE_BACK: Final = "a gateway that goes gives back at once the chunks that no replica has taken"
LOOPBACK: Final = "on a Ray node that lives on loopback no port of a replica faces the network"
FORMS: Final = "a form is text in UTF-8, whole, and leaves no file behind where it is refused"
GROUPS: Final = "commands to the job Redis travel in groups, with one deadline for each group"
FRONT: Final = "one request id everywhere, no body before its token was looked at, no connection beyond its pod"
START: Final = "the gateway's application is made where its event loop runs"
WORKERS: Final = "a decode worker starts without running the replica's main module, which would import all of Ray"


class MainlessProcess(SpawnProcess):
    """A process that starts without the parent's main module: in a replica that would import all of Ray again."""

    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802  multiprocessing's own name
        main = sys.modules["__main__"]
        sys.modules["__main__"] = types.ModuleType("__main__")
        try:
            return SpawnProcess._Popen(process_obj)
        finally:
            sys.modules["__main__"] = main


def replica_is_shutting_down() -> bool:
    """Whether Serve is shutting down the replica that this process is; False outside of one."""
    from ray._private.worker import global_worker

    actors: dict[Any, Any] = global_worker.actors
    return any(actor._replica_impl._shutting_down for actor in actors.values())


def is_assigned(call: Any) -> bool:
    """Whether a replica has taken this call of a deployment handle."""
    return bool(call._replica_result_future.done())


def keep_on_loopback() -> None:
    """Bind the replica's gRPC server to 127.0.0.1 if this Ray node lives there; otherwise change nothing.

    Ray binds its own servers to loopback when the node's address is 127.0.0.1, with one exception in 2.60: that server
    of every replica is bound to `[::]`. It unpickles what it is sent, so on a laptop it must not face the network.
    Replicas call this before Serve starts it.
    """
    import ray
    from ray.serve._private import replica

    if ray.util.get_node_ip_address() != "127.0.0.1":
        return
    bind: Callable[[Any, str], int] = vars(replica)["add_port_to_grpc_server"]

    def bind_on_loopback(server: Any, address: str) -> int:
        return bind(server, address.replace("[::]", "127.0.0.1"))

    vars(replica)["add_port_to_grpc_server"] = bind_on_loopback


def read_as_utf8(parser: MultiPartParser) -> None:
    """Read the form's text as UTF-8 (RFC 7578 section 5.1.2), whatever charset the caller names: some of Python's
    codecs raise, some produce lone surrogates."""
    parser._charset = "utf-8"


def current_part(parser: MultiPartParser) -> MultipartPart:
    """The part of the form that is being parsed."""
    return parser._current_part


def close_files_of(parser: MultiPartParser) -> None:
    """Release the memory or disk space of the parser's files."""
    for file in parser._files_to_close_on_error:
        file.close()


@dataclass(frozen=True, slots=True)
class Seam:
    """One private part of a library."""

    library: str
    name: str
    promise: str
    """The promise of ours that breaks without it."""
    is_there: Callable[[], bool]


def check_internals(seams: Iterable[Seam] | None = None) -> None:
    """Raises `RuntimeError` that names each seam missing in the installed libraries, and what breaks without it."""
    missing = [seam for seam in (SEAMS if seams is None else seams) if not _holds(seam)]
    if missing:
        lines = (f"{_installed(seam.library)}: {seam.name} is gone: {seam.promise}." for seam in missing)
        raise RuntimeError("This release relies on internals of libraries that are missing. " + " ".join(lines))


def _installed(library: str) -> str:
    return f"{library} {platform.python_version() if library == 'python' else version(library)}"


def _holds(seam: Seam) -> bool:
    try:
        return seam.is_there()
    except (ImportError, AttributeError, KeyError, TypeError, ValueError):
        return False


def _names(function: Any, attribute: str) -> bool:
    """Whether the function's code uses this attribute; for attributes that exist only on instances."""
    return attribute in function.__code__.co_names


def _has_actors() -> bool:
    from ray._private.worker import global_worker

    return isinstance(global_worker.actors, dict)


def _has_replica_impl() -> bool:
    from ray.serve._private.replica import ReplicaActor

    return _names(ReplicaActor.__init__, "_replica_impl")


def _has_shutting_down() -> bool:
    from ray.serve._private.replica import Replica

    return _names(Replica.__init__, "_shutting_down") and _names(Replica._perform_graceful_shutdown, "_shutting_down")


def _has_result_future() -> bool:
    from ray.serve.handle import DeploymentResponse

    return _names(DeploymentResponse.__init__, "_replica_result_future")


def _binds_by_its_helper() -> bool:
    from ray.serve._private import replica

    binding: Any = replica.Replica._on_initialized
    is_used = _names(binding, "add_port_to_grpc_server") and "[::]:0" in binding.__code__.co_consts
    return is_used and callable(vars(replica).get("add_port_to_grpc_server"))


def _takes_middlewares() -> bool:
    from ray.serve._private import constants

    return hasattr(constants, "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH")


def _builds_the_application() -> bool:
    from ray.serve._private import replica

    return bool(replica.SERVE_BUILD_ASGI_APP_METHOD == "__serve_build_asgi_app__")


def _reads_by_charset() -> bool:
    from starlette.formparsers import MultiPartParser

    return all(
        _names(reads, "_charset") for reads in (MultiPartParser.on_part_end, MultiPartParser.on_headers_finished)
    )


def _keeps_its_files() -> bool:
    from starlette.formparsers import MultiPartParser

    return _names(MultiPartParser.on_headers_finished, "_files_to_close_on_error")


def _tells_of_parts() -> bool:
    from starlette.formparsers import MultiPartParser, MultipartPart

    events = ("on_part_begin", "on_headers_finished", "on_part_data", "on_part_end", "on_end", "spool_max_size")
    facts = {"content_disposition", "field_name", "data", "file", "item_headers"}
    has_events = all(hasattr(MultiPartParser, name) for name in events)
    return has_events and facts <= {field.name for field in fields(MultipartPart)}


def _keeps_the_current_part() -> bool:
    from starlette.formparsers import MultiPartParser

    return _names(MultiPartParser.on_part_begin, "_current_part")


def _connections_can_be_driven() -> bool:
    from redis.asyncio import BlockingConnectionPool, Connection, Redis

    sends = inspect.signature(Connection.send_packed_command).parameters
    ends = inspect.signature(Connection.disconnect).parameters
    reads = inspect.iscoroutinefunction(Connection.read_response)
    takes = all(callable(getattr(BlockingConnectionPool, name)) for name in ("get_connection", "release"))
    known = hasattr(Connection(), "socket_timeout") and hasattr(Redis(), "response_callbacks")
    known = known and hasattr(BlockingConnectionPool(), "connection_class")
    return "check_health" in sends and "nowait" in ends and reads and takes and known


def _starts_processes() -> bool:
    looks_at_main = _names(spawn.get_preparation_data, "modules")
    return callable(vars(SpawnProcess)["_Popen"].__func__) and looks_at_main


SEAMS: Final = (
    Seam("ray", "ray._private.worker.global_worker.actors", DRAIN, _has_actors),
    Seam("ray", "ray.serve._private.replica.ReplicaActor._replica_impl", DRAIN, _has_replica_impl),
    Seam("ray", "ray.serve._private.replica.Replica._shutting_down", DRAIN, _has_shutting_down),
    Seam("ray", "ray.serve.handle.DeploymentResponse._replica_result_future", GIVE_BACK, _has_result_future),
    Seam("ray", "ray.serve._private.replica.add_port_to_grpc_server", LOOPBACK, _binds_by_its_helper),
    Seam("ray", "__serve_build_asgi_app__", START, _builds_the_application),
    Seam("ray", "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", FRONT, _takes_middlewares),
    Seam("starlette", "MultiPartParser._charset", FORMS, _reads_by_charset),
    Seam("starlette", "MultiPartParser._files_to_close_on_error", FORMS, _keeps_its_files),
    Seam("starlette", "MultiPartParser._current_part", FORMS, _keeps_the_current_part),
    Seam("starlette", "MultiPartParser.on_part_begin, MultipartPart.data and their like", FORMS, _tells_of_parts),
    Seam("redis", "AbstractConnection, as it sends and reads packed commands", GROUPS, _connections_can_be_driven),
    Seam("python", "multiprocessing.context.SpawnProcess._Popen", WORKERS, _starts_processes),
)
"""Checked at the start of every replica."""
