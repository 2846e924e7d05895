"""Linux system call numbers, by processor, for the rules in `seccomp.py`.

Only tables. Sources: the kernel's `asm/unistd_64.h` (x86-64) and `asm-generic/unistd.h`
(aarch64), with `scripts/syscall.tbl` for calls newer than those headers.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """A processor's AUDIT_ARCH_… constant and its system call numbers."""

    audit: int
    numbers: dict[str, int]


UNKNOWN = 470  # first number newer than these tables

EVERYWHERE = """
    clone3=435 fchmodat2=452 file_setattr=469 fsconfig=431 fsmount=432 fsopen=430 fspick=433
    io_uring_setup=425 mount_setattr=442 move_mount=429 open_tree=428 open_tree_attr=467
    openat2=437 pidfd_getfd=438 process_madvise=440 process_mrelease=448 quotactl_fd=443
    removexattrat=466 setxattrat=463
"""
X86_64 = """
    acct=163 add_key=248 bpf=321 chmod=90 chown=92 chroot=161 clone=56 connect=42 creat=85
    delete_module=176 fchmod=91 fchmodat=268 fchown=93 fchownat=260 fcntl=72 finit_module=313
    fremovexattr=199 fsetxattr=190 futimesat=261 init_module=175 ioctl=16 ioprio_set=251
    kcmp=312 kexec_file_load=320 kexec_load=246 keyctl=250 lchown=94 lremovexattr=198
    lsetxattr=189 migrate_pages=256 mknod=133 mknodat=259 mount=165 move_pages=279 mq_open=240
    mq_unlink=241 msgctl=71 msgget=68 msgrcv=70 msgsnd=69 name_to_handle_at=303 open=2
    open_by_handle_at=304 openat=257 perf_event_open=298 pivot_root=155 prlimit64=302
    process_vm_readv=310 process_vm_writev=311 ptrace=101 quotactl=179 reboot=169
    removexattr=197 request_key=249 sched_setaffinity=203 sched_setattr=314 sched_setparam=142
    sched_setscheduler=144 semctl=66 semget=64 sendmmsg=307 sendmsg=46 sendto=44 semop=65
    semtimedop=220 setns=308 setpriority=141 setrlimit=160 setxattr=188 shmat=30 shmctl=31
    shmget=29 socket=41 socketpair=53 swapoff=168 swapon=167 syslog=103 truncate=76 umount2=166
    unshare=272 userfaultfd=323 utime=132 utimensat=280 utimes=235
"""
AARCH64 = """
    acct=89 add_key=217 bpf=280 chroot=51 clone=220 connect=203 delete_module=106 fchmod=52
    fchmodat=53 fchown=55 fchownat=54 fcntl=25 finit_module=273 fremovexattr=16 fsetxattr=7
    init_module=105 ioctl=29 ioprio_set=30 kcmp=272 kexec_file_load=294 kexec_load=104
    keyctl=219 lremovexattr=15 lsetxattr=6 migrate_pages=238 mknodat=33 mount=40 move_pages=239
    mq_open=180 mq_unlink=181 msgctl=187 msgget=186 msgrcv=188 msgsnd=189 name_to_handle_at=264
    open_by_handle_at=265 openat=56 perf_event_open=241 pivot_root=41 prlimit64=261
    process_vm_readv=270 process_vm_writev=271 ptrace=117 quotactl=60 reboot=142 removexattr=14
    request_key=218 sched_setaffinity=122 sched_setattr=274 sched_setparam=118
    sched_setscheduler=119 semctl=191 semget=190 sendmmsg=269 sendmsg=211 sendto=206 semop=193
    semtimedop=192 setns=268 setpriority=140 setrlimit=164 setxattr=5 shmat=196 shmctl=195
    shmget=194 socket=198 socketpair=199 swapoff=225 swapon=224 syslog=116 truncate=45
    umount2=39 unshare=97 userfaultfd=282 utimensat=88
"""


def table(text: str) -> dict[str, int]:
    """Read `name=number` pairs."""
    return {name: int(number) for name, number in (pair.split("=") for pair in text.split())}


MACHINES = {
    "x86_64": Machine(0xC000003E, table(EVERYWHERE + X86_64)),
    "aarch64": Machine(0xC00000B7, table(EVERYWHERE + AARCH64)),
}
