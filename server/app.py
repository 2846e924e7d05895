"""The server put together: settings, sessions, tools, and who may call.

One FastMCP server for every transport; its lifespan opens the sessions and ends them.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastmcp import FastMCP
from fastmcp.server.auth import AccessToken, TokenVerifier

from ..kernels import Policy, Sessions
from .isolation import chosen, described, hints
from .settings import Settings
from .tools import Tools

log = logging.getLogger(__name__)

INSTRUCTIONS = """\
Runs Python on Jupyter kernels. run_python runs a file of the projects folder; run_cell runs a
snippet. Every result names a session_id: pass it to run_cell to go on with the same variables,
also after a file has failed; leave it out to begin afresh. Plots come back as pictures. A run
that is still going when the answer comes has status "running": follow it with read_output."""


class BearerToken(TokenVerifier):
    """One shared token, compared in constant time by its digest."""

    def __init__(self, token: str) -> None:
        super().__init__()
        self._digest = hashlib.sha256(token.encode()).digest()

    async def verify_token(self, token: str) -> AccessToken | None:
        """The one principal, or None."""
        given = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        if not hmac.compare_digest(given, self._digest):
            return None
        return AccessToken(token=token, client_id="token", scopes=[])


class App:
    """The server and its sessions. `mcp` is the FastMCP server.

    Raises:
        BadSettings: there is no sandbox such as the settings ask for.
    """

    def __init__(self, settings: Settings, *, authenticate: bool = False) -> None:
        self.settings = settings
        policy = chosen(settings, exposed=authenticate)
        self.sessions = Sessions(
            settings.sessions(hints(policy)),
            settings.launch(),
            settings.kernel_pool,
            settings.kernel_max,
            settings.kernel_wait,
            policy=policy,
            expected=("token" if authenticate and settings.rmi_agent_token else "local",),
        )
        token = settings.rmi_agent_token if authenticate else None
        self.mcp: FastMCP[Any] = FastMCP(
            "RmiAgentMcpServer",
            instructions=INSTRUCTIONS
            + (f"\nKernels run in a sandbox: {described(policy)}." if policy else ""),
            version=version("rmi-agent-mcp-server"),
            lifespan=self._lifespan,
            auth=BearerToken(token.get_secret_value()) if token else None,
            mask_error_details=True,
        )
        Tools(settings, self.sessions).add_to(self.mcp)

    @asynccontextmanager
    async def _lifespan(self, _: FastMCP[Any]) -> AsyncIterator[None]:
        self.settings.make_folders()
        log.info("Python files are run from %s (PYTHON_PROJECTS_DIR)", self.settings.projects)
        log.info("Sessions are recorded in %s (NOTEBOOKS_DIR)", self.settings.notebooks)
        async with self.sessions:
            yield


def instructions(policy: Policy | None) -> str:
    """What every model is told."""
    if policy is None:
        return INSTRUCTIONS
    return f"{INSTRUCTIONS}\nThe code runs in a sandbox: {described(policy)}."
