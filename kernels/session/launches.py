"""How each principal's kernels are launched, and the removal of what was made for them.

Knows launches, sandboxes and templates; no kernels.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from ..fork import TEMPLATES
from ..process import Launch, ipython_folder
from ..sandbox import Policy
from ..supervision import Supervisor

TEMPLATE_INTERVAL = 60.0  # seconds between checks of templates


class Launches:
    """The launches of all principals' kernels.

    Args:
        launch: how kernels start, the same for all principals.
        runtime: the server's private folder for sockets.
        mark: prefix of the marks of all kernels.
        policy: how each principal's kernels are sandboxed; None means no sandbox.
        supervisor: owns the tasks that remove folders.
    """

    def __init__(
        self,
        launch: Launch,
        runtime: Path,
        mark: str,
        policy: Policy | None,
        supervisor: Supervisor,
    ) -> None:
        profile = str(ipython_folder(runtime / "ipython"))
        self._launch = replace(
            launch,
            runtime=runtime,
            mark=mark,
            env={**launch.env, "IPYTHONDIR": profile},
            # Inside the runtime folder, so that a killed template's files are removed with it.
            template_overrides={"TMPDIR": tempfile.mkdtemp(dir=runtime)},
        )
        self._runtime, self._policy, self._supervisor = runtime, policy, supervisor
        self._profiles: set[str] = set()  # IPython folders of all kernels possibly started

    def of(self, principal: str) -> Launch:
        """How a principal's kernels start."""
        launch = self._launch
        if self._policy is not None:
            launch = self._policy.sandbox(principal, self._runtime).launch(launch)
        self._profiles.add(launch.env["IPYTHONDIR"])
        return launch

    def forget(self, launch: Launch) -> None:
        """Remove in the background what was made for a launch, once no kernel of it is left."""
        profile = launch.env["IPYTHONDIR"]
        self._profiles.discard(profile)

        def remove() -> None:
            TEMPLATES.close(IPYTHONDIR=profile)
            if self._policy is None:
                return
            folder = launch.runtime.parent  # stays, so that its name is not reused
            tmp = self._policy.homes / "tmp" / folder.parent.name / folder.name
            (folder / "x").chmod(0o700)
            for each in (*folder.iterdir(), tmp):
                shutil.rmtree(each, ignore_errors=True)
                each.unlink(missing_ok=True) if each.is_file() else None

        self._supervisor.start(asyncio.to_thread(remove), "removing a sandbox")

    async def watch(self) -> None:
        """Retire templates that nobody has used for long, or that take too much memory."""
        while True:
            await asyncio.sleep(TEMPLATE_INTERVAL)
            if TEMPLATES.has_extra:
                await asyncio.to_thread(TEMPLATES.retire_unused)

    def close(self) -> None:
        """Close the templates of all kernels, which are found by their IPython profiles."""
        for profile in self._profiles:
            TEMPLATES.close(IPYTHONDIR=profile)
