"""The interface to a kernel's process, wherever it runs."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from jupyter_client.asynchronous.client import AsyncKernelClient

from ..addresses import RemoteKernel
from ..process_tree import Family
from .output_pipes import RawOutput


@dataclass(frozen=True)
class SetUp:
    """What a Python kernel executes at its start, beyond what all Python kernels do.

    Attributes:
        programs: file names of the programs that are sent to the kernel.
        sent: other values sent along with the request.
    """

    programs: tuple[str, ...] = ()
    sent: dict[str, Any] = field(default_factory=dict)


class KernelProcess(Protocol):
    """The process behind a kernel: on this machine, on another one, or on a Jupyter Server.

    Attributes:
        is_here: whether it runs on this machine, so that its files and pid are valid here.
        pid: its process id; None if unknown.
        raw: the pipes on its descriptors 1 and 2, open where available.
        mark: the mark that it and everything it starts carry in their environment.
        is_set_up: whether the set-up of Python kernels has been done in it.
        kernel_info: the content of its `kernel_info_reply`, if that is known without asking.
        left_running: processes it started that could not be ended, a sentence for each.
    """

    is_here: bool
    pid: int | None
    raw: RawOutput
    mark: str
    is_set_up: bool
    kernel_info: dict[str, Any] | None
    left_running: tuple[str, ...]

    async def start(self) -> AsyncKernelClient:
        """Start it, or find the one to attach to; returns a client for its channels.

        Raises:
            KernelStartError: it can't be started or found; says why.
            DeadKernelError: it ended at once.
            TimeoutError: it was not ready in time.
        """
        ...

    def more_to_set_up(self) -> SetUp:
        """The additional set-up it needs because of where it runs."""
        ...

    @property
    def remote(self) -> RemoteKernel | None:
        """Its Jupyter Server and kernel id, once started; None if it is not on a Jupyter Server."""
        ...

    @property
    def forked(self) -> bool:
        """Whether it was forked from a template rather than started."""
        ...

    @property
    def family(self) -> Family | None:
        """The process and everything it has started; None if not on this machine."""
        ...

    @property
    def is_walled(self) -> bool:
        """Whether it runs in a sandbox."""
        ...

    @property
    def cut_until(self) -> float:
        """When the connection to it was last down, by `time.monotonic`."""
        ...

    async def alive(self) -> bool:
        """Whether it is still running, as far as is known."""
        ...

    def until_dead(self) -> Awaitable[int | None]:
        """Wait for its end; returns the exit code as `subprocess` gives it, None if unknown."""
        ...

    @property
    def why_ended(self) -> str:
        """What is known about its end besides the exit code; may be empty."""
        ...

    def describe_end(self, code: int | None) -> str:
        """Describe in a sentence how it ended, given the code from `until_dead`."""
        ...

    def connection_messages(self) -> tuple[str, ...]:
        """What happened to the connection since the last call."""
        ...

    async def connection_file(self, was_used: Callable[[], None]) -> Path:
        """A Jupyter connection file for other clients: `jupyter console --existing FILE`.

        It is removed when the kernel ends. `was_used` is called at each of these clients' requests,
        where they pass through this process.

        Raises:
            KernelError: other clients can't connect to this kernel.
        """
        ...

    async def interrupt(self, *, again: bool = False) -> None:
        """Do what Jupyter's stop button does; `again` if the first time did not help."""
        ...

    async def kill(self) -> None:
        """Kill it and everything it started, at once."""
        ...

    async def close(self, *, graceful: bool = True) -> None:
        """End it and everything it started. Idempotent.

        A graceful end gives the kernel at most two seconds to run its exit handlers.
        """
        ...

    async def release(self) -> None:
        """Disconnect and leave it running, if it can outlive this server."""
        ...

    def memory(self) -> int:
        """Bytes used by it and everything it has started; 0 if unknown."""
        ...

    def spec_metadata(self) -> dict[str, str]:
        """The `kernelspec` entry for a notebook's metadata."""
        ...

    def last_words(self) -> str:
        """Its unread output on descriptors 1 and 2."""
        ...


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
