"""What floods of output do to a server: `python -m benchmarks.floods [NAME …]`.

Each cell of the table runs in a session of its own on a server over HTTP, which others ask
for `/healthz` all the while. Exits with 1 if it took longer, or grew more, than it may.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.hostile.floods import FLOODS, TIMEOUT, Flooded, flooded
from tests.server.conftest import fill
from tests.server.served import USERS, served

SLOWEST = 0.5  # seconds
GROWTH = 64_000_000  # bytes
OVER = TIMEOUT + 7  # seconds: the time limit, and the steps that end a run


async def once(code: str) -> Flooded:
    """A flood on a server of its own, which is killed where it does not end by itself."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {f"XDG_{kind}_HOME": folder for kind in ("DATA", "STATE", "CACHE")}
        found = Flooded("no result", 0.0, 0.0, 0)
        try:
            with served(fill(Path(folder)), RMI_AGENT_TOKENS=USERS) as server:
                found = await flooded(server, code)
        except subprocess.TimeoutExpired:
            server.process.kill()
            server.process.wait()
        except Exception as error:  # the table goes on
            print(f"{error!r:.200}", file=sys.stderr)
        return found


async def measure(names: list[str]) -> bool:
    print(f"{'flood':20} {'status':9} {'seconds':>8} {'/healthz':>9} {'growth':>8}")
    within = True
    for name in names or FLOODS:
        found = await once(FLOODS[name])
        held = found.slowest < SLOWEST and found.growth < GROWTH and 0 < found.seconds < OVER
        print(
            f"{name:20} {found.status:9} {found.seconds:6.1f} s {1000 * found.slowest:6.0f} ms"
            f" {found.growth / 1e6:5.0f} MB{'' if held else '  !'}",
            flush=True,
        )
        within &= held
    return within


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(FLOODS)}")
    sys.exit(not asyncio.run(measure(parser.parse_args().names)))


if __name__ == "__main__":
    main()
