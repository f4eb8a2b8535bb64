"""Jobs that go back to wait, as every gateway is told of them."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

from serve_app.jobs.keys import key
from simulator.around.servers import redis_client
from simulator.pods.house import House

LOOK_S = 0.2


class Returns:
    """A context manager; `at` are the times at which a claimed job became PENDING again, one for each job and time."""

    def __init__(self, house: House) -> None:
        self.at: list[float] = []
        self._house = house
        self._listens, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._listen, name="returns", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._listens.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _listen(self) -> None:
        with redis_client(self._house) as redis, redis.pubsub() as subscription:
            subscription.subscribe(key("changes"))
            while not self._over.is_set():
                message = subscription.get_message(timeout=LOOK_S)
                if message and message["type"] == "subscribe":
                    self._listens.set()
                elif message:
                    self.at += [time.time()] * message["data"].split()[1::2].count("PENDING")
