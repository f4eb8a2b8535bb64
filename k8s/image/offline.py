"""`offline.py COMMAND...` runs a command that reaches no network: neither it nor its children get a socket of IP.

A filter of the kernel (seccomp) does it, which every account may set for itself, in the containers of all builders.
"""

import ctypes
import errno
import os
import platform
import socket
import sys

SOCKET = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
"""By machine: how the kernel calls it (AUDIT_ARCH_*), and the number of the system call `socket`."""
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, MODE_FILTER = 22, 38, 2
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
"""Instructions of the filter: load a word of the call, compare with it, end."""
ALLOW, KILL, FAIL = 0x7FFF0000, 0x80000000, 0x00050000
NUMBER_AT, MACHINE_AT, FAMILY_AT = 0, 4, 16
"""Offsets in `struct seccomp_data`: the call's number, the machine, the first argument."""


class Instruction(ctypes.Structure):
    """`struct sock_filter`. `then` and `otherwise` are how many instructions to skip."""

    _fields_ = (
        ("code", ctypes.c_ushort),
        ("then", ctypes.c_ubyte),
        ("otherwise", ctypes.c_ubyte),
        ("k", ctypes.c_uint),
    )


class Program(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.POINTER(Instruction)))


def forbid(machine: int, number: int) -> None:
    """From here on a socket of IP fails like one without a way out. Raises OSError where the kernel refuses."""
    steps = (
        (LOAD, 0, 0, MACHINE_AT),
        (EQUAL, 1, 0, machine),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER_AT),
        (EQUAL, 0, 3, number),
        (LOAD, 0, 0, FAMILY_AT),
        (EQUAL, 2, 0, socket.AF_INET),
        (EQUAL, 1, 0, socket.AF_INET6),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, FAIL | errno.ENETUNREACH),
    )
    program = Program(len(steps), (Instruction * len(steps))(*(Instruction(*step) for step in steps)))
    library = ctypes.CDLL(None, use_errno=True)
    for call in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, MODE_FILTER, ctypes.byref(program), 0, 0)):
        if library.prctl(*call) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def main() -> None:
    """Give up the network, then become the command."""
    if platform.machine() not in SOCKET:
        sys.exit(f"offline: unknown machine {platform.machine()}; there are {', '.join(SOCKET)}")
    try:
        forbid(*SOCKET[platform.machine()])
    except OSError as error:
        sys.exit(f"offline: this kernel lets no process give up its network: {error}")
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
