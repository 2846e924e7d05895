"""What seccomp's programs answer, for each processor: run by an interpreter of their instructions."""

from __future__ import annotations

import errno
import struct

import pytest
from rmi_agent.kernels.sandbox import seccomp
from rmi_agent.kernels.sandbox.syscalls import MACHINES, UNKNOWN

RULES = (*seccomp.REACHING_OUT, *seccomp.SHARED_HOST, *seccomp.HANDED_OVER)
ALLOWED, KILLED, HANDED_OVER = "allowed", "killed", "handed over"


def answer(program: bytes, audit: int, number: int, arguments: tuple[int, ...]) -> str | int:
    """The error number, or in words what becomes of a call."""
    data = struct.pack("=IIQ6Q", number, audit, 0, *arguments, *[0] * (6 - len(arguments)))
    at = loaded = 0
    while True:
        code, if_true, if_false, value = struct.unpack_from("=HBBI", program, 8 * at)
        at += 1
        match code:
            case seccomp.LOAD:
                (loaded,) = struct.unpack_from("=I", data, value)
            case seccomp.AND:
                loaded &= value
            case seccomp.EQUAL:
                at += if_true if loaded == value else if_false
            case seccomp.AT_LEAST:
                at += if_true if loaded >= value else if_false
            case seccomp.RETURN:
                words = {
                    seccomp.ALLOW: ALLOWED,
                    seccomp.KILL: KILLED,
                    seccomp.HAND_OVER: HANDED_OVER,
                }
                return words.get(value) or value & 0xFFFF
            case _:
                raise AssertionError(f"no instruction {code:#x}")


HIGH = 1 << 32
SERVER = 4711
CASES = [
    ("ptrace", (), errno.EPERM),
    ("clone", (0x01200011,), ALLOWED),
    ("clone", (0x10000000,), errno.EPERM),
    ("clone3", (), errno.ENOSYS),
    ("openat", (0, 0, 0o101, 0o644), ALLOWED),
    ("openat", (0, 0, 0o101, 0o4755), errno.EPERM),
    ("openat", (0, 0, 0o20200001, 0o2755), errno.EPERM),
    ("openat", (0, 0, 0, 0o7777), ALLOWED),  # without O_CREAT it is any left-over number
    ("openat", (0, 0, HIGH | 0o101, HIGH | 0o4755), errno.EPERM),
    ("openat2", (), errno.ENOSYS),
    ("fchmod", (3, 0o755), HANDED_OVER),
    ("fchmod", (3, 0o1755), HANDED_OVER),
    ("fchmod", (3, 0o4755), errno.EPERM),
    ("fchmodat", (0, 0, HIGH | 0o2755), errno.EPERM),
    ("mknodat", (0, 0, 0o104755), errno.EPERM),
    ("mknodat", (0, 0, 0o100755), ALLOWED),
    ("socket", (1, 1), ALLOWED),
    ("socket", (10, 2), ALLOWED),
    ("socket", (16, 3, 0), ALLOWED),
    ("socket", (16, 3, 15), errno.EPROTONOSUPPORT),
    ("socket", (40, 1), errno.EAFNOSUPPORT),
    ("socket", (HIGH | 40, 1), errno.EAFNOSUPPORT),
    ("socketpair", (30, 1), errno.EAFNOSUPPORT),
    ("prlimit64", (0, 7, 1), ALLOWED),
    ("prlimit64", (SERVER, 7, 0, 1), ALLOWED),
    ("prlimit64", (SERVER, 7, 1), errno.EPERM),
    ("prlimit64", (SERVER, 7, HIGH), errno.EPERM),
    ("prlimit64", (HIGH, 7, 1), ALLOWED),  # Linux reads the lower half alone
    ("setpriority", (0, 0, 5), ALLOWED),
    ("setpriority", (0, SERVER, 5), HANDED_OVER),
    ("setpriority", (2, 0, 5), errno.EPERM),
    ("ioprio_set", (1, 0, 0), ALLOWED),
    ("ioprio_set", (3, 0, 0), errno.EPERM),
    ("sched_setaffinity", (0, 8, 1), ALLOWED),
    ("sched_setaffinity", (SERVER, 8, 1), HANDED_OVER),
    ("fcntl", (3, 1024), errno.EPERM),
    ("fcntl", (3, 1), ALLOWED),
    ("ioctl", (0, 0x5412), errno.EPERM),
    ("ioctl", (0, HIGH | 0x40086602), errno.ENOTTY),
    ("ioctl", (0, 0x5413), ALLOWED),
    ("shmget", (), errno.ENOSYS),
]


@pytest.mark.parametrize("processor", MACHINES)
@pytest.mark.parametrize(("name", "arguments", "expected"), CASES)
def test_a_call_is_answered_by_its_arguments(
    name: str, arguments: tuple[int, ...], expected: str | int, processor: str
) -> None:
    machine = MACHINES[processor]
    program = seccomp.program(RULES, processor)
    # Of several programs Linux takes the strictest answer; of one, the first.
    assert answer(program, machine.audit, machine.numbers[name], arguments) == expected


@pytest.mark.parametrize("processor", MACHINES)
def test_before_landlock_asks_about_it_no_file_is_emptied_unopened(processor: str) -> None:
    machine = MACHINES[processor]
    program = seccomp.program(seccomp.TRUNCATING, processor)

    def opened(flags: int) -> str | int:
        return answer(program, machine.audit, machine.numbers["openat"], (0, 0, flags))

    assert answer(program, machine.audit, machine.numbers["truncate"], ()) == errno.EPERM
    assert [opened(flags) for flags in (0o1000, 0o101000)] == [errno.EPERM] * 2
    assert [opened(flags) for flags in (0, 0o1001, 0o1002, 0o1101)] == [ALLOWED] * 4


@pytest.mark.parametrize("processor", MACHINES)
def test_a_socket_that_is_there_is_not_connected_by_sending(processor: str) -> None:
    machine = MACHINES[processor]
    program = seccomp.program(seccomp.NEW_SOCKETS, processor)

    def sent(name: str, *arguments: int) -> str | int:
        return answer(program, machine.audit, machine.numbers[name], arguments)

    fast_open, more = 0x20000000, 0x8000
    assert sent("sendto", 3, 0, 0, fast_open) == errno.EPERM
    assert sent("sendmsg", 3, 0, fast_open | more) == errno.EPERM
    assert sent("sendmmsg", 3, 0, 1, fast_open) == errno.EPERM
    assert [sent("sendto", 3, 0, 0, more), sent("sendmsg", 3, 0, more)] == [ALLOWED] * 2


@pytest.mark.parametrize("processor", MACHINES)
def test_calls_of_another_processor_or_of_the_future_are_not_let_through(processor: str) -> None:
    machine = MACHINES[processor]
    program = seccomp.program(RULES, processor)
    assert answer(program, 0x40000003, 1, ()) == KILLED
    for number in (UNKNOWN, 0x40000000 + machine.numbers["ptrace"], 0xFFFFFFFF):
        assert answer(program, machine.audit, number, ()) == errno.ENOSYS
    assert len(program) // 8 < 4096  # Linux takes no longer one


def test_each_call_that_a_rule_names_is_known() -> None:
    known = set().union(*(machine.numbers for machine in MACHINES.values()))
    rules = (*RULES, *seccomp.NEW_SOCKETS, *seccomp.TRUNCATING)
    assert {name for rule in rules for name in rule.calls} == known
