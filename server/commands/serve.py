"""The command line of `rmi-agent-mcp-server`, whose default is to serve."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal

import cyclopts
from cyclopts import Parameter

from .. import logs, quick_imports
from ..attach_modes import Attach
from ..console import die
from ..errors import BadSettings
from .options import NoSandbox, NotebooksDir, ProjectsDir
from .run_server import run_server

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
    given = {
        "host": host,
        "port": port,
        "python_projects_dir": projects_dir,
        "notebooks_dir": notebooks_dir,
        "sandbox": "off" if no_sandbox else None,
        "attach": attach,
    }
    run_server(
        {name: value for name, value in given.items() if value is not None},
        transport,
        insecure_no_auth=insecure_no_auth,
        tunnel=tunnel is not None,
        few_runs=few_runs,
        here=here,
        wanted=wanted,
        log_level=log_level,
        log_format=log_format,
    )


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
