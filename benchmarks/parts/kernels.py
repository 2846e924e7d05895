"""Kernels without a server: their first answer, and what the sandbox costs."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Mapping

from nbformat.v4 import new_code_cell
from rmi_agent.kernels import TIERS, Kernel, Launch, Policy, why_not
from rmi_agent.kernels.fork import TEMPLATES
from rmi_agent.kernels.process import ipython_folder
from rmi_agent.kernels.protocol.outputs import Outputs

from ..bench import Bench, Skipped
from ..measure import median, times


def launches(bench: Bench) -> tuple[Launch, Launch]:
    """A launch without a sandbox, and one in the best sandbox of this machine.

    Raises:
        Skipped: no sandbox works here.
    """
    own = {
        "IPYTHONDIR": str(ipython_folder(bench.folder / f"ipython-{bench.part}"))
    }  # as a server does it
    plain = Launch(bench.projects, bench.folder, env=bench.env(**own))
    policies = [Policy(tier, bench.projects, bench.folder / "homes") for tier in TIERS]
    reasons = {policy.tier: why_not(policy) for policy in policies}
    works = [policy for policy in policies if not reasons[policy.tier]]
    if not works:
        raise Skipped(f"no sandbox works: {reasons}")
    return plain, works[0].sandbox("bench", bench.folder).launch(plain)


async def cell(kernel: Kernel) -> None:
    """One warm cell, or the first."""
    await kernel.run_cell("1 + 1", Outputs(new_code_cell()))


async def start(kernel: Kernel) -> None:
    """From nothing to the first answer."""
    await kernel.start()
    await cell(kernel)


async def first_answers(
    kinds: Mapping[str, Launch], rounds: int, warm: int = 0
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Milliseconds to first answers and of `warm` cells after each, by kind and in turns."""
    starting: dict[str, list[float]] = {kind: [] for kind in kinds}
    answering: dict[str, list[float]] = {kind: [] for kind in kinds}
    try:
        for turn in range(1 + rounds):  # the first has to start the template
            kernels = {kind: Kernel(launch) for kind, launch in kinds.items()}
            for kind, kernel in kernels.items():
                first = await times(functools.partial(start, kernel))
                starting[kind] += first if turn else []
            for _ in range(4):
                for kind, kernel in kernels.items():
                    answering[kind] += await times(functools.partial(cell, kernel), warm // 4)
            for kernel in kernels.values():
                await kernel.close(graceful=False)
            await asyncio.sleep(0.3 if turn else 2)
    finally:
        TEMPLATES.close()
    return starting, answering


async def first_answer(bench: Bench) -> None:
    """A kernel's start to its first answer without the pool, in the sandbox, beside a stock one."""
    _, boxed = launches(bench)
    os.environ["JUPYTER_PATH"] = str(bench.folder)  # where the stock kernelspec is found
    stock = Launch(bench.folder, bench.folder, "stock", env=bench.env())
    found, _ = await first_answers({"stock": stock, "ours": boxed}, max(8, bench.rounds // 10))
    stock_ms = bench.values("kernel to first answer, stock, no sandbox, ms", found["stock"])
    ours_ms = bench.values("kernel to first answer, ours, sandbox on, ms", found["ours"])
    bench.target("kernel to first answer, unpooled, ms", ours_ms, 15)
    bench.target("that: times sooner than stock", stock_ms / ours_ms, 15, at_least=True)


async def sandbox(bench: Bench) -> None:
    """What the sandbox costs: first answers and warm cells with and without it."""
    plain, boxed = launches(bench)
    starting, answering = await first_answers(
        {"off": plain, "on": boxed}, max(8, bench.rounds // 15), warm=60
    )
    for what, found, bound in (
        ("first answer", starting, 1.3),
        ("warm cell without a server", answering, 1.1),
    ):
        for kind, values in found.items():
            bench.values(f"{what}, sandbox {kind}, ms", values)
        bench.target(f"{what}, sandbox on ÷ off", median(found["on"]) / median(found["off"]), bound)
