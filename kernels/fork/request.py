"""A request for a forked kernel, as it is sent to a template, made from a call of `Popen`.

Knows what a fork can provide; nothing of templates and kernels.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import CannotFork
from ..process_tree import MARK, mark_number
from .zygote import LENGTH

# Variables that differ from kernel to kernel and that no library reads on import. pytest's names
# the test that starts a kernel, as nbmake's and testbook's do.
OWN = (
    *("JPY_PARENT_PID", "JPY_SESSION_NAME", MARK, "KERNEL_ID", "PWD", "OLDPWD"),
    "PYTEST_CURRENT_TEST",
)

Key = tuple[tuple[str, ...], tuple[str, ...], tuple[tuple[str, str], ...], int | None, str]


@dataclass(frozen=True)
class Request:
    """A request for a kernel.

    Attributes:
        python: the interpreter and its options.
        arguments: those after `-m ipykernel_launcher`.
        env: the kernel's complete environment.
        cwd: its working directory.
        umask: its file mode mask.
        streams: the descriptors that become its 0, 1 and 2.
        preload: modules to have imported already, if they are installed.
        template_overrides: variables with other values in the template, since they lead to
            what kernels can write; None unsets one.
        apart: whether to isolate it from the memory of its template and of other kernels.
        last_filter: a seccomp program in hexadecimal, applied once the kernel has its sockets.
        lent: a folder whose packages come after all others; empty if there is none.
        is_extra: whether its environment is one of many, for few of which there are templates.
        sockets: the descriptors of two Unix sockets that the kernel speaks over, for messages and
            for control; without them it opens the ZMQ sockets of its connection file.
        signing_key: signs the messages on them.
        output_limit: max characters of one message's text on them; 0 is no limit.
        wait: whether to wait for a template that is still importing.
    """

    python: tuple[str, ...]
    arguments: tuple[str, ...]
    env: dict[str, str]
    cwd: str
    umask: int
    streams: tuple[int, ...]
    preload: tuple[str, ...] = ()
    template_overrides: Mapping[str, str | None] = field(default_factory=dict)
    apart: bool = False
    last_filter: str = ""
    lent: str = ""
    is_extra: bool = False
    sockets: tuple[int, ...] = ()
    signing_key: str = ""
    output_limit: int = 0
    wait: bool = True

    @property
    def key(self) -> Key:
        """What all kernels of one template have in common."""
        common = {name: value for name, value in self.env.items() if name not in OWN}
        limit = self.output_limit if self.sockets else None
        return self.python, self.preload, tuple(sorted(common.items())), limit, self.lent

    def template_env(self) -> dict[str, str]:
        """The environment for the template; the kernel's part of the mark becomes zeros."""
        common = {
            name: value
            for name, value in {**self.env, **self.template_overrides}.items()
            if value is not None and name not in OWN
        }
        common["JPY_PARENT_PID"] = self.env["JPY_PARENT_PID"]  # ipykernel's import reads it
        if self.mark:
            server, dot, kernel = self.mark.partition(".")
            common[MARK] = server + dot + "0" * len(kernel)
        return common

    @property
    def mark(self) -> str:
        """The mark that identifies the kernel and everything it starts; empty if none."""
        return self.env.get(MARK, "")

    def wire(self) -> bytes:
        """The request as bytes for the connection: length and JSON."""
        names = ("arguments", "env", "cwd", "umask", "apart", "last_filter", "signing_key")
        fields: dict[str, Any] = {name: getattr(self, name) for name in names}
        fields["number"] = mark_number(self.mark) if sys.platform == "linux" and self.mark else None
        data = json.dumps(fields).encode()
        return LENGTH.pack(len(data)) + data


def request_for(cmd: list[str], popen: Mapping[str, Any], opened: contextlib.ExitStack) -> Request:
    """Translate a `Popen` call into a request; `opened` closes the descriptors it needs.

    Raises:
        CannotFork: the call asks for more than a fork can provide.
    """
    if sys.platform == "win32":
        raise CannotFork("Windows can't fork")
    module = cmd.index("-m") + 1 if "-m" in cmd else len(cmd)
    if cmd[module : module + 1] != ["ipykernel_launcher"]:
        raise CannotFork(f"the command {cmd[0]} does not run ipykernel_launcher")
    more = dict(popen)
    env = dict(more.pop("env", None) or os.environ)
    cwd = os.fspath(more.pop("cwd", None) or os.getcwd())
    streams = [more.pop(name, None) for name in ("stdin", "stdout", "stderr")]
    if more.pop("independent", False) or more:
        raise CannotFork(f"a forked process can't have {', '.join(more) or 'independence'}")
    if any(not os.path.isabs(path) for path in (env.get("PYTHONPATH") or "/").split(os.pathsep)):
        raise CannotFork("PYTHONPATH has a relative path")
    # The template watches over the kernel; 1 tells ipykernel that it need not poll its parent.
    env["JPY_PARENT_PID"] = "1"
    umask = os.umask(0o77)
    os.umask(umask)
    return Request(
        python=(os.path.expanduser(cmd[0]), *cmd[1 : module - 1]),
        arguments=tuple(cmd[module + 1 :]),
        env=env,
        cwd=cwd,
        umask=umask,
        streams=descriptors(streams, opened),
    )


def descriptors(streams: list[Any], opened: contextlib.ExitStack) -> tuple[int, ...]:
    """The descriptors that `Popen` would give a process as its 0, 1 and 2."""
    numbers: list[int] = []
    for number, stream in enumerate(streams):
        if stream == subprocess.PIPE:
            raise CannotFork("a forked process can't have pipes")
        if stream == subprocess.STDOUT:
            numbers.append(numbers[1])
        elif stream == subprocess.DEVNULL or (stream is None and number == 0):
            numbers.append(os.open(os.devnull, os.O_RDWR))
            opened.callback(os.close, numbers[-1])
        elif stream is None:
            numbers.append(number)
        else:
            numbers.append(stream if isinstance(stream, int) else stream.fileno())
    return tuple(numbers)
