"""Every cell of k8s/network.yaml, tried with a real connection.

A party that runs here is the pod itself; for the others there is a namespace with their labels and a listener. A host
of the world outside is an address of the node.
"""

from __future__ import annotations

import errno
import select
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

from manifests.reach import Cell, Party, read_table

from simulator.manifest.overlay import OVERLAY
from simulator.pods.image import ROOT
from simulator.pods.network import API_ADDRESS, API_PORT, Namespace
from simulator.stage import Stage

TABLE = ROOT / "k8s" / "network.yaml"
ANSWER_S = 3.0
"""A packet that is dropped is never answered; one that is not is answered within milliseconds."""
API = (API_ADDRESS, API_PORT)
"""It listens already."""
LET_IN = (0, errno.ECONNREFUSED)
"""A refusal too comes from the other side: the connection got there."""


@dataclass(frozen=True)
class Place:
    """Where a party is. One outside has no network of its own here, and connects to nobody."""

    address: str
    network: Namespace | None
    runs: bool


def network_table(stage: Stage) -> None:
    """Each party to each address of the table: let in where the table says so, and nowhere else."""
    cells = read_table(TABLE, OVERLAY)
    parties = {party for cell in cells for party in (cell.source, cell.target)}
    places = {party: _place(stage, party) for party in parties}
    by_source: dict[Party, list[Cell]] = {}
    for cell in cells:
        if places[cell.source].network:
            by_source.setdefault(cell.source, []).append(cell)
    with ExitStack() as listening:
        for address, port, network in {
            (places[cell.target].address, cell.port, places[cell.target].network)
            for cell in cells
            if not places[cell.target].runs
        }:
            if (address, port) != API:
                listening.enter_context(_listener(address, port, network))
        with ThreadPoolExecutor(len(by_source)) as threads:
            found = threads.map(lambda source: _connect(places[source], by_source[source], places), by_source)
            for answers in found:
                stage.notes += answers
    wrong = [note for note in stage.notes if note["allowed"] is not (note["answer"] in LET_IN)]
    stage.progress(f"  {len(stage.notes)} cells, {len(wrong)} otherwise than the table: {wrong[:5]}")


def _place(stage: Stage, party: Party) -> Place:
    if party.address:
        stage.house.network.answer_as(party.address)
        return Place(party.address, None, runs=False)
    for kubelet in stage.house.pods(party.labels) if party.labels else []:
        if kubelet.pod.manifest["metadata"]["namespace"] == party.namespace:
            return Place(kubelet.pod.address, kubelet.pod.network, runs=True)
    metadata = {"name": f"party-{party.name}", "namespace": party.namespace, "labels": party.labels}
    network = stage.house.join({"metadata": metadata})
    return Place(network.address, network, runs=False)


def _listener(address: str, port: int, network: Namespace | None) -> socket.socket:
    with ExitStack() as inside:
        if network:
            inside.enter_context(network.entered())
        return socket.create_server((address, port), backlog=64)


def _connect(source: Place, cells: list[Cell], places: dict[Party, Place]) -> list[dict[str, object]]:
    """What became of each connection, all begun at once: 0, an error number, or ETIMEDOUT."""
    assert source.network is not None
    with source.network.entered():
        sockets = [socket.socket() for _ in cells]
    poll, answers = select.poll(), dict[int, int]()
    for one, cell in zip(sockets, cells, strict=True):
        one.setblocking(False)
        answers[one.fileno()] = one.connect_ex((places[cell.target].address, cell.port))
        poll.register(one, select.POLLOUT)
    waiting = {one.fileno(): one for one in sockets if answers[one.fileno()] == errno.EINPROGRESS}
    deadline = time.monotonic() + ANSWER_S
    while waiting and (left := deadline - time.monotonic()) > 0:
        for number, _ in poll.poll(left * 1000):
            poll.unregister(number)
            if number in waiting:
                answers[number] = waiting.pop(number).getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    notes = []
    for one, cell in zip(sockets, cells, strict=True):
        answer = errno.ETIMEDOUT if one.fileno() in waiting else answers[one.fileno()]
        notes.append({"at": time.time(), "what": "cell", "cell": str(cell), "allowed": cell.allowed, "answer": answer})
        one.close()
    return notes
