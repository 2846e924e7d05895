"""Programs for seccomp, Linux's filter of system calls.

Only writes them, as text of numbers for this machine's processor; `confine.py` and the
kernels apply them. Sources: seccomp(2), linux/filter.h and the tables of system calls.
"""

from __future__ import annotations

import platform
import struct
from dataclasses import dataclass

# Of the calls below, all others reach into other processes or into the system itself, which
# no user's program needs.
HARMLESS = {"clone", "clone3", "connect", "socket", "socketpair"}
NAMESPACES = 0x7E020000  # the CLONE_NEW… flags of clone(2)
DATAGRAM = 2  # SOCK_DGRAM
EPERM, ENOSYS = 1, 38
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050000, 0x80000000
LOAD, EQUAL, ANY_BIT, AT_LEAST, AND, RETURN = 0x20, 0x15, 0x45, 0x35, 0x54, 0x06
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in `struct seccomp_data`
X32 = 0x40000000  # x86-64's second table of numbers begins here


@dataclass(frozen=True)
class Machine:
    """A processor's word for itself (AUDIT_ARCH_…) and its numbers of system calls."""

    audit: int
    numbers: dict[str, int]


NEWER = {  # the same on all
    "clone3": 435,
    "fsconfig": 431,
    "fsmount": 432,
    "fsopen": 430,
    "fspick": 433,
    "io_uring_setup": 425,
    "mount_setattr": 442,
    "move_mount": 429,
    "open_tree": 428,
    "pidfd_getfd": 438,
}
X86_64 = {
    "acct": 163,
    "add_key": 248,
    "bpf": 321,
    "chroot": 161,
    "clone": 56,
    "connect": 42,
    "delete_module": 176,
    "finit_module": 313,
    "init_module": 175,
    "kcmp": 312,
    "kexec_file_load": 320,
    "kexec_load": 246,
    "keyctl": 250,
    "mount": 165,
    "name_to_handle_at": 303,
    "open_by_handle_at": 304,
    "perf_event_open": 298,
    "pivot_root": 155,
    "process_vm_readv": 310,
    "process_vm_writev": 311,
    "ptrace": 101,
    "quotactl": 179,
    "reboot": 169,
    "request_key": 249,
    "setns": 308,
    "socket": 41,
    "socketpair": 53,
    "swapoff": 168,
    "swapon": 167,
    "syslog": 103,
    "umount2": 166,
    "unshare": 272,
    "userfaultfd": 323,
}
AARCH64 = {
    "acct": 89,
    "add_key": 217,
    "bpf": 280,
    "chroot": 51,
    "clone": 220,
    "connect": 203,
    "delete_module": 106,
    "finit_module": 273,
    "init_module": 105,
    "kcmp": 272,
    "kexec_file_load": 294,
    "kexec_load": 104,
    "keyctl": 219,
    "mount": 40,
    "name_to_handle_at": 264,
    "open_by_handle_at": 265,
    "perf_event_open": 241,
    "pivot_root": 41,
    "process_vm_readv": 270,
    "process_vm_writev": 271,
    "ptrace": 117,
    "quotactl": 60,
    "reboot": 142,
    "request_key": 218,
    "setns": 268,
    "socket": 198,
    "socketpair": 199,
    "swapoff": 225,
    "swapon": 224,
    "syslog": 116,
    "umount2": 39,
    "unshare": 97,
    "userfaultfd": 282,
}
MACHINES = {
    "x86_64": Machine(0xC000003E, X86_64 | NEWER),
    "aarch64": Machine(0xC00000B7, AARCH64 | NEWER),
}


def known() -> bool:
    """Whether there are numbers for this machine's processor."""
    return platform.machine() in MACHINES


def reaching_out() -> bytes:
    """A program against debugging others, new namespaces, mounts and the like.

    Raises:
        KeyError: no numbers are known for this processor.
    """
    machine = MACHINES[platform.machine()]
    program = beginning(machine)
    for name in machine.numbers.keys() - HARMLESS:
        program += refuse(machine.numbers[name])
    # Its flags lie in memory where a filter can't see them; libc then takes clone.
    program += refuse(machine.numbers["clone3"], ENOSYS)
    program += [
        instruction(EQUAL, machine.numbers["clone"], 0, 3),
        instruction(LOAD, ARGUMENTS),
        instruction(ANY_BIT, NAMESPACES, 0, 1),
        instruction(RETURN, REFUSE | EPERM),
        instruction(RETURN, ALLOW),
    ]
    return b"".join(program)


def new_sockets() -> bytes:
    """A program against all sockets that are not there yet, but for pairs of streams.

    Raises:
        KeyError: no numbers are known for this processor.
    """
    machine = MACHINES[platform.machine()]
    program = beginning(machine)
    for name in ("socket", "connect"):
        program += refuse(machine.numbers[name])
    program += [
        instruction(EQUAL, machine.numbers["socketpair"], 0, 4),
        instruction(LOAD, ARGUMENTS + 8),
        instruction(AND, 0xF),
        instruction(EQUAL, DATAGRAM, 0, 1),  # one of those can send to any address
        instruction(RETURN, REFUSE | EPERM),
        instruction(RETURN, ALLOW),
    ]
    return b"".join(program)


def beginning(machine: Machine) -> list[bytes]:
    """Load the call's number; calls by another processor's table end the process."""
    return [
        instruction(LOAD, ARCHITECTURE),
        instruction(EQUAL, machine.audit, 1, 0),
        instruction(RETURN, KILL),
        instruction(LOAD, NUMBER),
        instruction(AT_LEAST, X32, 0, 1),
        instruction(RETURN, REFUSE | ENOSYS),
    ]


def refuse(number: int, error: int = EPERM) -> list[bytes]:
    """Let a call fail."""
    return [instruction(EQUAL, number, 0, 1), instruction(RETURN, REFUSE | error)]


def instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """`struct sock_filter`; jumps count the instructions that are left out."""
    return struct.pack("=HBBI", code, if_true, if_false, value)
