"""bubblewrap's command line for showing certain places of the machine and no others.

Knows paths and mounts; `places.py` decides who sees which.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

Kind = Literal["ro", "rw", "tmp", "hidden"]

HOST = "sandbox"  # the name of the machine inside
TMP_SIZE = 1 << 30  # max bytes in /tmp and in /dev/shm, each; both are in memory
# Entries of /proc shown besides processes; the others are the administrator's business.
SHOWN = {
    *("cgroups", "cpuinfo", "diskstats", "filesystems", "loadavg", "meminfo", "mounts", "net"),
    *("self", "stat", "swaps", "sys", "thread-self", "uptime", "version", "vmstat", "zoneinfo"),
}
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


def bubblewrap(places: dict[Path, Kind], etc: Path, network: bool) -> list[str]:
    """Return the bwrap command that goes in front of the sandboxed command.

    Args:
        places: what is shown, and how; "hidden" ones are shown empty.
        etc: a folder with the `passwd`, `group` and `hosts` files to show.
        network: whether to share the host's network.
    """
    given = ["bwrap", "--unshare-all", "--unshare-user", "--disable-userns"]
    given += ["--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    given += ["--uid", str(inner_id()), "--gid", str(inner_id()), "--hostname", HOST]
    given += ["--proc", "/proc", "--dev", "/dev"]
    covered: list[str] = []
    for path in map(Path, unfit()):
        given += mount(path, "hidden", "ro")
        if path.is_dir():
            covered.append(str(path))
    if network:
        resolver = os.path.realpath("/etc/resolv.conf")
        given += ["--share-net", "--ro-bind-try", resolver, "/etc/resolv.conf"]
    for path in sorted(places, key=lambda path: len(path.parts)):
        above = [places[each] for each in path.parents if each in places]
        around: Kind = above[0] if above else "hidden"
        given += mount(path, places[path], around)
        if places[path] == "hidden" and around in ("ro", "rw") and path.is_dir():
            covered.append(str(path))
    for file in ("passwd", "group", "hosts"):
        given += ["--ro-bind", str(etc / file), f"/etc/{file}"]
    given += ["--symlink", "/tmp", "/var/tmp"]
    for folder in (*covered, "/dev", "/proc", "/"):
        given += ["--remount-ro", folder]
    return [*given, "--"]


def hosts(network: bool) -> str:
    """Return the contents of a hosts file that also has the name of the machine inside."""
    given = ""
    if network:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            given = Path("/etc/hosts").read_text()
    return f"{given.rstrip() or '127.0.0.1 localhost'}\n127.0.1.1 {HOST}\n"


def unfit() -> Iterator[str]:
    """Yield files and folders in /proc that kernels should not see."""
    for entry in os.scandir("/proc"):
        if not (entry.name.isdigit() or entry.name in SHOWN):
            yield entry.path
    if os.getuid() == 0:  # root can read root's files without any capability
        yield "/proc/sys/net"  # its contents depend on the network namespace
        for folder, _, files in os.walk("/proc/sys"):
            paths = [os.path.join(folder, name) for name in files]
            if folder.startswith("/proc/sys/net"):
                continue
            yield from (path for path in paths if not os.stat(path).st_mode & 0o004)


def mount(path: Path, kind: Kind, around: Kind) -> list[str]:
    """Return bubblewrap's arguments for one place; `around` is the kind of the enclosing place."""
    if path.is_symlink():
        visible = around in ("ro", "rw")  # then so is the link
        return [] if visible else ["--symlink", os.readlink(path), str(path)]
    match kind:
        case "tmp":
            return ["--size", str(TMP_SIZE), "--tmpfs", str(path)]
        case "hidden" if around in ("tmp", "hidden"):
            return []
        case "hidden" if path.is_dir():
            return ["--tmpfs", str(path)]
        case "hidden":
            return ["--ro-bind", "/dev/null", str(path)]
        case "ro" if around == "ro":
            return []
        case "ro":
            return ["--ro-bind", str(path), str(path)]
        case "rw":
            return ["--bind", str(path), str(path)]


def inner_id() -> int:
    """Return the uid and gid inside: the server's own, but never root's."""
    return os.getuid() or 1000
