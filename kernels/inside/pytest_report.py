"""Counts what pytest's tests have given, and keeps the frames of the last that failed.

A plugin of pytest's that exists only in memory: the environment variable that names it is as before
once pytest has read it, so that no process of the tests looks for it. Sent to the kernel as text,
like `setup.py`; imports nothing of pytest's.
"""

from __future__ import annotations

import contextlib
import os
import sys
from types import ModuleType, TracebackType
from typing import Any

from .error_facts import write_facts
from .script_environment import restore_later
from .tracebacks import all_behind

PAYLOAD_OF_TESTS = "rmi_agent.tests"
PLUGIN = "rmi_agent_pytest"
PYTESTS = ("pytest", "pytest.__main__", "py.test")  # what `python -m` calls it
PLUGINS = "PYTEST_PLUGINS"
OWN_PACKAGES = ("_pytest", "pytest", "pluggy")  # whose frames come first in a traceback
HOOKS_OF_PYTEST = (
    "addoption",
    "exception_interact",
    "keyboard_interrupt",
    "sessionfinish",
)
FAILED = ("failed", "error")  # pytest's categories
MOST_FAILED = 100  # max node ids that are sent
LONGEST_ID = 1_000  # max characters of one


class PytestReport:
    """What a run of pytest in this process has given, if there is one.

    Attributes:
        stats: what pytest reports of tests, by its categories; None if it has none, as by
            `-p no:terminal`, or has not come to its end.
        error: the exception of the last that failed; with `frames`, its traceback.
    """

    def __init__(self, undo: contextlib.ExitStack, module: str | None) -> None:
        self.stats: dict[str, list[Any]] | None = None
        self.error: BaseException | None = None
        self.frames: TracebackType | None = None
        if module not in PYTESTS:
            return
        self.plugins = os.environ.get(PLUGINS)
        plugin = ModuleType(PLUGIN, "PYTEST_DONT_REWRITE")
        for name in HOOKS_OF_PYTEST:
            setattr(plugin, f"pytest_{name}", getattr(self, name))
        restore_later(undo, sys.modules, PLUGIN)
        restore_later(undo, os.environ, PLUGINS)
        sys.modules[PLUGIN] = plugin
        os.environ[PLUGINS] = ",".join(filter(None, (PLUGIN, self.plugins)))

    def addoption(self) -> None:
        """Hide the plugin from other processes; pytest calls this when it has imported it."""
        os.environ.pop(PLUGINS, None)
        if self.plugins is not None:
            os.environ[PLUGINS] = self.plugins

    def exception_interact(self, node: Any, call: Any) -> None:
        """Keep an exception that was not expected."""
        self.error = call.excinfo.value
        self.frames = frames_from(call.excinfo.tb, str(getattr(node, "path", "")))

    def keyboard_interrupt(self, excinfo: Any) -> None:
        """Keep the frames of a test that was stopped."""
        if excinfo.type is KeyboardInterrupt:  # pytest's own stops derive from it
            self.error, self.frames = excinfo.value, frames_from(excinfo.tb, "")

    def sessionfinish(self, session: Any) -> None:
        """Keep the results, to which other plugins may still add."""
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        stats = getattr(reporter, "stats", None)
        self.stats = stats if isinstance(stats, dict) else None

    def results(self, stats: dict[str, list[Any]]) -> dict[str, Any]:
        """Return the results as pytest's own summary counts them, and the ids of what failed."""
        counted = {
            name: [each for each in reports if getattr(each, "count_towards_summary", True)]
            for name, reports in stats.items()
            if name  # the others are setups and teardowns
        }
        failed = [each for name in FAILED for each in counted.get(name, ())]
        ids = (str(getattr(each, "nodeid", ""))[:LONGEST_ID] for each in failed[:MOST_FAILED])
        return {
            "counts": {name: len(reports) for name, reports in counted.items() if reports},
            "failed": list(dict.fromkeys(ids)),
        }

    def write(self, shell: Any) -> None:
        """Add the results to the current reply, and leave the last failure to debuggers."""
        if self.stats is not None:
            with contextlib.suppress(Exception):  # plugins may have put anything there
                facts = {"source": PAYLOAD_OF_TESTS, **self.results(self.stats)}
                shell.payload_manager.write_payload(facts)
        if (error := self.error) is not None:
            sys.last_type, sys.last_value, sys.last_traceback = type(error), error, self.frames
            sys.last_exc = error  # type: ignore[attr-defined]
            write_facts(shell, list(all_behind(error)))


def frames_from(frames: TracebackType | None, file: str) -> TracebackType | None:
    """Return a traceback without the frames above a test: those before the first of its file."""
    first = frames
    while first is not None and first.tb_frame.f_code.co_filename != file:
        first = first.tb_next
    while first is None and frames is not None and is_of_pytest(frames):
        frames = frames.tb_next
    return first or frames


def is_of_pytest(frames: TracebackType) -> bool:
    """Return whether a traceback begins with a frame of pytest's own."""
    module = str(frames.tb_frame.f_globals.get("__name__"))
    return module.partition(".")[0] in OWN_PACKAGES
