"""Programs for seccomp, Linux's filter of system calls.

Only writes them, as numbers for this machine's processor; `confine.py` and the kernels apply
them. Sources: seccomp(2), linux/filter.h.
"""

from __future__ import annotations

import errno
import platform
import struct
from dataclasses import dataclass

from ..process_tree import FILE_LOCKS
from .syscalls import MACHINES, UNKNOWN

ALLOW, REFUSE, KILL, HAND_OVER = 0x7FFF0000, 0x00050000, 0x80000000, 0x7FC00000
LOAD, EQUAL, AT_LEAST, AND, RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in `struct seccomp_data`
WORD = 0xFFFFFFFF


@dataclass(frozen=True)
class Where:
    """A condition: one word of an argument, seen through `mask`, is `value` (or is not)."""

    argument: int
    value: int
    mask: int = WORD
    equal: bool = True
    high: bool = False  # the upper 32 bits: Linux reads those of pointers and sizes alone


@dataclass(frozen=True)
class Rule:
    """What becomes of calls where all the conditions hold."""

    calls: tuple[str, ...]
    where: tuple[Where, ...]
    result: int


def calls(names: str, *where: Where, error: int = errno.EPERM) -> Rule:
    """Let the calls that a text names fail."""
    return Rule(tuple(names.split()), where, REFUSE | error)


def hand_over(names: str, *where: Where) -> Rule:
    """Let another process answer the calls that a text names."""
    return Rule(tuple(names.split()), where, HAND_OVER)


def has(argument: int, bits: int) -> Where:
    """The argument has at least one of these bits."""
    return Where(argument, 0, mask=bits, equal=False)


def differs(argument: int, value: int = 0, *, high: bool = False) -> Where:
    """The argument is not this."""
    return Where(argument, value, equal=False, high=high)


NAMESPACES = 0x7E020000  # the CLONE_NEW… flags of clone(2)
SET_ID = 0o6000  # S_ISUID | S_ISGID
CREATES = 0o100 | 0o20000000  # O_CREAT, and O_TMPFILE without O_DIRECTORY
STREAM, PACKETS, KIND_OF_SOCKET = 1, 5, 0xF  # SOCK_…; the rest of a type are flags
WRITES, TRUNCATES = 0o3, 0o1000  # O_ACCMODE (0 is O_RDONLY), O_TRUNC
UNIX, INET, INET6, NETLINK = 1, 2, 10, 16  # AF_…
FAST_OPEN = 0x20000000  # MSG_FASTOPEN
SET_LEASE = 1024  # F_SETLEASE
PUSH_TERMINAL_INPUT = 0x5412, 0x541C  # TIOCSTI, TIOCLINUX
CHANGE_INODE = 0x40086602, 0x401C5820, 0x40087602, 0x40046602  # FS_IOC_SETFLAGS and its like

# What reaches into other processes or the system itself, which no user's program needs.
REACHING_OUT = (
    calls("bpf kcmp perf_event_open process_vm_readv process_vm_writev ptrace userfaultfd"),
    calls("pidfd_getfd process_madvise add_key keyctl request_key"),
    calls("acct quotactl quotactl_fd reboot swapoff swapon syslog"),
    calls("delete_module finit_module init_module kexec_file_load kexec_load"),
    calls("chroot mount mount_setattr move_mount open_tree open_tree_attr pivot_root umount2"),
    calls("fsconfig fsmount fsopen fspick name_to_handle_at open_by_handle_at setns unshare"),
    calls("io_uring_setup"),  # what goes through a ring, no filter sees
    calls("clone", has(0, NAMESPACES)),
    calls("clone3", error=errno.ENOSYS),  # its flags lie in memory; libc then takes clone
    # `process_tree/reaper.py` finds a kernel's processes by this limit, which limits nothing.
    calls("prlimit64", Where(1, FILE_LOCKS), differs(2)),
    calls("prlimit64", Where(1, FILE_LOCKS), differs(2, high=True)),
    calls("setrlimit", Where(0, FILE_LOCKS)),
    *(calls("ioctl", Where(1, request)) for request in PUSH_TERMINAL_INPUT),
    # A lease on a file that one can only read keeps everybody else from opening it.
    calls("fcntl", Where(1, SET_LEASE)),
    # Who starts such a file outside becomes the user that the server runs as.
    calls("chmod fchmod", has(1, SET_ID)),
    calls("fchmodat fchmodat2", has(2, SET_ID)),
    calls("creat mknod", has(1, SET_ID)),
    calls("mknodat", has(2, SET_ID)),
    calls("open", has(1, CREATES), has(2, SET_ID)),
    calls("openat", has(2, CREATES), has(3, SET_ID)),
    calls("openat2", error=errno.ENOSYS),  # its mode lies in memory; programs then take openat
    # Others (AF_VSOCK, say) know no namespaces, and no program here needs them.
    calls(
        "socket socketpair",
        *(differs(0, family) for family in (UNIX, INET, INET6, NETLINK)),
        error=errno.EAFNOSUPPORT,
    ),
    calls("socket", Where(0, NETLINK), differs(2), error=errno.EPROTONOSUPPORT),  # all but ROUTE
    # No limit counts their memory, which outlives who has made it.
    calls("shmget shmat shmctl semget semop semtimedop semctl", error=errno.ENOSYS),
    calls("msgget msgsnd msgrcv msgctl", error=errno.ENOSYS),
)
# What reaches processes, files and queues of the host where kernels share its namespaces.
SHARED_HOST = (
    calls("prlimit64", differs(0), differs(2)),
    calls("prlimit64", differs(0), differs(2, high=True)),
    calls("setpriority", differs(0)),  # PRIO_PROCESS
    calls("ioprio_set", differs(0, 1)),  # IOPRIO_WHO_PROCESS
    calls("migrate_pages move_pages", differs(0)),
    calls("process_mrelease"),
    calls("mq_open mq_unlink", error=errno.ENOSYS),
    calls("setxattr lsetxattr fsetxattr setxattrat", error=errno.EOPNOTSUPP),
    calls("removexattr lremovexattr fremovexattr removexattrat", error=errno.EOPNOTSUPP),
    calls("file_setattr", error=errno.EOPNOTSUPP),
    *(calls("ioctl", Where(1, request), error=errno.ENOTTY) for request in CHANGE_INODE),
)
# Before Linux 6.2 Landlock does not ask who empties a file.
TRUNCATING = (
    calls("truncate"),
    calls("open", Where(1, 0, mask=WRITES), has(1, TRUNCATES)),
    calls("openat", Where(2, 0, mask=WRITES), has(2, TRUNCATES)),
)
# What `broker.py` makes for the caller, having looked at whom or what it is about.
HANDED_OVER = (
    # These change a file that is not open to be written to, which Landlock does not ask about.
    hand_over("chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat"),
    hand_over("utime utimes futimesat utimensat"),
    # Libraries name their own threads here, and some end if that fails: ZeroMQ does.
    hand_over("sched_setaffinity sched_setattr sched_setparam sched_setscheduler", differs(0)),
    hand_over("setpriority ioprio_set", differs(1)),
)
# Pairs that are connected for ever; one of datagrams (or raw ones) can send to any address.
PAIRS = calls(
    "socketpair",
    *(Where(1, kind, mask=KIND_OF_SOCKET, equal=False) for kind in (STREAM, PACKETS)),
)
# All sockets that are not there yet, and what connects one that is (MSG_FASTOPEN).
NEW_SOCKETS = (
    calls("socket connect"),
    PAIRS,
    calls("sendto sendmmsg", has(3, FAST_OPEN)),
    calls("sendmsg", has(2, FAST_OPEN)),
)


def knows_system_calls() -> bool:
    """Whether there are numbers for this machine's processor."""
    return platform.machine() in MACHINES


def named(rules: tuple[Rule, ...]) -> dict[int, str]:
    """The calls that rules are about, by their numbers on this machine's processor.

    Raises:
        KeyError: no numbers are known for this processor.
    """
    known = MACHINES[platform.machine()].numbers
    return {known[name]: name for rule in rules for name in rule.calls if name in known}


def program(rules: tuple[Rule, ...], processor: str = "") -> bytes:
    """A program with these rules, for this machine's processor or another.

    Raises:
        KeyError: no numbers are known for this processor.
    """
    machine = MACHINES[processor or platform.machine()]
    written = [
        instruction(LOAD, ARCHITECTURE),
        instruction(EQUAL, machine.audit, if_true=1),
        instruction(RETURN, KILL),
        instruction(LOAD, NUMBER),
        # Newer ones could do anything; those of x86-64's second table (x32) are as high.
        instruction(AT_LEAST, UNKNOWN, if_false=1),
        instruction(RETURN, REFUSE | errno.ENOSYS),
    ]
    for rule in rules:
        for name in rule.calls:
            if name in machine.numbers:
                written += judge(machine.numbers[name], rule)
    return b"".join([*written, instruction(RETURN, ALLOW)])


def judge(number: int, rule: Rule) -> list[bytes]:
    """End with a call's result where the conditions hold; else go on behind these."""
    steps: list[tuple[int, int, bool]] = [(LOAD, NUMBER, True), (EQUAL, number, True)]
    for where in rule.where:
        steps += [
            (LOAD, ARGUMENTS + 8 * where.argument + 4 * where.high, True),
            (AND, where.mask, True),
            (EQUAL, where.value, where.equal),
        ]
    steps.append((RETURN, rule.result, True))
    written = []
    for left, (code, value, equal) in zip(reversed(range(len(steps))), steps, strict=True):
        skip = left if code == EQUAL else 0
        written.append(
            instruction(code, value, if_false=skip)
            if equal
            else instruction(code, value, if_true=skip)
        )
    return written


def instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """`struct sock_filter`; jumps count the instructions that are left out."""
    return struct.pack("=HBBI", code, if_true, if_false, value)
