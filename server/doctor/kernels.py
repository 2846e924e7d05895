"""Checks the sandboxes, the Jupyter Servers, and that a kernel runs and interrupts cells.

Opens a session as a server would. Knows nothing about hosts or the network.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

from ...kernels import Api, KernelError, Policy, Session, Sessions, no_hint
from .. import launch
from ..errors import BadSettings
from ..plurals import counted
from ..sandboxing import choose_policy, describe_gaps, describe_sandbox
from ..settings import Settings
from .result import CheckResult

CELL_TIMEOUT = 60.0  # max seconds for a cell
NO_SANDBOX = "No sandbox works over HTTP: install bubblewrap, or start with --no-sandbox."


def of_sandbox(settings: Settings, *, exposed: bool) -> CheckResult:
    """Check that kernels over HTTP, if `exposed`, or over stdio run in the sandbox that is set."""
    name = f"sandbox over {'HTTP' if exposed else 'stdio'}"
    try:
        policy = choose_policy(settings, exposed=exposed)
    except BadSettings as error:
        todo = NO_SANDBOX if exposed and not settings.jupyter_server_url else ""
        return CheckResult(name, False, str(error), todo)
    held = policy is not None or settings.sandbox == "off" or not launch.kernels_are_here(settings)
    todo = f"Left open: {describe_gaps(policy, settings)}."
    return CheckResult(name, held, describe_sandbox(policy, settings), todo)


async def of_jupyter_servers(settings: Settings) -> AsyncIterator[CheckResult]:
    """Check that each Jupyter Server can be reached, accepts our token and has the kernel."""
    for server in launch.jupyter_servers(settings):
        api = Api(server)
        try:
            await api.kernelspec(settings.kernel_name)
            count = len(await api.kernels())
        except KernelError as error:
            why, _, todo = str(error).partition(". ")
            yield CheckResult("Jupyter Server", False, why, todo)
        else:
            about = f"{server.url} has {settings.kernel_name}; it runs {counted(count, 'kernel')}"
            yield CheckResult("Jupyter Server", True, about)
        finally:
            await api.close()


async def of_kernels(settings: Settings, policy: Policy | None) -> list[CheckResult]:
    """Start a kernel, run one cell on it and interrupt another."""
    with tempfile.TemporaryDirectory() as folder:
        config = replace(launch.sessions(settings, no_hint), notebooks=Path(folder))
        try:
            async with Sessions(config, launch.launch(settings), warm=0, policy=policy) as sessions:
                return await of_session(await sessions.open())
        except KernelError as error:
            if settings.jupyter_server_url:
                why, _, todo = str(error).partition(". ")
                return [CheckResult("kernel", False, why, todo)]
            todo = (
                f"{sys.executable} -m ipykernel_launcher shows why a python3 kernel does not start."
            )
            return [CheckResult("kernel", False, str(error), todo)]


async def of_session(session: Session) -> list[CheckResult]:
    """Check that a session runs a cell, interrupts another, and uses the fork server."""
    added = await session.submit_cell("6 * 7", CELL_TIMEOUT).task
    looped = await session.submit_cell("while True: pass", 0.2).task
    results = [
        CheckResult("kernel", added.status == "ok", f"a cell took {added.elapsed * 1000:.0f} ms"),
        CheckResult(
            "interrupt",
            (looped.status, looped.state) == ("timeout", "kept"),
            "a loop was interrupted, and its variables were kept"
            if looped.state == "kept"
            else "the kernel was killed",
        ),
    ]
    if session.kernel is None or not session.kernel.process.is_here:
        return results
    forked, why = session.kernel.process.forked, session.kernel.not_formed
    how = "new kernels are forked" if forked else "new kernels are started, which takes longer"
    if why:
        how += f"; they open ZMQ sockets, since {why}"
    todo = "" if forked else "The log of a server says why (--log-level info)."
    return [*results, CheckResult("fork server", forked, how, todo)]
