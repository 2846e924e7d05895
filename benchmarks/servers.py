"""What a cell costs on a Jupyter Server: `python -m benchmarks.servers`.

A warm `run_cell` over stdio against jupyter-kernel-client's `execute` in the same run, on
kernels of one and the same server; needs `pip install jupyter_server jupyter-kernel-client`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from fastmcp import Client
from fastmcp.client.transports import StdioTransport
from jupyter_kernel_client import JupyterKernelClient  # type: ignore[import-not-found, unused-ignore]

SERVER = [sys.executable, "-m", "rmi_agent.server.cli", "--log-level", "error"]


@contextmanager
def jupyter(folder: Path, token: str) -> Iterator[str]:
    """A Jupyter Server with folders of its own; its URL."""
    own = {f"JUPYTER_{name}_DIR": str(folder / name) for name in ("RUNTIME", "CONFIG", "DATA")}
    command = [sys.executable, "-m", "jupyter_server", "--allow-root", "--no-browser"]
    command += ["--ServerApp.port=0", f"--ServerApp.root_dir={folder}"]
    process = subprocess.Popen(
        command,
        env={**os.environ, **own, "JUPYTER_TOKEN": token},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                threading.Thread(target=process.stderr.read, daemon=True).start()
                yield found[0]
                break
    finally:
        process.terminate()
        process.wait(20)


def theirs(url: str, token: str, rounds: int) -> list[float]:
    """Milliseconds of each `execute` of jupyter-kernel-client."""
    with JupyterKernelClient(server_url=url, token=token) as kernel:
        kernel.execute("1 + 1")
        return [milliseconds(lambda: kernel.execute("1 + 1")) for _ in range(rounds)]


def milliseconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - started)


async def ours(url: str, token: str, rounds: int, folder: Path) -> list[float]:
    """Milliseconds of each `run_cell`, by a client on stdio."""
    env = {**os.environ, "PYTHON_PROJECTS_DIR": str(folder / "p"), "RMI_AGENT_KERNEL_POOL": "0"}
    env |= (
        {"RMI_AGENT_JUPYTER_SERVER_URL": url, "RMI_AGENT_JUPYTER_SERVER_TOKEN": token}
        if url
        else {"RMI_AGENT_SANDBOX": "off"}
    )
    times = []
    transport = StdioTransport(SERVER[0], SERVER[1:], env=env, keep_alive=False)
    async with Client(transport) as client:
        first = await client.call_tool_mcp("run_cell", {"code": "1 + 1"})
        assert first.structured_content is not None, first.content
        cell = {"code": "1 + 1", "session_id": first.structured_content["session_id"]}
        for _ in range(rounds):
            started = time.perf_counter()
            await client.call_tool_mcp("run_cell", cell)
            times.append(1000 * (time.perf_counter() - started))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    rounds, token = parser.parse_args().rounds, secrets.token_hex()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with jupyter(folder, token) as url:
            raw = median(theirs(url, token, rounds))
            there = median(asyncio.run(ours(url, token, rounds, folder)))
        here = median(asyncio.run(ours("", token, rounds, folder)))
    print(f"jupyter-kernel-client {raw:.1f} ms, run_cell {there:.1f} ms, ratio {there / raw:.2f}")
    print(f"run_cell on a kernel of this machine {here:.1f} ms")


if __name__ == "__main__":
    main()
