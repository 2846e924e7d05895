"""Programs for seccomp, Linux's system call filter.

Only generates them, for this machine's processor; `confine.py` and the kernels apply them.
Sources: seccomp(2), linux/filter.h.
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
    """A condition: a 32-bit word of an argument, masked with `mask`, is (or is not) `value`."""

    argument: int
    value: int
    mask: int = WORD
    equal: bool = True
    high: bool = False  # test the upper 32 bits, which Linux uses only for pointers and sizes


@dataclass(frozen=True)
class Rule:
    """A rule: these calls get `result` if all conditions hold."""

    calls: tuple[str, ...]
    where: tuple[Where, ...]
    result: int


def calls(names: str, *where: Where, error: int = errno.EPERM) -> Rule:
    """Make the named calls (separated by spaces) fail with `error`."""
    return Rule(tuple(names.split()), where, REFUSE | error)


def hand_over(names: str, *where: Where) -> Rule:
    """Let another process answer the named calls (separated by spaces)."""
    return Rule(tuple(names.split()), where, HAND_OVER)


def has(argument: int, bits: int) -> Where:
    """Match if the argument has at least one of these bits."""
    return Where(argument, 0, mask=bits, equal=False)


def differs(argument: int, value: int = 0, *, high: bool = False) -> Where:
    """Match if the argument is not this value."""
    return Where(argument, value, equal=False, high=high)


NAMESPACES = 0x7E020000  # the CLONE_NEW… flags of clone(2)
SET_ID = 0o6000  # S_ISUID | S_ISGID
CREATES = 0o100 | 0o20000000  # O_CREAT, and O_TMPFILE without O_DIRECTORY
STREAM, PACKETS, KIND_OF_SOCKET = 1, 5, 0xF  # SOCK_…; a type's other bits are flags
WRITES, TRUNCATES = 0o3, 0o1000  # O_ACCMODE (0 is O_RDONLY), O_TRUNC
UNIX, INET, INET6, NETLINK = 1, 2, 10, 16  # AF_…
FAST_OPEN = 0x20000000  # MSG_FASTOPEN
SET_LEASE = 1024  # F_SETLEASE
PUSH_TERMINAL_INPUT = 0x5412, 0x541C  # TIOCSTI, TIOCLINUX
CHANGE_INODE = 0x40086602, 0x401C5820, 0x40087602, 0x40046602  # FS_IOC_SETFLAGS and similar

# Calls that reach into other processes or the system itself; no user program needs them.
REACHING_OUT = (
    calls("bpf kcmp perf_event_open process_vm_readv process_vm_writev ptrace userfaultfd"),
    calls("pidfd_getfd process_madvise add_key keyctl request_key"),
    calls("acct quotactl quotactl_fd reboot swapoff swapon syslog"),
    calls("delete_module finit_module init_module kexec_file_load kexec_load"),
    calls("chroot mount mount_setattr move_mount open_tree open_tree_attr pivot_root umount2"),
    calls("fsconfig fsmount fsopen fspick name_to_handle_at open_by_handle_at setns unshare"),
    calls("io_uring_setup"),  # no filter sees what goes through a ring
    calls("clone", has(0, NAMESPACES)),
    calls("clone3", error=errno.ENOSYS),  # its flags are in memory; libc falls back to clone
    # `process_tree/reaper.py` finds a kernel's processes by this limit, which limits nothing.
    calls("prlimit64", Where(1, FILE_LOCKS), differs(2)),
    calls("prlimit64", Where(1, FILE_LOCKS), differs(2, high=True)),
    calls("setrlimit", Where(0, FILE_LOCKS)),
    *(calls("ioctl", Where(1, request)) for request in PUSH_TERMINAL_INPUT),
    # A lease, possible even on a file one may only read, keeps everybody else from opening it.
    calls("fcntl", Where(1, SET_LEASE)),
    # Anyone who runs a set-id file from outside would become the server's user.
    calls("chmod fchmod", has(1, SET_ID)),
    calls("fchmodat fchmodat2", has(2, SET_ID)),
    calls("creat mknod", has(1, SET_ID)),
    calls("mknodat", has(2, SET_ID)),
    calls("open", has(1, CREATES), has(2, SET_ID)),
    calls("openat", has(2, CREATES), has(3, SET_ID)),
    calls("openat2", error=errno.ENOSYS),  # its mode is in memory; programs fall back to openat
    # Other families (such as AF_VSOCK) ignore namespaces, and no program here needs them.
    calls(
        "socket socketpair",
        *(differs(0, family) for family in (UNIX, INET, INET6, NETLINK)),
        error=errno.EAFNOSUPPORT,
    ),
    calls("socket", Where(0, NETLINK), differs(2), error=errno.EPROTONOSUPPORT),  # all but ROUTE
    # No limit counts System V memory, which outlives the process that made it.
    calls("shmget shmat shmctl semget semop semtimedop semctl", error=errno.ENOSYS),
    calls("msgget msgsnd msgrcv msgctl", error=errno.ENOSYS),
)
# Calls that reach the host's processes, files and queues where kernels share its namespaces.
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
# Before Linux 6.2 Landlock does not check truncation.
TRUNCATING = (
    calls("truncate"),
    calls("open", Where(1, 0, mask=WRITES), has(1, TRUNCATES)),
    calls("openat", Where(2, 0, mask=WRITES), has(2, TRUNCATES)),
)
# Calls that `broker.py` makes for the caller after checking their target.
HANDED_OVER = (
    # These change a file without opening it for writing, which Landlock does not check.
    hand_over("chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat"),
    hand_over("utime utimes futimesat utimensat"),
    # Libraries pass their own threads here, and some, like ZeroMQ, abort if that fails.
    hand_over("sched_setaffinity sched_setattr sched_setparam sched_setscheduler", differs(0)),
    hand_over("setpriority ioprio_set", differs(1)),
)
# Refuse all but permanently connected pairs: datagram and raw ones can send to any address.
PAIRS = calls(
    "socketpair",
    *(Where(1, kind, mask=KIND_OF_SOCKET, equal=False) for kind in (STREAM, PACKETS)),
)
# Creating sockets, and connecting existing ones (also with MSG_FASTOPEN).
NEW_SOCKETS = (
    calls("socket connect"),
    PAIRS,
    calls("sendto sendmmsg", has(3, FAST_OPEN)),
    calls("sendmsg", has(2, FAST_OPEN)),
)


def knows_system_calls() -> bool:
    """Return whether system call numbers for this machine's processor are known."""
    return platform.machine() in MACHINES


def named(rules: tuple[Rule, ...]) -> dict[int, str]:
    """Return the names of all calls in the rules, by their numbers on this processor.

    Raises:
        KeyError: no numbers are known for this processor.
    """
    known = MACHINES[platform.machine()].numbers
    return {known[name]: name for rule in rules for name in rule.calls if name in known}


def program(rules: tuple[Rule, ...], processor: str = "") -> bytes:
    """Generate a program from these rules, for this machine's processor or another.

    Raises:
        KeyError: no numbers are known for this processor.
    """
    machine = MACHINES[processor or platform.machine()]
    written = [
        instruction(LOAD, ARCHITECTURE),
        instruction(EQUAL, machine.audit, if_true=1),
        instruction(RETURN, KILL),
        instruction(LOAD, NUMBER),
        # Newer calls could do anything; x32 calls (x86-64's second table) are up here too.
        instruction(AT_LEAST, UNKNOWN, if_false=1),
        instruction(RETURN, REFUSE | errno.ENOSYS),
    ]
    for rule in rules:
        for name in rule.calls:
            if name in machine.numbers:
                written += judge(machine.numbers[name], rule)
    return b"".join([*written, instruction(RETURN, ALLOW)])


def judge(number: int, rule: Rule) -> list[bytes]:
    """Return the rule's result if all conditions hold; otherwise fall through to the next rule."""
    code: list[tuple[int, int, bool]] = [(LOAD, NUMBER, True), (EQUAL, number, True)]
    for where in rule.where:
        code += [
            (LOAD, ARGUMENTS + 8 * where.argument + 4 * where.high, True),
            (AND, where.mask, True),
            (EQUAL, where.value, where.equal),
        ]
    code.append((RETURN, rule.result, True))
    written = []
    for left, (operation, value, equal) in zip(reversed(range(len(code))), code, strict=True):
        skip = left if operation == EQUAL else 0
        written.append(instruction(operation, value, *((0, skip) if equal else (skip, 0))))
    return written


def instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """Pack a `struct sock_filter`; a jump is the number of instructions to skip."""
    return struct.pack("=HBBI", code, if_true, if_false, value)
