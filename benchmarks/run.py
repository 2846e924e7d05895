"""What this server costs, beside its rivals in the same run: `python -m benchmarks.run`.

Rivals: jupyter_client's raw round trip, stock kernels, FastMCP servers with one tool (that does
nothing, or `subprocess.run`), ipybox and clikernel. With sandbox and recording on. Machines
differ, and so do their moods: ratios within one run count. `--only PART …` runs some parts,
`--json FILE` writes the results to a file as well, `--rivals FOLDER` keeps rivals installed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
import time
import traceback
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from rmi_agent.kernels import TIERS, Policy, why_not

from .bench import Bench, Skipped
from .parts import PARTS

PART_SECONDS = 1200  # then a part has failed
PACKAGES = ("fastmcp", "ipykernel", "jupyter_client")


def machine(folder: Path) -> str:
    """What the figures depend on: Python, cores, load, sandbox, versions."""
    works = (tier for tier in TIERS if not why_not(Policy(tier, folder, folder / "homes")))
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return (
        f"Python {platform.python_version()}, {os.cpu_count()} cores{load},"
        f" sandbox {next(works, 'none: figures do not count')}, {versions}"
    )


def run(bench: Bench, name: str) -> list[str]:
    """Run a part; what went wrong."""
    bench.part = name
    began = time.monotonic()
    print(f"\n{name}: {(PARTS[name].__doc__ or '').splitlines()[0]}", flush=True)
    try:
        asyncio.run(asyncio.wait_for(PARTS[name](bench), PART_SECONDS))
    except Skipped as why:
        bench.skip(name, why)
    except Exception as error:  # the other parts are measured all the same
        traceback.print_exc()
        return [f"{name} failed: {error!r:.200}"]
    print(f"  ({time.monotonic() - began:.0f} s)", flush=True)
    return []


def table(bench: Bench) -> str:
    """All targets, and whether each is met."""
    lines = [
        f"{target.name:<68}{target.value:9.2f}  {'≥' if target.at_least else '≤'}"
        f" {target.bound:<6g} {'met' if target.met else 'missed'}"
        for target in bench.targets
    ]
    missed = sum(not target.met for target in bench.targets)
    return "\n".join([*lines, f"{len(bench.targets)} targets, {missed} missed"])


def results(bench: Bench, heading: str, failed: list[str]) -> str:
    """All of it as JSON."""
    found = {
        "machine": heading,
        "figures": [asdict(figure) for figure in bench.figures],
        "targets": [{**asdict(target), "met": target.met} for target in bench.targets],
        "skipped": bench.skipped,
        "failed": failed,
    }
    return json.dumps(found, indent=1, ensure_ascii=False)


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.run", description=__doc__)
    parser.add_argument("--rounds", type=int, default=200, help="calls of the quick ones (200)")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    parser.add_argument(
        "--rivals", type=Path, metavar="FOLDER", help="keep their environments for the next run"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rmi", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        environments = arguments.rivals or folder / "environments"
        environments.mkdir(parents=True, exist_ok=True)
        bench = Bench(folder, arguments.rounds, environments.resolve())
        heading = machine(bench.projects)
        print(heading)
        failed: list[str] = []
        for part in arguments.only or PARTS:
            failed += run(bench, part)
            if arguments.json:  # after each part, so that a run that is ended has left something
                arguments.json.write_text(results(bench, heading, failed) + "\n")
    print("", table(bench), *bench.skipped, *failed, sep="\n")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
