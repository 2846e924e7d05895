"""Runs code on a kernel that does not see the project's files: sends them there first.

Knows the requests that carry files, not which files to send.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

from ..errors import NotSent
from ..process import Launch
from ..protocol import Message, Outputs, ends_kernel, new_cell, payloads
from ..remote import Shipment
from .exchange import Exchange

log = logging.getLogger(__name__)

ANSWER_FILES = "__import__('IPython').get_ipython()._rmi_agent_files()"


class ProjectFiles:
    """The project's files on the machine of one kernel."""

    def __init__(self, exchange: Exchange, launch: Launch) -> None:
        self._exchange = exchange
        self._shipment = Shipment(launch.cwd, launch.remote_options, self._ask)
        self._outputs = Outputs(new_cell())  # of the current run
        self._stop: asyncio.Future[Any] | None = None  # of the current run
        self._folder: Path | None = None

    def enter(self, folder: Path) -> None:
        """Have the next cell run in the copy of a folder of this machine."""
        self._folder = folder

    async def run(
        self,
        code: str,
        request: dict[str, Any],
        outputs: Outputs,
        stop: asyncio.Future[Any],
        notices: list[str],
    ) -> Message:
        """Run code as `Exchange.run` does, after sending the files; adds to the run's `notices`."""
        shipment = self._shipment
        self._outputs, self._stop = outputs, stop
        entered, self._folder = self._folder, None
        try:
            if request or entered or shipment.there is None:
                paths = {key: Path(path) for key in ("path", "cwd") if (path := request.get(key))}
                script, folder = paths.get("path"), paths.get("cwd")
                near = script.parent if script else folder or entered
                notices += await shipment.send(near, enter=not request)
                if folder and not shipment.has(folder):
                    raise NotSent(f"{folder} is outside of {shipment.root}, which is what is sent")
                if near and not shipment.has(near):
                    notices.append(
                        f"The kernel's machine has only the files of {shipment.root}, the first"
                        f" projects folder, none of {near}."
                    )
                request = request | {key: shipment.path(path) for key, path in paths.items()}
        except NotSent as error:
            if not stop.done():
                outputs.stream("stderr", f"The project's files could not be sent: {error}\n")
            return {"content": {"status": "error", "ename": "NotSent"}}
        reply = await self._exchange.run(code, request, outputs, stop)
        if not ends_kernel(reply):
            try:
                notices += await shipment.written()
            except NotSent as error:
                log.info("What was written on the kernel's machine is not known: %s", error)
        return reply

    async def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Ask `inside/file_receiver.py` in the kernel; returns its answer."""
        if self._stop is not None and self._stop.done():
            raise NotSent("stopped")
        reply = await self._exchange.run_ours(ANSWER_FILES, question, self._outputs)
        for payload in payloads(reply):
            if payload.get("source") == "rmi_agent.files":
                return payload
        content = reply["content"]
        raise NotSent(f"{content.get('ename')}: {str(content.get('evalue'))[:1000]}")
