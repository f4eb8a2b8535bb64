"""What a hostile input does to the process that decodes it. Functions here run in decode workers."""

import ctypes
import gc
import os
import signal
import sys
import time
from collections.abc import Callable

from pebble.pool.channel import WorkerChannel

from serve_app.errors import ImageUndecodable
from serve_app.images.decode import read_pixels
from serve_app.models.thumbnail import ThumbnailModel, ThumbnailParams
from serve_app.settings import MIB, Settings
from tests import peak


def echo(value: object) -> object:
    return value


def leave() -> None:
    os._exit(3)


def crash() -> None:
    ctypes.string_at(0)


def swell(mib: int = 1024) -> int:
    """Takes that much memory, piece by piece, and writes to all of it."""
    held = [bytes((1,)) * MIB for _ in range(mib)]
    return len(held)


def read_picture(data: bytes) -> tuple[str, float]:
    """What `read_pixels` says of a file, and the peak of the memory that it took."""
    peak.forget()
    before = peak.mib("VmRSS")
    read_as = read_pixels(data, Settings()).how["read_as"]
    return str(read_as), peak.mib() - before


def make_thumbnail(data: bytes) -> object:
    """What the model says of a file."""
    return ThumbnailModel.preprocess(data, ThumbnailParams(width=300, height=300), Settings()).notes


def read_for_ever(data: bytes) -> None:
    """Is inside the decoder nearly all the time."""
    while True:
        read_pixels(data, Settings())


def address_space() -> float:
    """What the memory limit of the worker bounds, in MiB."""
    return peak.mib("VmSize")


def peak_since(before: float) -> float:
    return peak.mib() - before


def forget_peak() -> float:
    """Count the peak anew; what is held now."""
    peak.forget()
    return peak.mib("VmRSS")


def loop() -> None:
    while True:
        pass


def die_as_the_system_kills() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_with_the_lock() -> None:
    """What the system does when it kills a worker at the worst moment: it had just locked the pipe to its pool."""
    channel = next(one for one in gc.get_objects() if isinstance(one, WorkerChannel))
    channel.mutex.reader_mutex.acquire()
    channel.mutex.writer_mutex.acquire()
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(marker: str) -> str:
    """Dies in the first worker and works in the second."""
    if not os.path.exists(marker):
        with open(marker, "x"):
            os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


def about() -> dict[str, object]:
    return {
        "pid": os.getpid(),
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "heavy": sorted({"torch", "transformers", "ray", "pytest"} & set(sys.modules)),
    }


def sleep_long(marker: str) -> None:
    with open(marker, "x") as file:
        file.write(str(os.getpid()))
    time.sleep(600)


def refuse(reason: str) -> None:
    raise ImageUndecodable(reason)


def divide() -> float:
    return 1 / 0


class Stranger(Exception):
    """Pickles, and cannot be unpickled: its constructor wants what its arguments do not hold."""

    def __init__(self, one: object, two: object) -> None:
        super().__init__(one)


def raise_what_cannot_travel() -> None:
    raise Stranger(1, 2)


def _spring() -> None:
    raise TypeError("not to be unpickled")


class Trap:
    """A value that breaks whoever reads it."""

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return _spring, ()
