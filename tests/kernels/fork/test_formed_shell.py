"""Kernels of other programs have a shell that was formed before the fork, like one made after it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rmi_agent.kernels.fork import TEMPLATES

from tests.conftest import kernel_env
from tests.kernels.fork.plain import OURS, STOCK, is_forked, kernel

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows can't fork"),
]

FACTS = r"""
import os, re, sys
shell = get_ipython()
history = shell.history_manager
def traits(of):
    names = sorted(of.trait_names(config=True))
    return {name: re.sub("0x[0-9a-f]+", "", repr(getattr(of, name))) for name in names}
def facts():
    return {
        "type": [type(shell).__name__, type(shell.parent).__name__, type(shell.kernel).__name__],
        "same": [shell.parent is shell.kernel, shell.kernel.shell is shell, shell.user_ns is globals(),
                 shell.displayhook.shell is shell, shell.displayhook.session is shell.kernel.session,
                 sys.modules["__main__"] is shell.user_module, shell is type(shell).instance()],
        "traits": traits(shell),
        "history": [history.enabled, str(history.hist_file), history.using_thread,
                    history.save_thread.is_alive(), history.session_number > 0, In, len(Out), list(map(str, _dh))],
        "places": [shell.starting_dir, shell.ipython_dir, shell.profile_dir.location, os.getcwd()],
        "configurables": [type(each).__name__ for each in shell.configurables],
        "config": [name for name in sorted(shell.config) if shell.config[name]], "name": __name__, "count": shell.execution_count,
        "saved": [type(shell._orig_sys_module_state[name]).__name__ for name in ("stdout", "stderr")],
        "magics": {kind: sorted(found) for kind, found in shell.magics_manager.magics.items()},
        "events": {name: len(found) for name, found in shell.events.callbacks.items()},
        "environment": {n: os.environ[n] for n in ("TERM", "PAGER", "FORCE_COLOR", "MPLBACKEND")},
        "debugger": shell.InteractiveTB.debugger_cls.__qualname__,
        "names": sorted(globals()), "hidden": sorted(shell.user_ns_hidden),
    }
"""
LAST = """
class Last:
    def __del__(self):
        print("the end", file=open(PATH, "a"))
last = Last()
made = str(get_ipython().mktempfile())
"""


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    yield
    TEMPLATES.close()


def home(folder: Path, config: str = "") -> dict[str, str]:
    """An environment with an IPython folder of its own, maybe with a configuration."""
    profile = folder / "ipython" / "profile_default"
    (profile / "startup").mkdir(parents=True)
    if config:
        (profile / "ipython_kernel_config.py").write_text(config)
    return {**kernel_env(), "IPYTHONDIR": str(folder / "ipython")}


@pytest.mark.slow
async def test_all_that_can_be_asked_of_it_is_as_in_a_stock_kernel(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rmi_agent.kernels.fork")
    env = home(tmp_path)
    cwd = tmp_path / "work"
    cwd.mkdir()
    async with (
        kernel(STOCK, env=env, cwd=str(cwd)) as stock,
        kernel(OURS, env=env, cwd=str(cwd)) as forked,
    ):
        assert is_forked(forked.process)
        expected, found = [await each.value("facts()", FACTS) for each in (stock, forked)]
        for what, value in expected.items():
            assert found[what] == value, what
    assert "form their shells after the fork" not in caplog.text


@pytest.mark.slow
async def test_history_is_stored_and_the_end_is_a_shells(tmp_path: Path) -> None:
    env = home(tmp_path)
    async with kernel(env=env, cwd=str(tmp_path)) as forked:
        made = await forked.value("made", f"PATH = {str(tmp_path / 'end')!r}\n{LAST}")
        forked.client.shutdown()
        await forked.manager.provisioner.wait()  # type: ignore[union-attr]
    assert not Path(made).exists()
    async with kernel(env=env, cwd=str(tmp_path)) as second:
        told = "[line for _, _, line in get_ipython().history_manager.get_range(-1)]"
        assert "class Last" in (await second.value(told))[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        "c.InteractiveShellApp.exec_lines = ['configured = 5']",
        "c.InteractiveShell.ast_node_interactivity = 'none'; configured = 5\n"
        "c.IPKernelApp.exec_lines = ['configured = 5']",
    ],
)
async def test_a_configured_shell_is_made_after_the_fork(tmp_path: Path, config: str) -> None:
    env = home(tmp_path, f"import os; MADE = os.getpid()\n{config}")
    async with kernel(env=env, cwd=str(tmp_path)) as forked:
        assert is_forked(forked.process)
        code = "import json; print(json.dumps([configured, type(get_ipython()).instance() is get_ipython()]))"
        said: list[str] = []
        await forked.client.execute_interactive(
            code, timeout=60, output_hook=lambda m: said.append(m["content"].get("text", ""))
        )
        assert "".join(said) == "[5, true]\n"


@pytest.mark.slow
async def test_a_file_in_startup_runs_in_the_kernel(tmp_path: Path) -> None:
    env = home(tmp_path)
    startup = tmp_path / "ipython" / "profile_default" / "startup" / "00.py"
    startup.write_text("import os; who = os.getpid(); print('started')")
    async with kernel(env=env, cwd=str(tmp_path)) as forked:
        assert await forked.value("who") == forked.process.pid


@pytest.mark.slow
async def test_arguments_make_another_shell(tmp_path: Path) -> None:
    from jupyter_client.kernelspec import KernelSpecManager

    spec = KernelSpecManager().get_kernel_spec("python3")
    arguments = [*spec.argv, "--InteractiveShell.ast_node_interactivity=all"]
    async with kernel(env=home(tmp_path), extra_arguments=arguments[-1:]) as forked:
        assert is_forked(forked.process)
        shown = await forked.value("get_ipython().ast_node_interactivity")
        assert shown == "all"
