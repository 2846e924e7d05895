"""How long `1 + 1` takes while other sessions run long: `python -m benchmarks.neighbours`.

The eight others wait and print in the first case and compute in the second, where eight processes
ask for every core; what a machine can give then is shown by the rival in the same run, a raw
jupyter_client round trip on a kernel of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import tempfile
from pathlib import Path

from jupyter_client.manager import start_new_async_kernel

from .bench import OURS, Bench, close, run_cell
from .measure import interleaved, p95
from .parts.cells import round_trip

OTHERS = 8
CASES = {
    "wait and print": "import time\nwhile True: print('on', flush=True); time.sleep(0.5)",
    "compute": "while True: sum(range(10_000))",
}
SETTINGS = {"RMI_AGENT_RESPONSE_DEADLINE": "1", "RMI_AGENT_KERNEL_POOL": "0"}


async def measure(bench: Bench) -> None:
    manager, kernel = await start_new_async_kernel(stderr=subprocess.DEVNULL)
    try:
        async with bench.stdio(OURS, **SETTINGS) as (client, _):
            session = await run_cell(client)
            calls = {
                "run_cell": lambda: run_cell(client, session),
                "raw jupyter_client": lambda: round_trip(kernel),
            }

            async def percentiles() -> dict[str, float]:
                found = await interleaved(calls, bench.rounds, block=10, skipped=3)
                return {name: p95(values) for name, values in found.items()}

            async def start(code: str) -> str:
                arguments = {"code": code, "timeout": 600}
                result = await client.call_tool_mcp("run_cell", arguments)
                return str((result.structured_content or {})["session_id"])

            idle = await percentiles()
            for case, code in CASES.items():
                others = await asyncio.gather(*(start(code) for _ in range(OTHERS)))
                for name, value in (await percentiles()).items():
                    print(
                        f"{OTHERS} others {case}: {name} p95 {value:.1f} ms,"
                        f" idle {idle[name]:.1f} ms, ratio {value / idle[name]:.2f}"
                    )
                for other in others:
                    await close(client, other)
    finally:
        kernel.stop_channels()
        await manager.shutdown_kernel(now=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=300)
    with tempfile.TemporaryDirectory(prefix="rmi", ignore_cleanup_errors=True) as folder:
        asyncio.run(measure(Bench(Path(folder), parser.parse_args().rounds, Path(folder))))


if __name__ == "__main__":
    main()
