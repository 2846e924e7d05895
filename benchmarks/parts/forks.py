"""Forks of living sessions: from the call to the first answer, by the size of what they hold."""

from __future__ import annotations

import asyncio
import time

from nbformat.v4 import new_code_cell
from rmi_agent.kernels import Config, Execution, Kernel, Launch, Session, Sessions
from rmi_agent.kernels.fork import TEMPLATES
from rmi_agent.kernels.protocol.outputs import Outputs

from ..bench import Bench
from .kernels import launches

SIZES = (50, 500, 2_000)  # MB
SPARE = 3  # how many times the size has to be free
FILL = "import numpy; kept = [numpy.ones(1_000_000 // 8) for _ in range({size})]; one = 1"
AGAIN = "for each in kept: each += 1"


async def milliseconds(kernel: Kernel, code: str) -> float:
    """How long a cell takes."""
    began = time.perf_counter()
    await kernel.run_cell(code, Outputs(new_code_cell()))
    return (time.perf_counter() - began) * 1e3


def available() -> float:
    """Free memory in MB."""
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) / 1e3 for line in file if line.startswith("MemAvailable"))


async def forks(bench: Bench) -> None:
    """A fork of a kernel that holds arrays, to its first answer; and both kernels' next cells."""
    plain, boxed = launches(bench)
    try:
        for size in SIZES:
            if available() < SPARE * size:
                print(f"  {size} MB: not enough memory")
                continue
            await of_size(bench, size, boxed)
        await of_size(bench, SIZES[0], plain, ", no sandbox")
    finally:
        TEMPLATES.close()


async def of_size(bench: Bench, size: int, launch: Launch, where: str = "") -> None:
    """Measure one size."""
    first: list[float] = []
    small: list[float] = []
    memory: list[float] = []
    async with Kernel(launch) as origin:
        await milliseconds(origin, FILL.format(size=size))
        async with Kernel(origin.branch_launch()):  # the template may still import
            pass
        for _ in range(max(5, bench.rounds // 20)):
            began = time.perf_counter()
            branch = Kernel(origin.branch_launch())
            await branch.start()
            await milliseconds(branch, "one")
            first.append((time.perf_counter() - began) * 1e3)
            small.append(await milliseconds(origin, "one"))
            memory.append(branch.process.memory() / 1e6)
            await branch.close(graceful=False)
        async with Kernel(origin.branch_launch()):
            rewriting = [await milliseconds(origin, AGAIN)]
        alone = [await milliseconds(origin, AGAIN)]
    bench.values(f"fork to first answer, {size} MB{where}, ms", first)
    bench.values(f"the origin's next small cell, {size} MB{where}, ms", small)
    bench.values(f"all of it rewritten after a fork, {size} MB{where}, ms", rewriting)
    bench.values(f"the same with no fork, {size} MB{where}, ms", alone)
    bench.values(f"memory counted for the fork (PSS), {size} MB{where}, MB", memory)


COPIED_WITHIN = 20.0  # max seconds until the copy for a crash is there
DIE = "import os; os._exit(1)"


async def recovery(bench: Bench) -> None:
    """A checkpoint's cost for its cell and the next ones; and a session's recovery from a crash."""
    plain, _ = launches(bench)
    config = Config(bench.folder / "notebooks", crash_recovery=True)
    try:
        async with Sessions(config, plain) as sessions:
            for size in SIZES:
                if available() < SPARE * size:
                    bench.skip(f"{size} MB", "not enough memory")
                    continue
                await recovery_of_size(bench, size, await sessions.open())
    finally:
        TEMPLATES.close()


async def recovery_of_size(bench: Bench, size: int, session: Session) -> None:
    """Measure one size, and close the session."""
    figures: dict[str, list[float]] = {}
    why_not = ""

    async def timed(name: str, code: str, *, checkpoint: bool = False) -> Execution:
        began = time.perf_counter()
        execution = session.submit_cell(code, 60, checkpoint=checkpoint)
        await execution.task
        figures.setdefault(name, []).append((time.perf_counter() - began) * 1e3)
        return execution

    await session.submit_cell(FILL.format(size=size), 60).task
    for _ in range(max(5, bench.rounds // 20)):
        await timed("small cell", "one")
        await timed("small cell with a checkpoint", "one", checkpoint=True)
        await timed("next small cell", "one")
        session.drop_copies()
        if await copied(session):
            began = time.perf_counter()
            await session.submit_cell(DIE, 60).task
            await session.submit_cell("one", 60).task
            took = (time.perf_counter() - began) * 1e3
            figures.setdefault("death to the next answer", []).append(took)
        else:
            why_not = session.recovery.why_not
    await timed("all rewritten", AGAIN)
    await timed("all rewritten, with a checkpoint", AGAIN, checkpoint=True)
    for name, values in figures.items():
        bench.values(f"{name}, {size} MB, ms", values)
    if "death to the next answer" not in figures:
        bench.skip(f"recovery, {size} MB", why_not)
    await session.close()


async def copied(session: Session) -> bool:
    """Wait for the copy that survives the kernel; whether it is made."""
    session.recovery.copy_soon()
    ends = time.monotonic() + COPIED_WITHIN
    while session.recovery.copy is None and time.monotonic() < ends:
        if session.recovery.why_not.startswith(("It has ", "It uses ")):
            return False
        await asyncio.sleep(0.01)
    return session.recovery.copy is not None
