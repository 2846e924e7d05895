"""What there is to do with a kernel's process, wherever it runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from jupyter_client.asynchronous.client import AsyncKernelClient

from ..addresses import RemoteKernel
from ..process_tree import Family
from .output_pipes import RawOutput


@dataclass(frozen=True)
class SetUp:
    """What Python kernels execute at their start besides what all of them do.

    Attributes:
        programs: file names of those that are sent to kernels.
        sent: what else goes along with the request.
    """

    programs: tuple[str, ...] = ()
    sent: dict[str, Any] = field(default_factory=dict)


class KernelProcess(Protocol):
    """The process behind a kernel: on this machine, on another one, or on a Jupyter Server.

    Attributes:
        is_here: whether it is of this machine: files lead to it, and its number is its own.
        pid: its number; None where it is not known.
        raw: its descriptors 1 and 2, open where they can be had.
        mark: what it and all that it starts carry in their environment.
        tended: whether the set-up of Python kernels was done in it.
        left_running: what it has started and could not be ended, a sentence for each.
    """

    is_here: bool
    pid: int | None
    raw: RawOutput
    mark: str
    tended: bool
    left_running: tuple[str, ...]

    async def start(self) -> AsyncKernelClient:
        """Start it, or find the one to attach to; returns a client for its channels.

        Raises:
            KernelStartError: it can't be had; says why.
            DeadKernelError: it ended at once.
            TimeoutError: it was not there in time.
        """
        ...

    def more_to_set_up(self) -> SetUp:
        """What it needs to be set up with because of where it runs."""
        ...

    @property
    def remote(self) -> RemoteKernel | None:
        """Which kernel of which Jupyter Server it is, once it has started; None elsewhere."""
        ...

    @property
    def forked(self) -> bool:
        """Whether it comes from a template, and was not started."""
        ...

    @property
    def family(self) -> Family | None:
        """It and all that it has started; None where they are not of this machine."""
        ...

    @property
    def is_walled(self) -> bool:
        """Whether a sandbox is around it."""
        ...

    @property
    def cut_until(self) -> float:
        """When it could last not be heard, by `time.monotonic`."""
        ...

    async def alive(self) -> bool:
        """Whether it still runs, as far as is known."""
        ...

    async def until_dead(self) -> int | None:
        """Wait for its end; its exit code as `subprocess` gives it, None if nobody knows it."""
        ...

    @property
    def why_ended(self) -> str:
        """What is known of its end besides an exit code."""
        ...

    def told_end(self, code: int | None) -> str:
        """How it ended, as a sentence, where `until_dead` has given this code."""
        ...

    def news(self) -> tuple[str, ...]:
        """What befell the connection since this was asked last."""
        ...

    async def interrupt(self, *, again: bool = False) -> None:
        """What Jupyter's stop button does; `again` if the first time did not help."""
        ...

    async def kill(self) -> None:
        """End it and all that it started, at once."""
        ...

    async def close(self, *, graceful: bool = True) -> None:
        """End it and all that it started. Idempotent.

        A graceful end lets the kernel run its exit handlers, for two seconds at most.
        """
        ...

    async def release(self) -> None:
        """Drop the connection and leave it running, where it can outlive this server."""
        ...

    def memory(self) -> int:
        """Bytes of it and of all that it has started; 0 where that can't be known."""
        ...

    def spec_metadata(self) -> dict[str, str]:
        """The kernelspec as a notebook's metadata names it."""
        ...

    def last_words(self) -> str:
        """What it said on 1 and 2 that nobody has read."""
        ...
