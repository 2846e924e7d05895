"""How a run on another instance's kernel is stopped; its kernel is a future here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from rmi_agent.kernels.cluster.adopted_run import AdoptedRun
from rmi_agent.kernels.kernel import Kernel, run_end
from rmi_agent.kernels.notebook import Recorder
from rmi_agent.kernels.protocol import Displays, Reply, new_cell

pytestmark = pytest.mark.anyio


class Adopted:
    """A run whose code ignores interrupts, and what its kernel was asked to do.

    Attributes:
        asked: "interrupt" and "kill", in order.
        ending: gives the reply of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []
        self.interrupted = asyncio.Event()
        self._attaching: asyncio.Future[Kernel] = asyncio.get_running_loop().create_future()
        self.run = AdoptedRun(
            "s",
            1,
            new_cell("loop()"),
            Recorder(folder, {}, "a"),
            Displays(),
            0.0,
            asyncio.ensure_future(self._attach()),
            self._asked("interrupt"),
            self._asked("kill"),
        )
        self.ending = asyncio.ensure_future(self.run.end())
        self.run.task = self.ending  # type: ignore[assignment]

    async def _attach(self) -> Kernel:
        return await self._attaching

    def _asked(self, what: str) -> Callable[[], asyncio.Future[None]]:
        async def ask() -> None:
            self.asked.append(what)
            self.interrupted.set()

        return lambda: asyncio.ensure_future(ask())

    async def reply(self) -> Reply:
        """The reply, once the run is over."""
        async with asyncio.timeout(5):
            return (await self.ending)[0]


async def test_a_kill_ends_the_kernel_without_an_interrupt(tmp_path: Path) -> None:
    adopted = Adopted(tmp_path)
    await adopted.run.kill("was killed by its user")
    reply = await adopted.reply()
    assert adopted.asked == ["kill"] and adopted.run.attaching.cancelled()
    assert (reply.status, reply.state) == ("dead", "lost")
    assert reply.actions == ("was killed by its user", "killed")


async def test_a_patient_interrupt_is_the_only_one_until_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_end, "GRACE", 0.0)
    adopted = Adopted(tmp_path)
    assert adopted.run.interrupt("was interrupted by its user", patient=True)
    async with asyncio.timeout(5):
        await adopted.interrupted.wait()
    for _ in range(10):
        await asyncio.sleep(0)
    assert adopted.asked == ["interrupt"] and not adopted.ending.done()
    await adopted.run.kill("was killed by its user")
    assert adopted.asked == ["interrupt", "kill"]
    assert (await adopted.reply()).actions == ("was killed by its user", "killed")


async def test_a_patient_interrupt_becomes_urgent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_end, "GRACE", 0.0)
    adopted = Adopted(tmp_path)
    assert adopted.run.interrupt("was interrupted by its user", patient=True)
    async with asyncio.timeout(5):
        await adopted.interrupted.wait()
    assert not adopted.run.interrupt("once more", patient=True)
    assert adopted.run.interrupt("its session is closed")
    assert not adopted.run.interrupt("its session is closed")
    assert (await adopted.reply()).state == "lost"
    assert adopted.asked == ["interrupt", "interrupt", "kill"]


async def test_code_that_ignores_two_interrupts_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_end, "GRACE", 0.0)
    adopted = Adopted(tmp_path)
    assert adopted.run.interrupt("stopped") and not adopted.run.interrupt("again")
    reply = await adopted.reply()
    assert adopted.asked == ["interrupt", "interrupt", "kill"]
    assert (reply.status, reply.state) == ("interrupted", "lost")
    await adopted.run.kill("too late")
    assert adopted.asked == ["interrupt", "interrupt", "kill"]
