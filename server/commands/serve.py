"""`rmi-agent-mcp-server`: starts the server on stdio or HTTP, and shuts it down cleanly.

All messages go to stderr; on stdio, stdout carries only the protocol.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal

import cyclopts
from cyclopts import Parameter

from .. import logs, quick_imports
from ..attach_modes import Attach
from ..console import die
from ..errors import BadSettings
from ..process_life import be_unreadable, give_memory_back, main_loop, pause_gc
from .options import NoSandbox, NotebooksDir, ProjectsDir

log = logging.getLogger(__name__)

app = cyclopts.App(
    name="rmi-agent-mcp-server",
    help="An MCP server that runs Python on Jupyter kernels and records every session.",
    help_format="plaintext",
    version=lambda: metadata.version("rmi-agent-mcp-server"),
)
# By name, since servers don't need what these import.
app.command(
    "rmi_agent.server.commands.tokens:app",
    name="tokens",
    help="List and revoke clients' sign-ins (RMI_AGENT_AUTH=token+oauth).",
)
for name, does in (
    ("start", "Start a background server, whose sessions outlive their clients."),
    ("stop", "Shut down the background server."),
    ("status", "Show the background server; exits with 0 if it runs, 3 if not, 4 if unclear."),
):
    app.command(f"rmi_agent.server.commands.resident:{name}", help=does)
app.command(
    "rmi_agent.server.commands.doctor:doctor",
    help="Check what a server needs on this machine; exits with 1 if a check fails.",
)
for name, does in (
    ("install", "Add this server to the config of an application such as Claude Desktop."),
    ("connect", "Connect a host to a server that runs elsewhere."),
    ("uninstall", "Remove an entry of this server from a host's config."),
):
    app.command(f"rmi_agent.server.commands.install:{name}", help=does)


@app.default
def serve(
    *,
    transport: Annotated[
        Literal["stdio", "http"] | None,
        Parameter(help="Default: stdio, or http with --tunnel."),
    ] = None,
    host: Annotated[
        str | None,
        Parameter(help="Address to listen on. By default, RMI_AGENT_HOST, or 127.0.0.1."),
    ] = None,
    port: Annotated[
        int | None,
        Parameter(
            name=["--port", "-p"],
            help="Port to listen on; 0 takes any free one. By default, RMI_AGENT_PORT, or 8000.",
        ),
    ] = None,
    projects_dir: ProjectsDir = None,
    notebooks_dir: NotebooksDir = None,
    no_sandbox: NoSandbox = False,
    insecure_no_auth: Annotated[
        bool,
        Parameter(
            help="Serve HTTP without a token: any program on this machine can run code as you.",
            negative=(),
        ),
    ] = False,
    tunnel: Annotated[
        Literal["ngrok"] | None,
        Parameter(help="Serve HTTP at a public address (NGROK_AUTHTOKEN, RMI_AGENT_NGROK_DOMAIN)."),
    ] = None,
    attach: Annotated[
        Attach | None,
        Parameter(
            help="On stdio: whether to use the background server. By default, RMI_AGENT_ATTACH, or"
            " auto: if one runs."
        ),
    ] = None,
    # For `rmi-agent run`, which starts a server for one program (`one_run.py`).
    few_runs: Annotated[bool, Parameter(show=False, negative=())] = False,
    here: Annotated[tuple[Path, ...], Parameter(show=False, negative=())] = (),
    wanted: Annotated[str | None, Parameter(show=False)] = None,
    log_level: Annotated[
        logs.Level | None,
        Parameter(
            help="Least severe messages to log. By default, info over HTTP, warning on stdio."
        ),
    ] = None,
    log_format: Annotated[
        logs.Format, Parameter(help="Lines of text, or one JSON object per line.")
    ] = "text",
) -> None:
    """Start the server. `http` serves streamable HTTP at /mcp and legacy SSE at /sse on one port.

    Over HTTP, clients need a bearer token: RMI_AGENT_TOKEN, one of RMI_AGENT_TOKENS, or, if
    neither is set, the one created at the first start.
    """
    pause_gc()
    from ..launch import make_folders  # lazy: --help needs no settings
    from ..setting_place import ignore_dotenv_in
    from ..settings import load

    on_http = transport == "http" or tunnel is not None
    logs.set_up(log_level or ("info" if on_http else "warning"), log_format)
    given = {
        "host": host,
        "port": port,
        "python_projects_dir": projects_dir,
        "notebooks_dir": notebooks_dir,
        "sandbox": "off" if no_sandbox else None,
        "attach": attach,
    }
    give_memory_back()
    be_unreadable()
    ending: AbstractContextManager[None] = nullcontext()
    if tunnel:
        from ..serving import left_at_once

        ending = left_at_once()
    with ending:
        try:
            ignore_dotenv_in(here)
            settings = load(**{name: value for name, value in given.items() if value is not None})
            if here or wanted:
                from .one_run import for_one_run

                settings = for_one_run(settings, here, wanted)
            make_folders(settings)
            for line in settings.warnings(http=on_http):
                log.warning(line)
            if tunnel and transport == "stdio":
                raise BadSettings("--tunnel: a tunnel needs HTTP. Remove --transport stdio.")
            if on_http:
                if attach is not None:
                    raise BadSettings("--attach: it applies to stdio only. Remove it.")
                quick_imports.import_jsonschema()
                from ..serving import http

                logs.log_run_context()
                main_loop(http(settings, insecure_no_auth, tunnel is not None))
            else:
                from .stdio import explain_to_a_person, on_stdio

                explain_to_a_person()
                main_loop(on_stdio(settings, few_runs))
        except BadSettings as error:
            die(error)


@app.command
def review(
    *,
    notebooks_dir: NotebooksDir = None,
    port: Annotated[
        int, Parameter(name=["--port", "-p"], help="Port to listen on; 0 takes any free one.")
    ] = 0,
    session: Annotated[
        str | None,
        Parameter(help="File name of the session to show first. By default, shows the list."),
    ] = None,
    no_browser: Annotated[
        bool, Parameter(help="Print the link without opening a browser.", negative=())
    ] = False,
) -> None:
    """Show recorded sessions in a browser, on this machine only, without a running server."""
    quick_imports.import_jsonschema()
    from ..settings import load
    from .review import HOST
    from .review import review as serve_pages

    try:
        given = {} if notebooks_dir is None else {"notebooks_dir": notebooks_dir}
        settings = load(host=HOST, port=port, **given)
        raise SystemExit(serve_pages(settings, not no_browser, session))
    except BadSettings as error:
        die(error)


def main() -> None:
    """The entry point of the console script."""
    app()
