"""bubblewrap's command line for a view of the machine that has certain places and no others.

Knows paths and mounts; `sandbox.py` decides whose they are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

Kind = Literal["ro", "rw", "tmp", "hidden"]

TMP_SIZE = 1 << 30  # bytes of /tmp and of /dev/shm, which are memory
# What of /proc is shown besides processes; the rest is for who runs the machine.
SHOWN = {
    *("cgroups", "cpuinfo", "diskstats", "filesystems", "loadavg", "meminfo", "mounts", "net"),
    *("self", "stat", "swaps", "sys", "thread-self", "uptime", "version", "vmstat", "zoneinfo"),
}
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


def bubblewrap(places: dict[Path, Kind], etc: Path, network: bool) -> list[str]:
    """The command, up to where the one begins that is to be run in there.

    Args:
        places: what is to be seen, and where in it nothing.
        etc: a folder with the `passwd` and `group` to be seen.
        network: whether the host's network is.
    """
    given = ["bwrap", "--unshare-all", "--unshare-user", "--disable-userns"]
    given += ["--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    given += ["--uid", str(inner_id()), "--gid", str(inner_id()), "--hostname", "sandbox"]
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
    for file in ("passwd", "group"):
        given += ["--ro-bind", str(etc / file), f"/etc/{file}"]
    given += ["--symlink", "/tmp", "/var/tmp"]
    for folder in (*covered, "/dev", "/proc", "/"):
        given += ["--remount-ro", folder]
    return [*given, "--"]


def unfit() -> Iterator[str]:
    """Files and folders in /proc that kernels should not see."""
    for entry in os.scandir("/proc"):
        if not (entry.name.isdigit() or entry.name in SHOWN):
            yield entry.path
    if os.getuid() == 0:  # which needs no capability to read what is root's
        yield "/proc/sys/net"  # what is in there depends on the network that is shown
        for folder, _, files in os.walk("/proc/sys"):
            paths = [os.path.join(folder, name) for name in files]
            if folder.startswith("/proc/sys/net"):
                continue
            yield from (path for path in paths if not os.stat(path).st_mode & 0o004)


def mount(path: Path, kind: Kind, around: Kind) -> list[str]:
    """Bubblewrap's arguments for one place; `around` is what the place above it is."""
    if path.is_symlink():
        visible = around in ("ro", "rw")  # then the link is too
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
    """The user's and group's number inside: one's own, but never root's."""
    return os.getuid() or 1000
