"""Assembles the server from settings, sessions and tools.

One FastMCP server serves every transport; its lifespan opens and closes the sessions.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import fastmcp
from fastmcp import FastMCP
from fastmcp.server.auth import AuthProvider
from fastmcp.tools import Tool
from fastmcp.utilities.versions import VersionSpec
from mcp.server.request_state import RequestStateSecurity
from opentelemetry.trace import ProxyTracerProvider, get_tracer_provider

from ..kernels import LOCAL, language_of
from . import launch
from .cluster import TakeoverMiddleware
from .files import Changes
from .hints import Hints
from .launch import kernels_are_here, make_folders
from .middleware import Arguments, Lengths, UnexpectedErrors
from .opening import Opening, OpensSessions
from .sandboxing import choose_policy, describe_policy, describe_rights
from .settings import Settings
from .state_dir import VERSION
from .tools import (
    BranchTools,
    CallerFiles,
    Completions,
    EnvironmentChoice,
    EnvironmentTools,
    FileTools,
    JoinTool,
    Prompts,
    PythonFileTools,
    RemoteFiles,
    Resources,
    ResumeTool,
    RunTools,
    SessionTools,
    WrittenFiles,
)
from .transfer import Links
from .views import Worker

if TYPE_CHECKING:
    from ..kernels import Instances, Policy, Sessions, Takeover

log = logging.getLogger(__name__)

KERNEL_WAIT = 30.0  # max seconds a call waits for a free kernel
INSTRUCTIONS = """\
Runs Python on Jupyter kernels. run_python runs a file from the projects folder or a module such as
pytest, run_notebook an .ipynb, run_cell a snippet. Every result contains a session_id: pass it to
run_cell to continue with the same variables, even after a file has failed; omit it to start fresh.
Plots are returned as images. A run is interrupted after {timeout:g} s unless you pass a timeout. A
call returns after {deadline:g} s at most: a run that has not finished by then has status "running"
and continues; follow it with read_output. Start servers with run_python's background=true. Sessions
end on their own{idle}; close_session ends one earlier."""


class McpServer(FastMCP[Any]):
    """FastMCP's server, whose tools are all there from the start: each is looked up once."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._found: dict[str, Tool] = {}  # by name

    async def get_tool(self, name: str, version: VersionSpec | None = None) -> Tool | None:
        """A tool; None if there is none of that name."""
        if version is None and (found := self._found.get(name)) is not None:
            return found
        tool = await super().get_tool(name, version)
        if version is None and tool is not None:
            self._found[name] = tool
        return tool


class App:
    """The server and its sessions; `mcp` is the FastMCP server.

    Args:
        settings: the server's settings.
        auth: how HTTP callers are identified; if None, all are the one local user.
        exposed: whether anyone but this machine's user may call.
        principals: whose kernels are warm from the start.
        instances: which instance owns which session, if there are several instances.
        seal: a key that all instances share.
        link_key: a key for one-time links to files, the same on all instances; None if clients
            are on this machine, and have the files.
        in_background: whether the sessions open only after the first request is answered.
        choosing: returns the kernels' sandbox, if that is being chosen already.

    Raises:
        BadSettings: the sandbox that the settings ask for is not available.
    """

    def __init__(
        self,
        settings: Settings,
        auth: AuthProvider | None = None,
        *,
        exposed: bool = False,
        principals: tuple[str, ...] = (LOCAL,),
        instances: Instances | None = None,
        seal: bytes | None = None,
        in_background: bool = False,
        link_key: bytes | None = None,
        choosing: Callable[[], Policy | None] | None = None,
    ) -> None:
        choose_spans()
        self.settings = settings
        self.shared: Takeover | None = None
        if instances is not None:
            from ..kernels import Takeover  # lazy: most servers have no store

            self.shared = Takeover(instances)
        policy = choosing() if choosing is not None else choose_policy(settings, exposed=exposed)
        self.rights = describe_rights(policy, settings)
        hints = Hints(settings, policy)

        def make() -> Sessions:
            from ..kernels import Sessions  # lazy: imported after `initialize` is answered

            hints.sessions = Sessions(
                launch.sessions(settings, hints.of),
                launch.launch(settings),
                settings.kernel_pool,
                settings.kernel_max,
                KERNEL_WAIT,
                settings.most_sessions,
                policy=policy,
                expected=principals,
                directory=self.shared,
            )
            return hints.sessions

        self.opening = Opening(make, in_background=in_background)
        self.mcp: FastMCP[Any] = McpServer(
            "RmiAgentMcpServer",
            instructions=instructions(settings, policy),
            version=VERSION,
            lifespan=self._lifespan,
            auth=auth,
            mask_error_details=True,
            # State that a client returns with an answer may reach another instance.
            request_state_security=(
                RequestStateSecurity(keys=[seal], audience="rmi-agent") if seal else None
            ),
        )
        self.mcp.add_middleware(OpensSessions(self.opening))
        self.mcp.add_middleware(UnexpectedErrors())
        self.mcp.add_middleware(Lengths())
        self.mcp.add_middleware(Arguments())
        if self.shared is not None:
            self.mcp.add_middleware(TakeoverMiddleware(self.shared))
        self.worker, self.files = Worker(), CallerFiles(settings, policy)
        self.page_worker = Worker()  # people who look at pages must not delay tools
        self.changes = Changes()
        self.links = None if link_key is None else Links(link_key)
        remote = RemoteFiles(settings, self.links)
        written = WrittenFiles(self.files, self.changes, remote)
        choice = EnvironmentChoice(settings, self.opening, policy, self.files)
        self.runs = RunTools(settings, self.opening, self.worker, self.files, choice, written)
        for part in (
            self.runs,
            EnvironmentTools(settings, self.opening, self.files, choice),
            SessionTools(settings, self.opening),
            JoinTool(settings, self.opening),
            BranchTools(settings, self.opening),
            FileTools(settings, self.worker, self.files, remote),
            PythonFileTools(settings, self.worker, self.files),
            Resources(settings, self.opening, self.files),
            ResumeTool(settings, self.opening, self.runs.follower, choice),
            Prompts(self.files),
            Completions(self.opening, self.files),
        ):
            part.add_to(self.mcp)

    @property
    def sessions(self) -> Sessions:
        """The server's sessions."""
        return self.opening.sessions

    @asynccontextmanager
    async def _lifespan(self, _: FastMCP[Any]) -> AsyncIterator[None]:
        make_folders(self.settings)
        folders = ", ".join(map(str, self.settings.roots))
        log.info("Running Python files from %s (PYTHON_PROJECTS_DIR)", folders)
        log.info("Recording sessions in %s (RMI_AGENT_NOTEBOOKS_DIR)", self.settings.notebooks)
        if not kernels_are_here(self.settings) and self.settings.memory_limit:
            log.info("RMI_AGENT_MEMORY_LIMIT does not apply: kernels run on another machine")
        with self.worker, self.page_worker, self.changes:
            async with self.opening:
                yield


def choose_spans() -> None:
    """Let FastMCP make spans only if the process has set up OpenTelemetry's SDK."""
    if "FASTMCP_TELEMETRY_MODE" not in os.environ:
        nobody = isinstance(get_tracer_provider(), ProxyTracerProvider)
        fastmcp.settings.telemetry_mode = "off" if nobody else "native"


def instructions(settings: Settings, policy: Policy | None) -> str:
    """The server instructions that every model reads."""
    text = INSTRUCTIONS.format(
        timeout=settings.python_timeout,
        deadline=settings.response_deadline,
        idle=f" after {settings.session_idle / 60:g} idle minutes" if settings.session_idle else "",
    )
    if (language := language_of(settings.kernel_name)) != "python":
        text += (
            f"\nThe kernels run {language}: run_cell takes {language}, run_python does not work."
        )
    if not kernels_are_here(settings):
        text += "\nThe code runs on another machine" + (
            "."
            if settings.remote_files == "shared"
            else ", with a copy of the projects folder unless that machine shares it:"
            " files that it writes into a copy stay there, and are deleted with the session."
        )
    return (
        text if policy is None else f"{text} The code runs in a sandbox: {describe_policy(policy)}."
    )
