"""Runs the file of a kernel's first request before the kernel has an event loop.

The script finds what `python FILE` offers: no loop, no thread, no channel. Its rich output and the
reply are ordinary messages. Executed in a template, like `setup.py`.
"""

from __future__ import annotations

import builtins
import getpass
import signal
import traceback
from typing import Any

from .script_exit import name_of


def run_at_once(kernel: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Run the file that an execute request names, and send what a kernel sends then.

    Returns the content of the reply.

    Args:
        kernel: an `IPythonKernel` that has been attached to its sockets.
        request: the request's message; already the parent of all output.
    """
    shell, session, code = kernel.shell, kernel.session, request["content"]["code"]

    def publish(kind: str, **content: Any) -> None:
        session.send(kernel.iopub_socket, kind, content, request, ident=kind.encode())

    count = shell.execution_count
    with kernel.iopub_socket.followed_at_once():
        publish("status", execution_state="busy")
    publish("execute_input", code=code, execution_count=count)
    shell.history_manager.store_inputs(count, code, code)
    kernel._sys_raw_input, kernel._save_getpass = builtins.input, getpass.getpass
    content: dict[str, Any] = {"status": "ok", "user_expressions": {}}
    try:
        shell._rmi_agent_script()
    except BaseException as error:  # of ours, or an interrupt between two of our lines
        lines = traceback.format_exception(error)
        failure = {"ename": name_of(error), "evalue": "", "traceback": lines}
        publish("error", **failure)
        content = {"status": "error", **failure}
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    shell.execution_count = count + 1
    shell.events.trigger("post_execute")
    payload = shell.payload_manager.read_payload()
    shell.payload_manager.clear_payload()
    content |= {"execution_count": count, "payload": payload}
    session.send(kernel.shell_stream, "execute_reply", content, request)
    publish("status", execution_state="idle")
    return content
