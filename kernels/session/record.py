"""Records a session's runs in its notebook, with what the caller should know of each.

Knows cells, replies and the notebook; not when a run starts, nor what happens to its kernel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from nbformat import NotebookNode

from ..environments import Environment
from ..joined import JoinedKernel
from ..kernel import Kernel
from ..notebook import Recorder, Run, Signer, set_title
from ..process import KernelProcess
from ..protocol import Reply, State
from ..telemetry import short
from .runs import Execution

QUIET = 2.0  # seconds without a run before the notebook is signed


class Record:
    """The record of one session.

    Args:
        recorder: writes its notebook.
        signer: signs the notebook.

    Attributes:
        lost: why earlier variables are gone, until a result has said so; empty if they are there.
        note: something else that the next result has to say, or empty.
    """

    def __init__(self, recorder: Recorder, signer: Signer) -> None:
        self.lost = self.note = ""
        self._recorder, self._signer = recorder, signer
        self._signing: asyncio.TimerHandle | None = None
        self._has_new_title = False

    async def finish(
        self,
        execution: Execution,
        reply: Reply,
        process: KernelProcess | None,
        executions: Iterable[Execution],
    ) -> Run:
        """Complete a run's cell and write it, and the cells that its displays have changed.

        Args:
            execution: the run.
            reply: how it ended.
            process: of the kernel that it ran on; None if that is not known.
            executions: all runs in memory.
        """
        notices = self._notices(reply, process)
        state: State = "lost" if self.lost else reply.state
        self.lost = self.note = ""
        cell = execution.outputs.settle()
        if reply.execution_count is not None:
            cell.execution_count = reply.execution_count
        facts = cell.metadata.setdefault("rmi_agent", NotebookNode())
        facts.update(
            cell=execution.number,
            status=reply.status,
            state=state,
            elapsed=round(execution.elapsed, 3),
        )
        if reply.error_name:
            facts.error_name = reply.error_name
        if execution.program is not None or reply.exit_code is not None:
            facts.exit_code = reply.exit_code
        if reply.tests is not None:
            facts.tests = NotebookNode(counts=reply.tests.counts, failed=[*reply.tests.failed])
        if reply.actions:
            facts.steps = list(reply.actions)
        if notices:
            facts.notes = notices
        self._recorder.finish(cell, execution.title)
        if changed := {id(output) for output in execution.outputs.elsewhere}:
            await self._recorder.amend(
                earlier.cell
                for earlier in executions
                if any(id(output) in changed for output in earlier.cell.outputs)
            )
        problem = self._recorder.problem
        about = (f"This cell was not recorded: {problem}",) if problem else ()
        return Run(cell, execution.session_id, self._recorder.path, about)

    def _notices(self, reply: Reply, process: KernelProcess | None) -> list[str]:
        """What the caller should know besides the outputs, as sentences."""
        notices = [self.note] if self.note else []
        if self.lost:
            notices.append(f"{self.lost} This cell ran in a fresh kernel; earlier variables lost.")
        if reply.actions:
            notices.append(describe_stop(reply))
        elif reply.status == "dead":
            ending = process.describe_end(reply.exit_code) if process is not None else ""
            lost = "; variables lost" if reply.state == "lost" else ""
            died = "" if isinstance(process, JoinedKernel) else f"The kernel died{lost}."
            notices.append(f"{died} {ending}".strip())
        notices += reply.notices
        if reply.state == "lost":
            notices += process.left_running if process is not None else ()
        return notices

    @property
    def title(self) -> str:
        """What the session was named; may be empty."""
        return str(self._recorder.metadata.get("rmi_agent", {}).get("title", ""))

    def set_title(self, title: str) -> None:
        """Name the session in the metadata of its notebook; written when it closes or is asked to.

        An empty title is removed.
        """
        set_title(self._recorder.metadata, title)
        self._has_new_title = True

    async def write_title(self) -> None:
        """Write a new title; no cell may run meanwhile."""
        if self._has_new_title:
            self._has_new_title = False
            await self._recorder.amend((), head=True)

    def sign_soon(self) -> None:
        """Sign the notebook once the session has been quiet for `QUIET` seconds."""
        self.cancel_signing()
        self._signing = asyncio.get_running_loop().call_later(QUIET, self.sign)

    def cancel_signing(self) -> None:
        """Cancel what `sign_soon` has scheduled."""
        if self._signing is not None:
            self._signing.cancel()

    def sign(self) -> None:
        """Have the notebook signed, without waiting for it."""
        self.cancel_signing()
        self._recorder.sign(self._signer)


def describe_stop(reply: Reply) -> str:
    """How a run was stopped, and what became of the session's variables, in few words."""
    reason, *actions = reply.actions
    words = reason.removeprefix("was ").removesuffix(" by interrupt_session")
    if not words.startswith(("cancelled", "interrupted", "stopped", "timed out")):
        words = f"stopped, since it {words}"
    parts = [words[0].upper() + words[1:]]
    parts += [action for action in actions if action.startswith("killed,")]
    if reply.state == "lost" or not reason.startswith("was stopped"):  # as the session ends
        parts.append(f"variables {reply.state}")
    return "; ".join(parts) + "."


def notebook_metadata(
    session_id: str, principal: str, kernel: Kernel | None, environment: Environment | None
) -> dict[str, Any]:
    """Metadata of a new notebook, which names the environment unless that is the default one.

    Has only the id's first part, since the full id grants access.
    """
    facts: dict[str, Any] = {"session": short(session_id), "principal": principal}
    if environment is not None:
        facts["environment"] = {"name": environment.name, "kind": environment.kind}
    mine = {"rmi_agent": facts}
    if kernel is None:
        return {"language_info": {"name": "python"}, **mine}
    return {
        "kernelspec": kernel.process.spec_metadata(),
        "language_info": kernel.info.get("language_info", {"name": "python"}),
        **mine,
    }
