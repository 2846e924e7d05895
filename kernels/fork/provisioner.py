"""`rmi-forkserver`: a jupyter_client kernel provisioner that forks kernels from a template.

A template has imported what a kernel needs and the modules to preload, so a kernel is ready
in a few milliseconds and shares that memory. A kernel that can't be forked as requested is started
as `LocalProvisioner` does it. Usable by any program based on jupyter_client; knows nothing of this
package's kernels and sessions.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import psutil
from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning.local_provisioner import LocalProvisioner
from traitlets import Bool, Dict, List, Unicode

from ..errors import CannotFork
from ..process_tree import MARK, put_number
from .pool import PATIENCE, TEMPLATES, Forked, Request

log = logging.getLogger(__name__)

PRELOAD = ("numpy", "pandas", "matplotlib.pyplot")


class ForkserverProvisioner(LocalProvisioner):
    """Forks kernels from a template; everything but the start is left to `LocalProvisioner`.

    In a kernelspec: `"metadata": {"kernel_provisioner": {"provisioner_name":
    "rmi-forkserver", "config": {"preload": ["numpy"]}}}`.
    """

    process: Any = None  # a `Popen` if the kernel was not forked
    fork = Bool(True, help="Whether to fork; else all is started.").tag(config=True)
    preload = List(Unicode(), list(PRELOAD), help="Modules to import ahead.").tag(config=True)
    prefix = List(Unicode(), help="A command to run the interpreter by: bubblewrap.").tag(
        config=True
    )
    template_overrides: Any = Dict(
        help="Variables that a template has otherwise; None is none. Kernels have them as given."
    ).tag(config=True)

    last_filter = Unicode(
        help="A program for seccomp, in hexadecimal, that only forked kernels can apply in time."
    ).tag(config=True)

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Fork the kernel that `cmd` describes, or start it if it can't be forked."""
        with contextlib.ExitStack() as opened:
            try:
                if not self.fork:
                    raise CannotFork("their kernelspec says so")
                request = in_other_words(
                    cmd, self._scrub_kwargs(kwargs), tuple(self.preload), opened
                )
                request = replace(
                    request,
                    python=(*self.prefix, *request.python),
                    template_overrides=self.template_overrides,
                    apart=bool(self.prefix),
                    last_filter=self.last_filter,
                )
                self.process = await forked(request)
            except CannotFork as why:
                if self.last_filter:
                    raise
                say_once(str(why))
                return await self.start_kernel([*self.prefix, *cmd], **kwargs)
        put_number(self.process.pid, request.mark)
        self.pid = self.pgid = self.process.pid
        self.cwd = request.cwd
        return self.connection_info

    async def cleanup(self, restart: bool = False) -> None:
        """Close the connection to the process, even if its exit code was never asked for."""
        if isinstance(self.process, Forked):
            self.process.close()
        await super().cleanup(restart=restart)

    async def start_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start it as `LocalProvisioner` does, and let signals reach it inside its wrapper."""
        if self.prefix:
            # In another PID namespace, a kernel can't watch its parent.
            kwargs["independent"] = True
        info = await super().launch_kernel(cmd, **kwargs)
        # Before the kernel's first line runs, which may be the user's.
        put_number(self.process.pid, (kwargs.get("env") or os.environ).get(MARK, ""))
        if self.prefix and (inner := await inside(self.process.pid)):
            self.pgid = inner
        return info


async def inside(pid: int) -> int | None:
    """The process group inside bubblewrap, if that is what was started.

    A signal ends bubblewrap and everything inside, but not its child, which is PID 1 in there.
    """
    process = psutil.Process(pid)
    for _ in range(100):
        with contextlib.suppress(psutil.Error):
            if process.name() == "bwrap" and (children := process.children()):
                pgid = os.getpgid(children[0].pid)
                if pgid != pid:
                    return pgid
        await asyncio.sleep(0.02)
    return None


@functools.cache
def say_once(why: str) -> None:
    """Log, once per reason, that kernels are started in the ordinary way."""
    log.info("Kernels are started, not forked: %s", why)


async def forked(request: Request) -> Forked:
    """Fork a kernel; on cancellation, the kernel that still arrives is killed.

    Raises:
        CannotFork: no template can fork it.
    """
    forking = asyncio.ensure_future(TEMPLATES.fork(request))
    try:
        return await asyncio.shield(forking)
    except asyncio.CancelledError:
        with contextlib.suppress(CannotFork):
            unwanted = await forking
            unwanted.kill()
            await asyncio.to_thread(unwanted.wait, PATIENCE)
        raise


def in_other_words(
    cmd: list[str],
    popen: dict[str, Any],
    preload: tuple[str, ...],
    opened: contextlib.ExitStack,
) -> Request:
    """Translate a `Popen` call into a request; `opened` closes the descriptors it needs.

    Raises:
        CannotFork: the call asks for more than a fork can provide.
    """
    if sys.platform == "win32":
        raise CannotFork("Windows can't fork")
    module = cmd.index("-m") + 1 if "-m" in cmd else len(cmd)
    if cmd[module : module + 1] != ["ipykernel_launcher"]:
        raise CannotFork(f"{cmd[0]} is not asked for ipykernel_launcher")
    more = dict(popen)
    env = dict(more.pop("env", None) or os.environ)
    cwd = os.fspath(more.pop("cwd", None) or os.getcwd())
    streams = [more.pop(name, None) for name in ("stdin", "stdout", "stderr")]
    if more.pop("independent", False) or more:
        raise CannotFork(f"it asks for {', '.join(more) or 'independence'}")
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
        preload=preload,
    )


def descriptors(streams: list[Any], opened: contextlib.ExitStack) -> tuple[int, ...]:
    """The descriptors that `Popen` would give a process as its 0, 1 and 2."""
    numbers: list[int] = []
    for number, stream in enumerate(streams):
        if stream == subprocess.PIPE:
            raise CannotFork("it asks for pipes")
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
