"""Shows figures of matplotlib that nothing else shows, whatever the backend.

Sent to the kernel as text, like `setup.py`; knows matplotlib and IPython's `display`.
"""

from __future__ import annotations

import importlib
import sys
import weakref
from typing import Any

from IPython.display import display

INLINE = "inline"  # in the names of the backend that shows figures after each cell by itself
LIVE = ("ipympl", "nbagg", "notebook", "webagg", "widget")  # backends that show them when made


class Figures:
    """Shows the open figures of a kernel when a cell or script has ended."""

    def __init__(self, shell: Any) -> None:
        self.shell = shell
        self.shown: weakref.WeakSet[Any] = weakref.WeakSet()

    def after_cell(self) -> None:
        """Show what a cell has drawn with a backend such as Agg.

        The figures stay open, as later cells may continue or save them, and are shown again only
        after a change.
        """
        self._show_open(skip=(INLINE, *LIVE))

    def after_script(self) -> None:
        """Show what a script has left open, and close it."""
        for manager in self._show_open(skip=LIVE):
            sys.modules["matplotlib.pyplot"].close(manager.canvas.figure)

    def _show_open(self, skip: tuple[str, ...]) -> list[Any]:
        helpers = sys.modules.get("matplotlib._pylab_helpers")
        if not hasattr(helpers, "Gcf") or "matplotlib.pyplot" not in sys.modules:
            return []
        managers = helpers.Gcf.get_all_fig_managers()  # type: ignore[union-attr]
        new = [each for each in managers if self._is_new(each.canvas)]
        if not new or any(name in str(backend()).lower() for name in skip):
            return []
        for manager in new:
            figure = manager.canvas.figure
            try:
                self._show(figure)
            except Exception:  # wrong mathematical text, say
                self.shell.showtraceback()
            self.shown.add(figure)
            figure.stale = False
        return new

    def _is_new(self, canvas: Any) -> bool:
        in_a_window = getattr(canvas, "required_interactive_framework", None)
        return not in_a_window and (canvas.figure not in self.shown or bool(canvas.figure.stale))

    def _show(self, figure: Any) -> None:
        pylabtools: Any = importlib.import_module("IPython.core.pylabtools")
        formatters = self.shell.display_formatter.formatters
        if not any(draws(formatters[kind], figure) for kind in formatters if "image/" in kind):
            pylabtools.select_figure_formats(self.shell, {"png"}, bbox_inches="tight")
        show: Any = display
        show(figure)


def draws(formatter: Any, figure: Any) -> bool:
    """Return whether an IPython formatter knows how to draw a figure."""
    try:
        formatter.lookup(figure)
    except KeyError:
        return False
    return True


def backend() -> Any:
    """Return the name of matplotlib's backend."""
    return sys.modules["matplotlib"].get_backend()
