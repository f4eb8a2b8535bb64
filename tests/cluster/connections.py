"""Connects and listens, as a program for the network namespace of a pod. JSON comes in, one line of JSON goes out.

`listen`: addresses and ports to listen on until the input ends; which of them others listened on already.
`connect`: triples of protocol, address and port to try, all at once; which of them answered.
"""

from __future__ import annotations

import errno
import json
import select
import socket
import sys
import time
from contextlib import suppress

ANSWER_S = 3.0
"""What is let through answers within milliseconds."""
HEADER, NAME, KIND = b"\0\7\1\0\0\1" + bytes(6), b"\x0akubernetes\7default\3svc\7cluster\5local\0", b"\0\1\0\1"
QUESTION = HEADER + NAME + KIND
"""A DNS query for the address of kubernetes.default.svc.cluster.local."""
Attempt = tuple[str, str, int]


def main() -> None:
    given = json.loads(sys.stdin.readline())
    if sys.argv[1] == "connect":
        print(json.dumps(connect([tuple(attempt) for attempt in given])), flush=True)
        return
    sockets, taken = [], []
    for address, port in given:
        try:
            sockets.append(socket.create_server((address, port), backlog=64))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            taken.append([address, port])
    print(json.dumps(taken), flush=True)
    sys.stdin.read()


def connect(attempts: list[Attempt]) -> list[bool]:
    """Whether each attempt was answered: a connection was made, a query brought a reply. A refusal is no answer."""
    answered = [False] * len(attempts)
    poll, waiting = select.poll(), dict[int, tuple[int, socket.socket]]()
    for number, (protocol, address, port) in enumerate(attempts):
        one = socket.socket(type=socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM)
        one.setblocking(False)
        waiting[one.fileno()] = number, one
        if one.connect_ex((address, port)) in (0, errno.EINPROGRESS):
            if protocol == "udp":
                with suppress(OSError):
                    one.send(QUESTION)
            poll.register(one, select.POLLOUT if protocol == "tcp" else select.POLLIN)
        else:
            waiting.pop(one.fileno())[1].close()
    deadline = time.monotonic() + ANSWER_S
    while waiting and (left := deadline - time.monotonic()) > 0:
        for descriptor, _ in poll.poll(left * 1000):
            poll.unregister(descriptor)
            number, one = waiting.pop(descriptor)
            with one, suppress(OSError):
                is_datagram = one.type == socket.SOCK_DGRAM
                answered[number] = bool(one.recv(512)) if is_datagram else one.getpeername() is not None
    return answered


if __name__ == "__main__":
    main()
