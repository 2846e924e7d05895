"""`rmi-agent-mcp-server doctor`: what works on this machine, and what to do where it does not.

Tries everything for real, and changes nothing but the folders that a server makes too.
"""

from __future__ import annotations

import asyncio
import logging
import platform
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

from ..kernels import KernelError, Policy, Session, Sessions
from .isolation import chosen, described, left_open
from .settings import BadSettings, Settings, load

PACKAGES = ("rmi-agent-mcp-server", "fastmcp", "ipykernel", "jupyter-client")
SOON = 30.0  # seconds
EXPOSED = "Over HTTP none works: install bubblewrap, or start with --no-sandbox."


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: its name.
        ok: whether it is as it should be.
        told: what was found.
        todo: what to do, where there is something.
    """

    what: str
    ok: bool
    told: str
    todo: str = ""

    def __str__(self) -> str:
        todo = f"\n    {self.todo}" if self.todo else ""
        return f"{'✓' if self.ok else '✗'} {self.what}: {self.told}{todo}"


def examine() -> Iterator[Finding]:
    """Look at one thing after the other."""
    logging.disable(logging.WARNING)  # what they say is in the findings
    yield Finding("Python", True, f"{platform.python_version()} on {platform.platform()}")
    yield Finding("packages", True, ", ".join(f"{name} {version(name)}" for name in PACKAGES))
    try:
        settings = load()
        settings.make_folders()
    except BadSettings as error:
        yield Finding("settings", False, str(error))
        return
    yield Finding("projects", True, f"{settings.projects} (PYTHON_PROJECTS_DIR)")
    yield Finding("notebooks", True, f"{settings.notebooks} (NOTEBOOKS_DIR)")
    policies: dict[bool, Policy | None] = {}
    for exposed, name in ((False, "sandbox over stdio"), (True, "sandbox over HTTP")):
        try:
            policy = policies[exposed] = chosen(settings, exposed=exposed)
        except BadSettings as error:
            yield Finding(name, False, str(error), EXPOSED if exposed else "")
            continue
        told = described(policy) if policy else "none"
        held = policy is not None or settings.sandbox == "off"
        yield Finding(name, held, told, f"Left open: {left_open(policy)}.")
    if False in policies:
        yield from asyncio.run(of_kernels(settings, policies[False]))


async def of_kernels(settings: Settings, policy: Policy | None) -> list[Finding]:
    """Start a kernel, run a cell on it and interrupt one."""
    with tempfile.TemporaryDirectory() as folder:
        config = replace(settings.sessions({}), notebooks=Path(folder))
        try:
            async with Sessions(config, settings.launch(), warm=0, policy=policy) as sessions:
                return await of_session(await sessions.open())
        except KernelError as error:
            return [Finding("kernel", False, str(error))]


async def of_session(session: Session) -> list[Finding]:
    """Whether a session does what sessions do."""
    added = await session.submit_cell("6 * 7", SOON).task
    looped = await session.submit_cell("while True: pass", 0.2).task
    forked = session.forked
    return [
        Finding("kernel", added.reply.status == "ok", f"a cell took {added.elapsed * 1000:.0f} ms"),
        Finding(
            "interrupt",
            (looped.reply.status, looped.state) == ("timeout", "kept"),
            "a loop was stopped and the variables kept" if looped.state == "kept" else "killed",
        ),
        Finding(
            "fork server",
            forked,
            "fresh kernels are forked"
            if forked
            else "fresh kernels are started, which takes longer",
            "" if forked else "The log of a server says why (--log-level info).",
        ),
    ]


def as_data(findings: list[Finding]) -> list[dict[str, object]]:
    """For programs."""
    return [asdict(finding) for finding in findings]
