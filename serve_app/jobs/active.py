"""Decides which of two clusters is active while an upgrade runs both: the one that began to serve users last.

KubeRay routes users to one cluster. After it has switched, the old cluster stays for a while for its open connections,
and both see the same jobs. `claim.lua` gives a cluster no job of a model while another cluster is active and asks for
jobs of that model. So the old cluster holds no job when it ends, and no job waits for a cluster whose model does not
work.

A cluster becomes active only after it has answered a user. A cluster that stops calling is forgotten after `ACTIVE_S`;
then any cluster may claim. Gateways remember when their cluster began to serve, so that a Redis that lost its data does
not change the order.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Final

from serve_app.connections import redis_errors
from serve_app.errors import CapacityError
from serve_app.jobs.store import JobStore

LOOK_S: Final = 1.0

_log = logging.getLogger(__name__)


class ActiveCluster:
    """One per gateway process. `cluster` is the name of its RayCluster; without a name there is nothing to `run`."""

    def __init__(self, jobs: JobStore) -> None:
        self._scripts = jobs.scripts
        self._cluster = jobs.cluster
        self._is_active: bool | None = None
        self._serves = False
        self._since = b""
        """When the cluster first answered a user, µs of Redis' clock; empty before."""
        self._look_now = asyncio.Event()

    def serve(self) -> None:
        """Note that a user was answered here; checks at once if this may make the cluster the active one."""
        self._serves = True
        if not self._is_active:
            self._look_now.set()

    async def run(self) -> None:
        """Keep this cluster marked as running, and check which one is active, until cancelled."""
        while True:
            self._look_now.clear()
            try:
                self._note(await self.look())
            except CapacityError as error:
                _log.debug("the active cluster is unknown at the moment: %s", error)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._look_now.wait(), LOOK_S)

    async def look(self) -> bool:
        """Whether this cluster may claim jobs. Raises `TrackerUnavailable`."""
        serves = self._serves
        with redis_errors():
            is_active, self._since = await self._scripts.run("check_active", self._cluster, int(serves), self._since)
        if serves:  # false: keep a user's answer that came during the call for the next call
            self._serves = False
        return bool(is_active)

    def _note(self, is_active: bool) -> None:
        if self._is_active is not None and is_active != self._is_active:
            _log.warning("The cluster %s is %s.", self._cluster, "the active one" if is_active else "replaced")
        self._is_active = is_active
