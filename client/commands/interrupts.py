"""What Ctrl-C does while a person waits for a run: stops it as it would stop `python FILE`.

The first one interrupts the code, whose output goes on until it has ended; the second kills it.
Knows signals and runs; not what is shown.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

from ..attendance import Attendance
from ..client import RmiMcpClient
from ..errors import failures

PATIENCE = 3.0  # max seconds until the server has killed a run
ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Interrupts:
    """Ctrl-C and signals that end this command, during one piece of work.

    Args:
        attended: the person, and the run that goes on.
        on_interrupt: called once the code is interrupted: it waits for no answer any more.

    Attributes:
        count: how often Ctrl-C was pressed.
        signal: the signal that ends this command; 0 if there was none.
    """

    def __init__(self, attended: Attendance, on_interrupt: Callable[[], None]) -> None:
        self._attended, self._on_interrupt = attended, on_interrupt
        self.count, self.signal = 0, 0
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.contextmanager
    def during(self, work: asyncio.Task[Any], client: RmiMcpClient) -> Iterator[None]:
        """Handle the signals while work goes on."""
        loop = asyncio.get_running_loop()

        def stop(*, kill: bool) -> None:
            if self._attended.session_id is not None:
                task = loop.create_task(self._stop(client, work, kill=kill))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            elif kill:  # what it is to stop should be known soon; else the server stops it
                loop.call_later(PATIENCE, lambda: self._attended.session_id or work.cancel())

        def pressed() -> None:
            self.count += 1
            if self.count > 2:
                work.cancel()
            else:
                stop(kill=self.count == 2)

        def ended(number: int) -> None:
            self.signal = number
            stop(kill=True)

        def known() -> None:
            if self.count or self.signal:
                stop(kill=self.count > 1 or bool(self.signal))

        self._attended.on_known = known
        if sys.platform == "win32":
            yield
            return
        # What `nohup` or a shell's background job ignores stays ignored.
        handled = [
            one for one in (signal.SIGINT, *ENDING) if signal.getsignal(one) != signal.SIG_IGN
        ]
        for number in handled:
            if number == signal.SIGINT:
                loop.add_signal_handler(number, pressed)
            else:
                loop.add_signal_handler(number, ended, number)
        try:
            yield
        finally:
            for number in handled:
                loop.remove_signal_handler(number)
            for task in self._tasks:
                task.cancel()

    async def _stop(self, client: RmiMcpClient, work: asyncio.Task[Any], *, kill: bool) -> None:
        try:
            async with asyncio.timeout(PATIENCE if kill else None):
                await client.stop_run(kill=kill)
                if self.signal:
                    await asyncio.wait({work})
        except failures():  # an OSError after the time as well
            work.cancel()  # the connection is lost, or the server stuck
        else:
            self._on_interrupt()
