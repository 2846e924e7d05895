"""A plugin of pytest: kernels of `rmi-forkserver` are forked if they can be, and counted."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

from rmi_agent.kernels.fork import provisioner

Provisioner = provisioner.ForkserverProvisioner
launch = Provisioner.launch_kernel
forked = 0
started: Counter[str] = Counter()  # by why they were not forked


async def launch_kernel(self: Provisioner, cmd: list[str], **kwargs: Any) -> Any:
    """Launch as usual, but wait for the template; the first kernels would be started otherwise.

    Some tests give kernels their own sys.path as PYTHONPATH; none is forked with a relative folder,
    such as the current one, or what stands there for packages that are installed to be edited.
    """
    global forked
    self.wait_for_template = True
    if paths := kwargs.get("env", {}).get("PYTHONPATH"):
        absolute = filter(os.path.isabs, paths.split(os.pathsep))
        kwargs["env"] = {**kwargs["env"], "PYTHONPATH": os.pathsep.join(absolute)}
    info = await launch(self, cmd, **kwargs)
    forked += isinstance(self.process, provisioner.ForkedProcess)
    return info


Provisioner.launch_kernel = launch_kernel  # type: ignore[method-assign]
provisioner.log_once = lambda why: started.update([why])


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how many kernels there were."""
    terminalreporter.write_line(f"rmi-forkserver has forked {forked} kernels")
    for why, number in started.most_common():
        terminalreporter.write_line(f"and started {number}: {why}")
