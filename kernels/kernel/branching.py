"""Forking a living kernel: the request to the origin, and the check of its branch.

Knows requests and processes; `process/branch_process.py` knows how a branch is made.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from ..errors import CannotBranch, DeadKernelError
from ..joined import JoinedKernel
from ..process import BranchProcess, KernelProcess, Origin, SocketProcess, listed
from ..protocol import Outputs, new_cell, payloads
from .exchange import Exchange
from .set_up import unless_dead

CHECK_TIMEOUT = 5.0  # max seconds until a branch has run its first cell
# Runs in the branch: it answers, prints and starts a thread.
CHECK = "__import__('IPython').get_ipython()._rmi_agent_branch()"
ELSEWHERE = "Open a new session and run its cells there: resume_session does that."


def origin_of(process: KernelProcess, exchange: Exchange, not_formed: str = "") -> Origin:
    """A kernel as the origin of another one; `not_formed` says why it was not forked itself.

    Raises:
        CannotBranch: it is not one that can be forked.
    """
    if isinstance(process, JoinedKernel):
        raise CannotBranch(
            "Its kernel is one that a person has open, and is left as it is. Run what you want to"
            " try in a session of your own: run_cell without session_id opens one."
        )
    if sys.platform != "linux":
        raise CannotBranch(f"Sessions can be forked on Linux only. {ELSEWHERE}")
    if not process.is_here:
        raise CannotBranch(f"Its kernel is not on the server's machine. {ELSEWHERE}")
    if not isinstance(process, SocketProcess):
        why = not_formed or "its kernelspec or environment requires that"
        raise CannotBranch(f"Its kernel was started, not forked: {why}. {ELSEWHERE}")
    return Origin(process, lambda for_death: unless_dead(process, exchange.ask_to_fork(for_death)))


async def check_branch(process: BranchProcess, exchange: Exchange) -> None:
    """Run a first cell in a branch.

    Raises:
        CannotBranch: it does not work as it should.
    """
    outputs = Outputs(new_cell())
    try:
        async with asyncio.timeout(CHECK_TIMEOUT):
            found = await unless_dead(process, first_cell(exchange, outputs))
    except (TimeoutError, DeadKernelError):
        found = {}
    printed = "".join(part.finish() for part in outputs.stream_texts("stdout"))
    if found.get("threads") is not True or "ready" not in printed:
        raise CannotBranch(
            "Its fork did not run a first cell, and was ended; the session itself goes on. A lock"
            f" of a library may be held by a thread. {ELSEWHERE}"
        )
    # Opening these again was not allowed.
    words = {one: ", with one position for both" for one in listed(found.get("shared"))}
    process.shared = tuple(one + words.get(one, "") for one in process.shared)


async def first_cell(exchange: Exchange, outputs: Outputs) -> dict[str, Any]:
    """Run the check; returns what the kernel reports."""
    request = exchange.send(CHECK, {}, silent=True)
    reply = await exchange.reply_to(request)
    await exchange.until_idle(request, outputs, ours=True)
    return next((one for one in payloads(reply) if one.get("source") == "rmi_agent.branch"), {})
