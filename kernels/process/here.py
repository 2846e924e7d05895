"""What all kernels' processes on this machine have in common: their family and their pipes.

Knows processes and pipes; nothing of how a kernel is started and spoken to.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from jupyter_client.kernelspec import KernelSpec

from ..addresses import RemoteKernel
from ..errors import reason
from ..process_tree import Family, memory_of, new_mark, remove
from .kernel_process import SetUp, describe_exit
from .launch import Launch
from .output_pipes import RawOutput

log = logging.getLogger(__name__)


class ProcessHere:
    """A kernel's process on this machine: see `KernelProcess`."""

    is_here = True
    is_set_up = False
    remote: RemoteKernel | None = None
    kernel_info: dict[str, Any] | None = None
    cut_until = 0.0

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.spec: KernelSpec | None = None  # once it has been read
        self.pid: int | None = None
        self.raw = RawOutput()
        self.mark = new_mark(launch.mark)
        self.left_running: tuple[str, ...] = ()
        self._logged: set[str] = set()
        self.family: Family | None = None
        self.is_walled = launch.wrap is not None

    def more_to_set_up(self) -> SetUp:
        """Nothing more to set up: files and signals reach it directly."""
        return SetUp()

    @property
    def why_ended(self) -> str:
        """What is known about its end besides the exit code: nothing."""
        return ""

    def connection_messages(self) -> tuple[str, ...]:
        """What happened to the connection since the last call: a local one never breaks."""
        return ()

    def describe_end(self, code: int | None) -> str:
        """Describe in a sentence how it ended, given the code from `until_dead`."""
        return describe_exit(code)

    async def release(self) -> None:
        """Do nothing: the process would not outlive this server."""

    def memory(self) -> int:
        """Bytes used by it and everything it has started; 0 if that can't be read.

        On Linux, shared memory is counted proportionally (PSS), since forked kernels share a
        lot; elsewhere this is the sum of the resident sizes.
        """
        return memory_of(self.family) if self.family is not None else 0

    def spec_metadata(self) -> dict[str, str]:
        """The `kernelspec` entry for a notebook's metadata."""
        return {
            "name": self.launch.kernel_name,
            "display_name": self.spec.display_name if self.spec else self.launch.kernel_name,
            "language": self.spec.language if self.spec else "",
        }

    def last_words(self) -> str:
        """Its unread output on descriptors 1 and 2."""
        said: list[str] = []
        self.raw.attach(lambda _, text: said.append(text))
        self.raw.detach()
        return "".join(said).strip()

    async def _refresh_family(self) -> None:
        """Find all its processes while it still exists to trace them by."""
        if self.family is not None:
            try:
                await asyncio.to_thread(self.family.refresh)
            except OSError as error:  # too many open files: those that are known are ended
                log.warning("A kernel's processes can't be looked for: %s", error)

    async def _sweep(self) -> None:
        """Kill what is left of it: descendants, its process group, daemons, shared memory."""
        if (family := self.family) is None:
            return
        try:
            self.left_running = tuple(await asyncio.to_thread(family.end, self.mark))
        except OSError as error:
            self.left_running = (
                f"What the kernel had started may go on: it can't be looked for ({reason(error)}).",
            )
        for words in self.left_running:
            if words not in self._logged:
                log.warning("%s", words)
        self._logged.update(self.left_running)
        if family.segments:
            await asyncio.to_thread(remove, list(family.segments.values()))
