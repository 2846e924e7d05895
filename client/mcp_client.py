"""`python client/mcp_client.py --server URL [--file FILE]`: lists the tools, runs a file."""

import asyncio
from typing import Annotated

import cyclopts
from cyclopts import Parameter
from rmi_agent.client import RmiMcpClient
from rmi_agent.client.commands import fail

app = cyclopts.App(help_format="plaintext")


@app.default
def run(
    *,
    server: Annotated[str | None, Parameter(help="A URL, a script or a command.")] = None,
    file: Annotated[str, Parameter(help="A file of the projects folder.")] = "hello_world.py",
) -> None:
    """Connect to a server, show its tools, run a file and print the result."""

    async def work() -> int:
        async with RmiMcpClient(server) as client:
            print("Tools:", ", ".join(tool.name for tool in await client.list_tools()))
            print(f"Running {file} ...")
            print(await client.run_python(file))
        return 0

    try:
        raise SystemExit(asyncio.run(work()))
    except (RuntimeError, OSError, ValueError) as error:
        raise SystemExit(
            fail(f"Can't talk to {server or 'the embedded server'}: {error}")
        ) from None


if __name__ == "__main__":
    app()
