"""Lets Python kernels on Jupyter Servers say how our latest run ended.

A reply in transit when a connection breaks is lost without the server knowing. Sent along with
`setup.py` and executed before it; knows nothing about servers or connections.
"""

from __future__ import annotations

import os
from collections import deque
from typing import Any

LAST_REPLY = "rmi_agent_last_reply_request"
SECRETS = (
    "JUPYTER_TOKEN",
    "JUPYTERHUB_API_TOKEN",
    "JPY_API_TOKEN",
    "EG_AUTH_TOKEN",
    "KG_AUTH_TOKEN",
)


def hide_tokens() -> None:
    """Remove the server's inherited token from `os.environ`, so that code does not print it."""
    for name in SECRETS:
        os.environ.pop(name, None)


def remember_last_reply(kernel: Any) -> None:
    """Let an `IPythonKernel` answer `LAST_REPLY` on its shell channel.

    The request asks whether an execute request has arrived; the answer includes the content of its
    reply if it was our latest one. A request that has not arrived will not run later either.
    """
    last: dict[str, Any] = {"msg_id": "", "reply": None}
    refused: deque[str] = deque(maxlen=16)
    init_metadata, finish_metadata = kernel.init_metadata, kernel.finish_metadata
    should_handle = kernel.should_handle

    def begin(parent: dict[str, Any]) -> Any:
        if "rmi_agent" in parent["metadata"]:  # ours, not another client's
            last.update(msg_id=parent["header"]["msg_id"], reply=None)
        return init_metadata(parent)

    def finish(parent: dict[str, Any], metadata: Any, content: Any) -> Any:
        if parent["header"]["msg_id"] == last["msg_id"]:
            last["reply"] = content
        return finish_metadata(parent, metadata, content)

    def wanted(stream: Any, message: dict[str, Any], idents: Any) -> Any:
        refuses = message["header"]["msg_id"] in refused
        return False if refuses else should_handle(stream, message, idents)

    def answer(stream: Any, ident: Any, request: dict[str, Any]) -> None:
        arrived = request["content"]["msg_id"] == last["msg_id"]
        if not arrived:
            refused.append(request["content"]["msg_id"])
        content = {"arrived": arrived, "reply": last["reply"] if arrived else None}
        kind = LAST_REPLY.replace("request", "reply")
        kernel.session.send(stream, kind, content, parent=request, ident=ident)

    # ipykernel's hooks: start of a request, before its reply is sent, and before everything else.
    kernel.init_metadata, kernel.finish_metadata = begin, finish
    kernel.should_handle = wanted
    kernel.shell_handlers[LAST_REPLY] = answer
