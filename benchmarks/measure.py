"""Clocks, processor time, memory, medians: how the benchmarks measure.

Knows numbers and processes; nothing about servers or kernels.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

Call = Callable[[], Awaitable[Any]]


@dataclass(frozen=True)
class Figure:
    """What was measured; a single value has no 95th percentile."""

    part: str
    name: str  # with the unit
    median: float
    p95: float | None = None
    count: int = 1


@dataclass(frozen=True)
class Target:
    """A figure or ratio, and its bound."""

    part: str
    name: str
    value: float
    bound: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        return self.value >= self.bound if self.at_least else self.value <= self.bound


@dataclass(frozen=True)
class Split:
    """Processor seconds of a server's process, its templates, and its kernels."""

    server: float
    templates: float
    kernels: float


async def times(call: Call, rounds: int = 1) -> list[float]:
    """Milliseconds of each call."""
    found = []
    for _ in range(rounds):
        started = time.perf_counter()
        await call()
        found.append(1000 * (time.perf_counter() - started))
    return found


async def interleaved(
    calls: Mapping[str, Call],
    rounds: int,
    *,
    block: int = 1,
    pause: float = 0,
    skipped: int = 1,
    after: Call | None = None,
) -> dict[str, list[float]]:
    """Milliseconds of each call, by name, in turns: changes of a shared machine affect all alike.

    Args:
        calls: what is measured.
        rounds: calls of each, without the skipped ones.
        block: calls of one before the next one's turn.
        pause: seconds before each block.
        skipped: turns at the beginning that do not count.
        after: is awaited after each turn, outside the measured time.
    """
    found: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(skipped - (-rounds // block)):
        for name, call in calls.items():
            await asyncio.sleep(pause)
            values = await times(call, block)
            found[name] += values if turn >= skipped else []
        if after is not None:
            await after()
    return found


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def p95(values: Sequence[float]) -> float:
    return sorted(values)[int(0.95 * len(values))]


def processor(process: psutil.Process) -> float:
    """Processor seconds that this process itself has taken."""
    spent = process.cpu_times()
    return float(spent.user + spent.system)


def tree(process: psutil.Process) -> list[psutil.Process]:
    """A process and its descendants."""
    return [process, *process.children(recursive=True)]


def tree_times(process: psutil.Process) -> dict[psutil.Process, tuple[float, float]]:
    """Processor seconds of each process of a tree: its own, and of children that have ended."""
    found = {}
    for one in tree(process):
        with contextlib.suppress(psutil.NoSuchProcess):
            spent = one.cpu_times()
            ended = spent.children_user + spent.children_system
            found[one] = (spent.user + spent.system, ended)
    return found


def tree_processor(process: psutil.Process) -> float:
    """Processor seconds of a process and all that it has started, ended or not."""
    return sum(own + ended for own, ended in tree_times(process).values())


def split(
    server: psutil.Process,
    before: Mapping[psutil.Process, tuple[float, float]],
    after: Mapping[psutil.Process, tuple[float, float]],
) -> Split:
    """What a server's processes have taken between two `tree_times`, by kind.

    A template is known by the kernels that have ended as its children.
    """
    parts = {"server": 0.0, "templates": 0.0, "kernels": 0.0}
    for one, (own, ended) in after.items():
        own_before, ended_before = before.get(one, (0.0, 0.0))
        kind = "server" if one == server else "templates" if ended else "kernels"
        parts[kind] += own - own_before
        parts["kernels"] += ended - ended_before
    return Split(**parts)


def pss(processes: Sequence[psutil.Process]) -> list[float]:
    """Megabytes of each, with its share of the memory that it shares with others."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(process.memory_full_info().pss / 1e6)
    return found


async def quiet(*processes: psutil.Process, most: float = 20) -> None:
    """Wait until these trees compute nothing, such as spare kernels; `most` seconds at most."""
    ends, calm = time.monotonic() + most, 0
    taken = sum(tree_processor(process) for process in processes)
    while calm < 3 and time.monotonic() < ends:
        await asyncio.sleep(0.3)
        now = sum(tree_processor(process) for process in processes)
        calm = calm + 1 if now - taken < 0.025 else 0
        taken = now


async def busy(process: psutil.Process, seconds: float = 30) -> float:
    """The share of a core that a tree takes while it is left alone, in percent."""
    before, began = tree_processor(process), time.perf_counter()
    await asyncio.sleep(seconds)
    return 100 * (tree_processor(process) - before) / (time.perf_counter() - began)
