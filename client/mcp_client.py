"""`python client/mcp_client.py --server URL [--file FILE]`: lists the tools, runs a file."""

from typing import Annotated

import cyclopts
from cyclopts import Parameter
from rmi_agent.client import RmiMcpClient
from rmi_agent.client.commands import call

app = cyclopts.App(help_format="plaintext")


@app.default
def run(
    *,
    server: Annotated[
        str | None,
        Parameter(help="Server to use: a URL, a script or a command. By default, starts one."),
    ] = None,
    file: Annotated[
        str, Parameter(help="The file, relative to the projects folder.")
    ] = "hello_world.py",
) -> None:
    """Connect to a server, show its tools, run a file and print the result."""

    async def work(client: RmiMcpClient) -> int:
        print("Tools:", ", ".join(tool.name for tool in await client.list_tools()))
        print(f"Running {file} ...")
        print(await client.run_python(file))
        return 0

    call(server, work)


if __name__ == "__main__":
    app()
