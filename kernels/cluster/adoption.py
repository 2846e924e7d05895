"""Continues a session that another instance has left: its kernel, its notebook, its run.

Knows one lease that this instance holds; `takeover.py` decides when to get it.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time

import nbformat
from nbformat import NotebookNode

from ..addresses import JupyterServer, RemoteKernel
from ..errors import DeadKernelError, KernelError, ServerError
from ..jupyter_server import Api, server_of
from ..kernel import Kernel
from ..notebook import Recorder, is_open
from ..session import Config, Handover, Session, Sessions
from .adopted_run import AdoptedRun
from .leases import Lease

log = logging.getLogger(__name__)

ATTACH_TIMEOUT = 20.0  # max seconds for a kernel that should be idle to answer
RUN_TIMEOUT = 0.5  # max seconds to wait for the end of an unfinished run before adopting it


async def adopt(sessions: Sessions, mine: Lease) -> Session:
    """Open a session here: attach to its kernel and continue its notebook.

    Raises:
        KernelError: the kernel can't be attached to now.
    """
    recorder, cells, problem = await open_notebook(sessions.config, mine)
    open_cell = cells[-1] if cells and is_open(cells[-1]) else None
    last = max((int(c.metadata.get("rmi_agent", {}).get("cell", 0)) for c in cells), default=0)
    if open_cell is not None:  # the lease may lag by one run
        last = max(last + 1, mine.busy)
    remote = RemoteKernel(mine.server, mine.kernel, mine.process)
    attaching = sessions.supervisor.start(
        attach(sessions, mine.principal, remote), "attaching to a kernel", KernelError
    )
    try:
        kernel, lost = await attached(attaching, RUN_TIMEOUT if open_cell else ATTACH_TIMEOUT)
        if kernel is None and not lost and open_cell is None:
            raise KernelError(
                "The session's kernel did not answer within"
                f" {ATTACH_TIMEOUT:g} s: it is busy with something that its notebook does not"
                " record. Call again."
            )
        handover = Handover(
            turn=mine.turn,
            count=max(last, mine.cells),
            recorder=recorder,
            note=describe_takeover(mine, last, open_cell is not None, problem),
            lost=lost if open_cell is None else "",
        )
        session = await sessions.adopt(
            mine.id, mine.principal, kernel if open_cell is None else None, handover
        )
    except BaseException:
        if recorder is not None:
            recorder.close()
        attaching.add_done_callback(functools.partial(detach, sessions))
        attaching.cancel()
        raise
    if open_cell is not None:
        run = AdoptedRun(
            session.id,
            last,
            open_cell,
            session.recorder,
            session.runs.displays,
            mine.until or time.time() + sessions.config.timeout,
            attaching,
            lambda: ask_server(remote, sessions.launch.servers, "interrupt"),
            lambda: ask_server(remote, sessions.launch.servers, "delete"),
        )
        session.adopt(run, run.end)
    return session


async def open_notebook(
    config: Config, mine: Lease
) -> tuple[Recorder | None, list[NotebookNode], str]:
    """A recorder that continues a session's notebook, its cells, and what prevented that."""
    if not mine.notebook:
        return None, [], ""
    path = config.notebooks / mine.notebook
    try:
        recorder, cells = await asyncio.to_thread(Recorder.going_on, path, config.instance)
    except (OSError, ValueError, nbformat.ValidationError) as error:
        log.warning("%s can't be continued: %s", path, error)
        return None, [], f"{mine.notebook} can't be continued ({error})"
    return recorder, cells, ""


async def attach(sessions: Sessions, principal: str, remote: RemoteKernel) -> Kernel:
    """Attach to a kernel, once it is idle.

    Raises:
        KernelError: it is gone, or can't be reached.
    """
    if not remote.url:
        raise DeadKernelError(
            "It was a process of a server instance that has stopped, and ended with it."
        )
    return await sessions.pool.lease(principal, attach=remote)


async def attached(attaching: asyncio.Task[Kernel], seconds: float) -> tuple[Kernel | None, str]:
    """The kernel, if it answers in time; and, if it is gone for good, the reason."""
    await asyncio.wait({attaching}, timeout=seconds)
    if not attaching.done():
        return None, ""
    try:
        return attaching.result(), ""
    except KernelError as error:
        # A server that is unreachable, or no longer in our settings, may still have it.
        why = error.__cause__
        missing = isinstance(why, ServerError) and why.status == 404
        if not missing and not any(isinstance(each, DeadKernelError) for each in (error, why)):
            raise
        return None, f"The session's kernel is gone. {error}"


def detach(sessions: Sessions, attaching: asyncio.Task[Kernel]) -> None:
    """Detach from the kernel that was attached to in vain, if there is one."""
    if not attaching.cancelled() and attaching.exception() is None:
        sessions.pool.detach(attaching.result())


async def ask_server(remote: RemoteKernel, servers: tuple[JupyterServer, ...], what: str) -> None:
    """Ask a kernel's Jupyter Server to interrupt or delete the kernel."""
    api = Api(server_of(remote.url, servers))
    try:
        await (api.interrupt if what == "interrupt" else api.delete)(remote.kernel_id)
    except ServerError as error:
        log.warning("A kernel could not be stopped: %s", error)
    finally:
        await api.close()


def describe_takeover(mine: Lease, last: int, running: bool, problem: str) -> str:
    """What the next result says about the takeover of its session."""
    said = []
    if running:
        said.append(
            f"The server instance that started cell {last} has stopped. The kernel went on with"
            " the cell; its output since then and how it ended are not known here."
        )
    if mine.cells > last:
        cells = (
            f"Cell {last + 1} was"
            if mine.cells == last + 1
            else f"Cells {last + 1} to {mine.cells} were"
        )
        said.append(f"{cells} queued in a server instance that has stopped, and never ran.")
    if problem:
        said.append(f"{problem}: the session is now recorded in a new notebook.")
    return " ".join(said)
