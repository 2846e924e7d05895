"""How the kernels of these tests are launched: forked from a template that imports nothing ahead."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from rmi_agent.kernels import Launch
from rmi_agent.kernels.fork import TEMPLATES
from rmi_agent.kernels.process import ipython_folder


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launch]:
    folder = tmp_path_factory.mktemp("run")
    env = {**os.environ, "IPYTHONDIR": str(ipython_folder(folder / "ipython"))}
    yield Launch(folder, folder, env=env, preload=())
    TEMPLATES.close(IPYTHONDIR=env["IPYTHONDIR"])
