"""A place of the pool: held by one kernel from before its start until after its end."""

from __future__ import annotations

import asyncio
import logging

import zmq.asyncio

from ..errors import KernelError, start_error
from ..kernel import Kernel
from ..process import Launch

log = logging.getLogger(__name__)


class Place:
    """A kernel's place.

    Attributes:
        kernel: done once the kernel has started or failed to; cancelled if it was not to start.
        end: done once the kernel is to end; whether its process ends too.
        promised: whether the kernel's session is being closed, so that `end` is done soon.
        attached: whether the kernel existed before.
        task: holds the place.
    """

    task: asyncio.Task[None]

    def __init__(self, attached: bool) -> None:
        loop = asyncio.get_running_loop()
        self.attached, self.promised = attached, False
        self.kernel: asyncio.Future[Kernel] = loop.create_future()
        self.end: asyncio.Future[bool] = loop.create_future()

    @property
    def has_started(self) -> bool:
        """Whether the kernel has started successfully."""
        kernel = self.kernel
        return kernel.done() and not kernel.cancelled() and kernel.exception() is None

    @property
    def is_in_use(self) -> bool:
        """Whether the kernel has started and is not to end."""
        return self.has_started and not self.end.done()

    def give_up(self, *, leave_running: bool = False) -> None:
        """End the kernel, at once or as soon as it has started; or only disconnect from it."""
        if not self.end.done():
            self.end.set_result(not leave_running)

    def cancel_start(self) -> None:
        """Cancel the kernel's start, unless it has started already."""
        if not self.kernel.done():
            self.task.cancel()

    async def hold(self, launch: Launch, context: zmq.asyncio.Context) -> None:
        """Start the kernel, wait until it is to end, and end it."""
        try:
            kernel = Kernel(launch, context)
            await kernel.start()
        except KernelError as error:
            return self.kernel.set_exception(error)
        except Exception as error:  # from the system: no descriptors, no space, no threads
            log.exception("A kernel could not be started")
            return self.kernel.set_exception(start_error(error))
        self.kernel.set_result(kernel)
        ends = await self.end
        kernel = self.kernel.result()  # another one may have taken its place
        await (kernel.close() if ends else kernel.release())

    def replace(self, kernel: Kernel) -> None:
        """Hold this place for another kernel from now on; the one before is the caller's to end."""
        self.kernel = asyncio.get_running_loop().create_future()
        self.kernel.set_result(kernel)
