"""One kernel's process: starts, signals and ends it and everything it has started.

Goes through jupyter_client's manager and so through whatever provisioner the kernelspec
names. Knows processes, pipes and files; nothing of what runs inside.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import zmq
import zmq.asyncio
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.kernelspec import NoSuchKernel
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning.factory import KernelProvisionerFactory

from ..addresses import RemoteKernel
from ..errors import CannotFork, DeadKernelError, KernelStartError
from ..fork import Forked
from ..process_tree import MARK, Family, measured, put_number, remove
from ..protocol import weighed
from .kernel_process import SetUp
from .launch import LOCAL, OURS, Launch, language_of, no_such
from .output_pipes import RawOutput

log = logging.getLogger(__name__)

RECONNECT = 5  # milliseconds between attempts to connect to a starting kernel
RECONNECT_FAR = 50
POLL = 0.1  # seconds between checks whether the process is alive
LOOK_FOR_SOCKETS = 0.002  # seconds between checks whether it has created its sockets
CHANNELS = ("shell", "iopub", "control", "stdin", "hb")
NEEDED = 4  # how many of CHANNELS, from the first, to wait for
LAST_SOCKET = 1.0  # max seconds for stdin's socket, which some kernels create last or never


class LocalProcess:
    """The process behind a kernel, on this machine: see `KernelProcess`."""

    is_here = True
    tended = False
    remote: RemoteKernel | None = None
    cut_until = 0.0

    def __init__(self, launch: Launch, context: zmq.asyncio.Context) -> None:
        self.launch = launch
        self.pid: int | None = None
        self.raw = RawOutput()
        self.mark = f"{launch.mark}.{secrets.token_hex(6)}"
        self.left_running: tuple[str, ...] = ()
        self._logged: set[str] = set()
        self._family: Family | None = None
        self._socket_paths: list[Path] = []  # where its sockets were before the move
        self._context = context
        # We connect while the kernel is still creating its sockets; retry quickly.
        context.setsockopt(zmq.RECONNECT_IVL, RECONNECT if self.is_here else RECONNECT_FAR)
        name = f"k{secrets.token_hex(6)}"
        self._manager = AsyncKernelManager(
            kernel_name=launch.kernel_name,
            connection_file=str(launch.runtime / f"{name}.json"),
            transport_encryption="auto",
            context=context,
            autorestart=False,
            shutdown_wait_time=2.0,
        )
        if self.is_here and sys.platform != "win32":
            # Any local user could listen on a TCP kernel's iopub; a socket file is private.
            self._manager.transport, self._manager.transport_encryption = "ipc", "disabled"
            self._manager.ip = str((launch.sockets or launch.runtime) / name)

    async def start(self) -> AsyncKernelClient:
        """Start the process; returns a client for its channels.

        Raises:
            KernelStartError: there is no such kernelspec, or it can't run in the sandbox.
            DeadKernelError: the process ended before it had created its sockets.
            TimeoutError: it did not create them in time.
        """
        self._choose_provisioner()
        pipes: tuple[int, ...] = ()
        if sys.platform != "win32":
            pipes = self.raw.open()
        out, err = pipes or (subprocess.DEVNULL, subprocess.DEVNULL)
        try:
            await self._manager.start_kernel(
                cwd=str(self.launch.cwd),
                env={**self._quiet(), **self.launch.env, MARK: self.mark},
                # Never the server's own streams: ipykernel echoes captured output there.
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
        except NoSuchKernel as error:
            raise KernelStartError(no_such(self.launch.kernel_name)) from error
        except CannotFork as error:
            if isinstance(error.__cause__, OSError):  # out of descriptors, for example
                raise error.__cause__ from None
            raise KernelStartError(
                f"The kernel {self.launch.kernel_name!r} was not started: it can't be forked"
                f" ({error}), and Landlock without a network holds no others. Try again; if it"
                " happens again, install bubblewrap or set RMI_AGENT_SANDBOX_NETWORK=1."
            ) from error
        finally:
            for fd in pipes:
                os.close(fd)
        self.pid = getattr(self._manager.provisioner, "pid", None)
        if self.pid is not None:
            put_number(self.pid, self.mark)  # in case another provisioner started it
            self._family = Family(self.pid)  # now, while it is certainly alive
        if self.launch.socket_store is not None:
            async with asyncio.timeout(self.launch.start_timeout):
                await self._move_sockets(self.launch.socket_store)
        return self._new_client()

    def _new_client(self) -> AsyncKernelClient:
        """A client for its channels that limits the memory of one message."""
        client = self._manager.client(context=self._context)
        python = language_of(self.launch.kernel_name) == "python"
        weighed(client, self.launch.output_limit, waits=python)
        return client

    def more_to_set_up(self) -> SetUp:
        """Nothing more to set up: files and signals reach it directly."""
        return SetUp()

    async def _move_sockets(self, folder: Path) -> None:
        """Move the sockets to where kernels can't change them, and connect there.

        Otherwise a cell could replace a socket by a link to one of the host's, and this process
        would connect to that with its own privileges.

        Raises:
            KernelStartError: something other than a socket is there.
            DeadKernelError: the process ended first.
        """
        ip = self._manager.ip
        self._socket_paths = [Path(f"{ip}-{self._port(channel)}") for channel in CHANNELS]
        provisioner = self._manager.provisioner
        assert provisioner is not None
        last = 0.0
        while not all(map(path_exists, self._socket_paths[:NEEDED])):
            now = time.monotonic()
            last = last or (
                now + LAST_SOCKET if all(map(path_exists, self._socket_paths[: NEEDED - 1])) else 0
            )
            if last and now > last:
                break
            if (code := await provisioner.poll()) is not None:
                raise DeadKernelError(self.told_end(code))
            await asyncio.sleep(LOOK_FOR_SOCKETS)
        for place in self._socket_paths:
            with contextlib.suppress(FileNotFoundError):
                os.rename(place, folder / place.name)
                found = os.lstat(folder / place.name)
                if not stat.S_ISSOCK(found.st_mode) or found.st_nlink != 1:
                    raise KernelStartError(
                        "A kernel was not used: its sockets had been replaced while it started,"
                        " by code that runs at each start or in another session. Try again, and"
                        " if it happens again, remove that code (~/packages/sitecustomize.py, say)."
                    )
        self._manager.ip = str(folder / Path(ip).name)

    def _port(self, channel: str) -> int:
        """A channel's port number, which is the suffix of its socket's name."""
        return int(getattr(self._manager, f"{channel}_port"))

    def _quiet(self) -> dict[str, str]:
        """Variables for kernels of other languages that are built on ipykernel, such as bash's.

        ipykernel's debugger warns about them at the first request, inside a cell's output.
        """
        with contextlib.suppress(NoSuchKernel):
            spec = self._manager.kernel_spec
            if spec is not None and spec.language.lower() != "python":
                return {"PYDEVD_DISABLE_FILE_VALIDATION": "1"}
        return {}

    def _choose_provisioner(self) -> None:
        """Use our provisioner, which forks if possible, unless the kernelspec names another.

        Raises:
            KernelStartError: another provisioner would start it outside the sandbox.
        """
        spec = None
        with contextlib.suppress(NoSuchKernel):  # starting it will raise the error
            spec = self._manager.kernel_spec
        if spec is None or sys.platform == "win32":
            return
        stock, wrap = spec.metadata, self.launch.wrap
        theirs = stock.get("kernel_provisioner", {"provisioner_name": OURS})
        if theirs["provisioner_name"] == OURS or (wrap and theirs["provisioner_name"] == LOCAL):
            config = {
                "fork": theirs["provisioner_name"] == OURS,
                "preload": list(self.launch.preload),
                **theirs.get("config", {}),
                "prefix": self._wrapped_by(),
                "template_overrides": self.launch.template_overrides,
                "last_filter": self.launch.last_filter,
            }
            ours = {"provisioner_name": OURS, "config": config}
            spec.metadata = {**stock, "kernel_provisioner": ours}
            if KernelProvisionerFactory.instance().is_provisioner_available(spec):
                return
            # It is not available if the package was updated in place but not reinstalled.
            spec.metadata = stock
        if wrap:
            raise KernelStartError(
                f"The kernel {self.launch.kernel_name!r} can't be started in the sandbox: its"
                " kernelspec has a provisioner of its own, or this package has to be installed"
                " again. Choose another RMI_AGENT_KERNEL_NAME, or set RMI_AGENT_SANDBOX=off."
            )

    def _wrapped_by(self) -> list[str]:
        """The sandbox command to prepend to the kernel's command; empty without a sandbox.

        Raises:
            KernelStartError: the kernel's interpreter can't run in a sandbox.
        """
        if self.launch.wrap is None:
            return []
        try:
            return self.launch.wrap(self._manager.format_kernel_cmd()[0])
        except (OSError, subprocess.SubprocessError) as error:
            raise KernelStartError(
                f"The kernel {self.launch.kernel_name!r} can't be started in the sandbox. {error}"
            ) from error

    @property
    def forked(self) -> bool:
        """Whether it was forked from a template rather than started."""
        return isinstance(getattr(self._manager.provisioner, "process", None), Forked)

    async def alive(self) -> bool:
        """Whether it is still running."""
        process = getattr(self._manager.provisioner, "process", None)
        if isinstance(process, Forked) and process.ended:
            await self.until_dead()  # its template is about to report the exit code
        return bool(await self._manager.is_alive())

    async def until_dead(self) -> int | None:
        """Wait for its end; returns the exit code as `subprocess` gives it, None if unknown."""
        provisioner = self._manager.provisioner
        assert provisioner is not None
        # Provisioners offer no event for this, only `poll`.
        while (code := await provisioner.poll()) is None:  # noqa: ASYNC110
            await asyncio.sleep(POLL)
        process = getattr(provisioner, "process", None)
        return None if isinstance(process, Forked) and process.exit_code_lost else code

    @property
    def why_ended(self) -> str:
        """What is known about its end besides the exit code: nothing."""
        return ""

    def news(self) -> tuple[str, ...]:
        """What happened to the connection since the last call: a local one never breaks."""
        return ()

    def told_end(self, code: int | None) -> str:
        """Describe in a sentence how it ended, given the code from `until_dead`."""
        return describe_exit(code)

    async def interrupt(self, *, again: bool = False) -> None:
        """Send SIGINT to its process group, or do what its kernelspec says instead.

        Does the same if called `again` because the first time did not help.
        """
        await self._manager.interrupt_kernel()

    async def kill(self) -> None:
        """Kill it and everything it started, at once."""
        await self._look()
        provisioner = self._manager.provisioner
        try:
            if provisioner is not None and provisioner.has_process:
                await provisioner.kill()
        finally:
            await self._sweep()

    async def close(self, *, graceful: bool = True) -> None:
        """End it and everything it started; remove its files. Idempotent.

        A graceful end gives the kernel at most two seconds to run its exit handlers.
        """
        await self._look()
        try:
            if self._manager.has_kernel:
                await self._manager.shutdown_kernel(now=not graceful)
            else:
                await self._manager.cleanup_resources()
        except (OSError, RuntimeError, TimeoutError) as error:
            log.warning("The kernel %s did not shut down in order: %s", self.pid, error)
        finally:
            await self._sweep()
            for place in self._socket_paths:  # sockets created late or again
                with contextlib.suppress(OSError):
                    place.unlink()
            self.raw.close()

    async def release(self) -> None:
        """Do nothing: the process would not outlive this server."""

    @property
    def family(self) -> Family | None:
        """The process and everything it has started; None before its start."""
        if self._family is None and self.pid is not None:
            self._family = Family(self.pid)
        return self._family

    @property
    def is_walled(self) -> bool:
        """Whether it runs in a sandbox."""
        return self.launch.wrap is not None

    def memory(self) -> int:
        """Bytes used by it and everything it has started; 0 if that can't be read.

        On Linux, shared memory is counted proportionally (PSS), since forked kernels share a
        lot; elsewhere this is the sum of the resident sizes.
        """
        return measured(self.family) if self.family is not None else 0

    def spec_metadata(self) -> dict[str, str]:
        """The `kernelspec` entry for a notebook's metadata."""
        spec = self._manager.kernel_spec
        return {
            "name": self.launch.kernel_name,
            "display_name": spec.display_name if spec else self.launch.kernel_name,
            "language": spec.language if spec else "",
        }

    def last_words(self) -> str:
        """Its unread output on descriptors 1 and 2."""
        said: list[str] = []
        self.raw.attach(lambda _, text: said.append(text))
        self.raw.detach()
        return "".join(said).strip()

    async def _look(self) -> None:
        """Find all its processes while it still exists to trace them by."""
        if (family := self.family) is not None:
            await asyncio.to_thread(family.look_again)

    async def _sweep(self) -> None:
        """Kill what is left of it: descendants, its process group, daemons, shared memory."""
        if (family := self.family) is None:
            return
        self.left_running = tuple(await asyncio.to_thread(family.end, self.mark))
        for words in self.left_running:
            if words not in self._logged:
                log.warning("%s", words)
        self._logged.update(self.left_running)
        if family.segments:
            await asyncio.to_thread(remove, list(family.segments.values()))


def path_exists(path: Path) -> bool:
    """Whether anything has this path, including a dangling link."""
    return os.path.lexists(path)


def describe_exit(code: int | None) -> str:
    """Describe an exit code in a sentence; None means it is unknown."""
    if code is None:
        return "Its process is gone."
    if code < 0:
        try:
            return f"Its process was ended by {signal.Signals(-code).name}."
        except ValueError:
            return f"Its process was ended by signal {-code}."
    return f"Its process ended with exit code {code}."


def ipython_folder(folder: Path) -> Path:
    """Create an IPython profile for kernels: no history file, none of the user's start-up code.

    It contains everything IPython would create there, so kernels only need write access to `db`.
    """
    profile = folder / "profile_default"
    for name in ("db", "log", "pid", "security", "startup"):
        (profile / name).mkdir(mode=0o700, parents=True)
    (profile / "ipython_kernel_config.py").write_text(
        "c.HistoryManager.hist_file = ':memory:'\n", "utf-8"
    )
    return folder
