"""One kernel: getting it ready, running code on it, stopping what runs.

Speaks Jupyter's messages through jupyter_client and folds what comes back into an
`Outputs`. Knows nothing of sessions, notebooks or MCP.
"""

from __future__ import annotations

import asyncio
import logging
import time
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Coroutine
from pathlib import Path
from queue import Empty
from typing import Any, Self

import zmq.asyncio
from jupyter_client.asynchronous.client import AsyncKernelClient
from nbformat.v4 import new_code_cell

from .errors import DeadKernelError, KernelStartError
from .factory import process_for
from .fairness import Turns
from .launch import Launch
from .outputs import Outputs, in_parts
from .programs import SET_UP, programs
from .question import OnQuestion, Question
from .reply import Message, Reply, Script, Status, ends_kernel, payloads, reply_of
from .shipping import NotSent, Shipment

log = logging.getLogger(__name__)

SILENCE = 2.0  # max seconds between a run's reply and its idle status
# Messages in a row with a bad signature after which nothing more can be understood. One alone
# comes of an interrupt in the middle of a send: the next message is glued to its half.
UNVERIFIED = 2
INTERRUPTS = 5  # for a completion or an inspection that takes longer than the next
LOOK = 1.0  # seconds that a completion or an inspection may take
PROMPT_MOST = 10_000  # characters of a question
PARTS = ("header", "parent_header", "metadata", "content")
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError)
GRACE = 2.0  # seconds between one interrupt and the next, and from the last to the kill
# Variables that ipykernel changes and a script is to find as they were (see inscript.py).
IPYKERNELS = ("TERM", "CLICOLOR", "FORCE_COLOR", "CLICOLOR_FORCE", "PAGER", "GIT_PAGER")
RUN_SCRIPT = "__import__('IPython').get_ipython()._rmi_agent_script()"
ANSWER_FILES = "__import__('IPython').get_ipython()._rmi_agent_files()"


class Kernel:
    """A kernel. Use as `async with Kernel(launch) as kernel`.

    Attributes:
        info: what it says of itself, as in Jupyter's `kernel_info_reply`.
        process: its process, here or on a Jupyter Server.
    """

    def __init__(self, launch: Launch, context: zmq.asyncio.Context | None = None) -> None:
        self.launch = launch
        self.info: dict[str, Any] = {}
        self.process = process_for(launch, context)
        self._client: AsyncKernelClient | None = None
        self._stop: asyncio.Future[tuple[Status, str]] | None = None
        self._outputs = Outputs(new_code_cell())  # of the run that goes on
        self._shipment: Shipment | None = None  # of one that does not see the project's files
        self._killed_since = ""
        self._heard = 0.0  # when the last message on iopub came
        self._looks = deque[str](maxlen=100)  # the latest requests of `_look`
        self._unverified = 0  # messages in a row
        self._dropped = 0  # messages that could not be read

    # -- life

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Start the process and wait for its first answer.

        Raises:
            KernelStartError: no such kernelspec, the process ended, or it did not answer
                within `Launch.start_timeout`.
        """
        try:
            self._client = await self.process.start()
            self._client.start_channels(hb=False)
            async with asyncio.timeout(self.launch.start_timeout):
                await self._unless_dead(self._get_ready())
            self.process.raw.forget()
        except TimeoutError:
            await self.close(graceful=False)
            raise KernelStartError(
                f"The kernel did not answer within {self.launch.start_timeout:g} s, and nothing was"
                " run. Try again."
            ) from None
        except DeadKernelError as error:
            words = self.process.last_words()
            await self.close(graceful=False)
            said = f" It had printed: {words[-2000:]}" if words else ""
            raise KernelStartError(
                "The kernel ended before it answered, and nothing was run. Try again."
                f" {error}{said}"
            ) from error
        except BaseException:
            await self.close(graceful=False)
            raise

    async def close(self, *, graceful: bool = True) -> None:
        """End it, as `KernelProcess.close` does."""
        if self._client is not None:
            self._client.stop_channels()
        await self.process.close(graceful=graceful)

    async def release(self) -> None:
        """Drop the connection to a kernel on a Jupyter Server; it goes on there."""
        if self._client is not None:
            self._client.stop_channels()
        if self.process.remote is not None:
            await self.process.release()

    async def alive(self) -> bool:
        """Whether the process still runs."""
        return await self.process.alive()

    @property
    def is_python(self) -> bool:
        """Whether it can run a Python file: an ipykernel, of whatever name."""
        return self.info.get("implementation") == "ipython"

    @property
    def client(self) -> AsyncKernelClient:
        """The channels of a started kernel."""
        assert self._client is not None, "the kernel was not started"
        return self._client

    # -- running

    async def run_cell(
        self,
        code: str,
        outputs: Outputs,
        timeout: float | None = None,
        on_question: OnQuestion = Question.nobody,
    ) -> Reply:
        """Execute a cell.

        Args:
            code: its source.
            outputs: what it puts out is folded in here.
            timeout: seconds until it is interrupted.
            on_question: called when the cell asks for input; it waits for the answer.
        """
        return await self._execute(code, {}, outputs, timeout, on_question)

    async def run_script(
        self, script: Script, outputs: Outputs, timeout: float | None = None
    ) -> Reply:
        """Run a file as `python FILE` would, in this kernel's `__main__`."""
        request = {
            "path": str(script.path),
            "argv": list(script.args),
            "source": b64encode(script.source).decode(),
            "fresh": script.fresh,
            "stdin": b64encode(script.stdin.encode("utf-8", "surrogateescape")).decode(),
        }
        return await self._execute(RUN_SCRIPT, request, outputs, timeout, Question.nobody)

    async def complete(self, code: str) -> list[str]:
        """What `code` may be completed to: whole texts, by Jupyter's `complete_request`.

        Only while nothing runs; empty when the kernel has no answer within `LOOK`.
        """
        found = await self._look(self.client.complete(code))
        start, matches = found.get("cursor_start", len(code)), found.get("matches", ())
        if not isinstance(start, int) or not isinstance(matches, list):  # the code's own answer
            return []
        return [code[:start] + match for match in matches if isinstance(match, str)]

    async def inspect(self, name: str) -> str:
        """What the kernel says of a name, by Jupyter's `inspect_request`, with colours.

        Only while nothing runs; empty when there is no such name, or no answer within `LOOK`.
        """
        found = await self._look(self.client.inspect(name))
        data = found.get("data")
        return str(data.get("text/plain", "")) if isinstance(data, dict) else ""

    async def _look(self, request: str) -> dict[str, Any]:
        """The answer to a question about the kernel's state. It runs the user's code too."""
        self._looks.append(request)
        answer = asyncio.create_task(self._answer_to(request))
        try:
            await asyncio.wait({answer}, timeout=LOOK)
            for _ in range(INTERRUPTS):
                if not answer.done():  # a property that loops, say: free the kernel again
                    await self.process.interrupt()
                    await asyncio.wait({answer}, timeout=0.2)
            return dict(answer.result()["content"]) if answer.done() else {}
        finally:
            answer.cancel()

    async def _answer_to(self, request: str) -> Message:
        reply = await self._reply_to(request)
        # IPython prints what goes wrong meanwhile; no cell is to show that.
        await self._until_idle(request, Outputs(new_code_cell()))
        return reply

    def interrupt(self, why: str = "interrupted") -> bool:
        """Stop the run that goes on, if one does, by the same steps as a timeout."""
        return self._request_stop("interrupted", why)

    async def kill(self, why: str) -> None:
        """End the process now; the reply of a run that goes on says `why`."""
        self._killed_since = why
        await self.process.kill()

    @property
    def killed_since(self) -> str:
        """Why `kill` was called; empty if it was not."""
        return self._killed_since

    def _request_stop(self, status: Status, why: str) -> bool:
        if self._stop is None or self._stop.done():
            return False
        self._stop.set_result((status, why))
        return True

    async def _execute(
        self,
        code: str,
        request: dict[str, Any],
        outputs: Outputs,
        timeout: float | None,
        on_question: OnQuestion,
    ) -> Reply:
        loop = asyncio.get_running_loop()
        self._stop = loop.create_future()
        timer = (
            loop.call_later(
                timeout, self._request_stop, "timeout", f"timed out after {timeout:g} s"
            )
            if timeout
            else None
        )
        notes: list[str] = []
        if gone := self.process.raw.attach(outputs.stream):
            notes.append(f"Left out: {gone:,} characters that came while nothing ran.")
        ending = loop.create_task(self._with_files(code, request, outputs, notes))
        death = loop.create_task(self.process.until_dead())
        asking = loop.create_task(self._relay_questions(on_question, outputs))
        try:
            events: list[asyncio.Future[Any]] = [ending, death, self._stop]
            await asyncio.wait(events, return_when="FIRST_COMPLETED")
            steps: list[str] = []
            if not ending.done() and not death.done():
                steps = await self._stop_run(ending, death)
            status = self._stop.result()[0] if self._stop.done() and steps else None
            if not ending.done():
                return await self._dead(ending, death, outputs, status, steps, notes)
            reply = ending.result()
            self.process.raw.drain()
            if ends_kernel(reply):
                await asyncio.wait({death}, timeout=5)
                return await self._dead(ending, death, outputs, status, steps, notes)
            return reply_of(reply, status, steps, self._notes(notes, outputs))
        finally:
            if timer is not None:
                timer.cancel()
            for task in (ending, death, asking):
                task.cancel()
            await asyncio.wait({ending, death, asking})
            self._stop = None
            self.process.raw.detach()

    async def _stop_run(
        self, ending: asyncio.Task[Message], death: asyncio.Task[int | None]
    ) -> list[str]:
        """SIGINT, again after the grace period, then SIGKILL; says what it did."""
        assert self._stop is not None
        steps = [self._stop.result()[1]]
        for words in ("interrupted", "interrupted again"):
            steps.append(words)
            await self.process.interrupt(again=words == "interrupted again")
            # ipykernel#881: a top-level await sleeps through SIGINT until the loop wakes.
            self.client.kernel_info()
            await asyncio.wait({ending, death}, timeout=GRACE, return_when="FIRST_COMPLETED")
            if ending.done() or death.done():
                return steps
        steps.append("killed, since it ignored the interrupts")
        await self.process.kill()
        await asyncio.wait({death}, timeout=GRACE)
        return steps

    async def _dead(
        self,
        ending: asyncio.Task[Message],
        death: asyncio.Task[int | None],
        outputs: Outputs,
        status: Status | None,
        steps: list[str],
        notes: list[str],
    ) -> Reply:
        """The process is gone: take in what it had still sent, then say how it ended."""
        quiet = False
        while not quiet and not ending.done():
            outputs.changed.clear()
            try:
                async with asyncio.timeout(0.05):
                    await outputs.changed.wait()
            except TimeoutError:
                quiet = True
        outputs.changed.set()
        self.process.raw.drain()
        code = death.result() if death.done() and not death.cancelled() else None
        if self._killed_since:
            steps = [self._killed_since, "killed"]
        how, why = tuple(steps), self._notes(notes, outputs)
        return Reply(status or "dead", exit_code=code, state="lost", steps=how, notes=why)

    def _notes(self, notes: list[str], outputs: Outputs) -> tuple[str, ...]:
        left_out = [outputs.left_out] if outputs.left_out else []
        return (*notes, *self.process.news(), *left_out)

    # -- messages

    def _send(self, code: str, request: dict[str, Any], silent: bool = False) -> str:
        content = {
            "code": code,
            "silent": silent,
            "store_history": not silent,
            "user_expressions": {},
            "allow_stdin": not silent,
            "stop_on_error": False,
        }
        session = self.client.session
        message = session.msg("execute_request", content, metadata={"rmi_agent": request})
        self.client.shell_channel.send(message)
        return str(message["header"]["msg_id"])

    async def _with_files(
        self, code: str, request: dict[str, Any], outputs: Outputs, notes: list[str]
    ) -> Message:
        """Run it; a kernel on another machine has the project's files first, if it is to."""
        shipment = self._shipment
        if shipment is None:
            return await self._until_over(self._send(code, request), outputs)
        try:
            self._outputs = outputs
            if request or shipment.there is None:
                script = Path(request["path"]) if request else None
                notes += await shipment.send(script)
                request = {**request, "path": shipment.path(script)} if script else {}
        except NotSent as error:
            if self._stop is None or not self._stop.done():
                outputs.stream("stderr", f"The project's files did not get there: {error}\n")
            return {"content": {"status": "error", "ename": "NotSent"}}
        reply = await self._until_over(self._send(code, request), outputs)
        if not ends_kernel(reply):
            try:
                notes += await shipment.written()
            except NotSent as error:
                log.info("What was written on the kernel's machine is not known: %s", error)
        return reply

    async def _ask_files(self, question: dict[str, Any]) -> dict[str, Any]:
        """What `inremote.Files` answers."""
        if self._stop is not None and self._stop.done():
            raise NotSent("stopped")
        request = self._send(ANSWER_FILES, question, silent=True)
        reply = await self._reply_to(request)
        await self._until_idle(request, self._outputs, ours=True)
        for payload in payloads(reply):
            if payload.get("source") == "rmi_agent.files":
                return payload
        content = reply["content"]
        raise NotSent(f"{content.get('ename')}: {str(content.get('evalue'))[:1000]}")

    async def _until_over(self, request: str, outputs: Outputs) -> Message:
        """A run is over at its reply on shell *and* its idle on iopub."""
        idle = asyncio.create_task(self._until_idle(request, outputs))
        answer = asyncio.create_task(self._reply_to(request))
        try:
            await asyncio.wait({idle, answer}, return_when="FIRST_COMPLETED")
            stopped = self._stop is not None and self._stop.done()
            if not await self._follows(answer, 0.5 if stopped else SILENCE):
                if self._stop is not None and self._stop.done():
                    # The interrupt came between the code's end and the kernel's reply, and
                    # ipykernel drops the reply then. It is idle, so nothing runs any more.
                    return {"content": {"status": "error", "ename": "KeyboardInterrupt"}}
                await self._end_for("left its kernel unable to answer")
            reply = answer.result()
            outputs.timing("shell.execute_reply", reply["header"].get("date"))
            if not await self._follows(idle):
                await self._end_for("broke its kernel's output channel")
            idle.result()
        finally:
            idle.cancel()
            answer.cancel()
        return reply

    async def _follows(self, second: asyncio.Task[Any], patience: float = SILENCE) -> bool:
        """Whether the second of a run's two ends comes, once the first is there."""
        first = time.monotonic()
        while not second.done():
            latest = max(first, self._heard, self.process.cut_until)
            if (left := latest + patience - time.monotonic()) <= 0:
                break
            await asyncio.wait({second}, timeout=left)
        return second.done()

    async def _end_for(self, why: str) -> None:
        """Kill; the caller that awaits this run learns it from the process's death."""
        await self.kill(why)
        await asyncio.get_running_loop().create_future()

    async def _relay_questions(self, on_question: OnQuestion, outputs: Outputs) -> None:
        """Pass on what the cell asks; question and answer become output, as in Jupyter."""
        while True:
            message = await self._receive(self.client.get_stdin_msg)
            if message["header"]["msg_type"] != "input_request":
                continue
            prompt = str(message["content"].get("prompt") or "")[:PROMPT_MOST]
            secret = bool(message["content"].get("password"))
            with Question(prompt, secret) as question:
                on_question(question)
                answer = await question.answered()
            outputs.stream("stdout", question.transcript())
            self.client.input(answer)

    async def _until_idle(self, request: str, outputs: Outputs, *, ours: bool = False) -> None:
        """Fold what comes until a request is over; of `ours`, only what others say meanwhile."""
        others = Turns()
        while True:
            await others.have_theirs()
            message = await self._receive(self.client.get_iopub_msg)
            self._heard = time.monotonic()
            parent = message["parent_header"].get("msg_id")
            if parent != request and parent in self._looks:
                continue  # of one that was given up: no cell is to show that
            mine = parent == request
            kind = message["header"]["msg_type"]
            if not (ours and mine and kind in ("error", "status", "execute_input")):
                # Late output of an earlier cell lands here too, as in Jupyter; what a thread of
                # it prints even names this request.
                try:
                    for part in in_parts(message):
                        outputs.fold(part)
                        await others.have_theirs()
                except UNREADABLE as error:
                    self._drop(error)
            if kind == "status" and mine:
                state = message["content"].get("execution_state")
                if state in ("busy", "idle") and not ours:
                    outputs.timing(f"iopub.status.{state}", message["header"].get("date"))
                if state == "idle":
                    return

    async def _reply_to(self, request: str) -> Message:
        others = Turns()
        while True:
            await others.have_theirs()
            message = await self._receive(self.client.get_shell_msg)
            if message["parent_header"].get("msg_id") == request:
                return message

    async def _receive(self, get: Callable[..., Coroutine[Any, Any, Message]]) -> Message:
        """The next message that can be read; forged and malformed ones are passed by."""
        others = Turns()
        while True:
            await others.have_theirs()
            try:
                message = await get()
            except UNREADABLE as error:
                self._drop(error)
                self._unverified += "Signature" in str(error)
                if self._unverified == UNVERIFIED:
                    await self._end_for("changed the key that signs its kernel's messages")
            else:
                self._unverified = 0
                if all(isinstance(message.get(part), dict) for part in PARTS):
                    return message

    def _drop(self, error: Exception) -> None:
        """Log a message that is of no use; of many, ever fewer."""
        self._dropped += 1
        if self._dropped & (self._dropped - 1) == 0:
            log.warning("Unreadable kernel messages dropped: %s; %.200s", self._dropped, error)

    # -- getting ready

    async def _get_ready(self) -> None:
        """Wait for kernel_info's reply and for iopub to reach us, then prepare the kernel."""
        while True:
            request = self.client.kernel_info()
            try:
                async with asyncio.timeout(1):
                    self.info = (await self._reply_to(request))["content"]
                await self.client.get_iopub_msg(timeout=0.2)
                break
            except (TimeoutError, Empty):
                continue
        if not self.is_python:
            return
        raw = self.process.raw.is_open and self.process.pid is not None
        changed = {name: self.launch.env[name] for name in IPYKERNELS if name in self.launch.env}
        arguments = [raw, changed, self.launch.output_limit]
        more = self.process.more_to_set_up()
        if not self.process.is_here:
            self._shipment = Shipment(self.launch.cwd, self.launch.far, self._ask_files)
        request = {"arguments": arguments, **programs(more.programs), **more.sent}
        msg_id = self._send(SET_UP, request, silent=True)
        reply = (await self._reply_to(msg_id))["content"]
        if reply["status"] != "ok":
            raise DeadKernelError("\n".join(reply.get("traceback", [])))
        self.process.tended = True
        await self._until_idle(msg_id, Outputs(new_code_cell()))

    async def _unless_dead(self, work: Coroutine[Any, Any, None]) -> None:
        """Await `work`, or raise `DeadKernelError` when the process ends first."""
        task, death = asyncio.create_task(work), asyncio.create_task(self.process.until_dead())
        try:
            await asyncio.wait({task, death}, return_when="FIRST_COMPLETED")
            if not task.done():
                raise DeadKernelError(self.process.told_end(death.result()))
            task.result()
        finally:
            for each in (task, death):
                each.cancel()
