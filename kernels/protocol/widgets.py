"""The state of a session's ipywidgets, as text: what a widget shows at the end of a run.

A widget's display contains only its id; its state comes in comm messages, before and after. Knows
those messages and the common models; bounded, since code may open any number of them.
"""

from __future__ import annotations

import html
import re
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from nbformat import NotebookNode

VIEW = "application/vnd.jupyter.widget-view+json"
TARGET = "jupyter.widget"
WIDGETS_MOST = 2_000  # max widgets of a session whose state is known, the latest ones
VIEWS_MOST = 100  # max displays of widgets that are kept up to date, the latest ones
TEXT_MOST = 300  # max characters of one value
LIST_MOST = 50  # max children or options of a widget
PARTS_MOST = 100  # max widgets in one text
DEEPEST = 6  # max levels of boxes in boxes
BAR = 10  # characters of a progress bar
KEPT = ("_model_name", "value", "description", "min", "max", "index", "children", "_options_labels")
NO_TEXT = ("LayoutModel", "StyleModel", "OutputModel", "LinkModel")  # ends of models' names
_TAG = re.compile(r"<[^<>]*>")


class Widgets:
    """The widgets of one session, and the outputs that show them."""

    def __init__(self) -> None:
        self._states: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._views: OrderedDict[int, tuple[str, NotebookNode]] = OrderedDict()

    def fold(self, kind: str, content: dict[str, Any]) -> None:
        """Fold in a `comm_open`, `comm_msg` or `comm_close` message of a widget."""
        name, data = str(content.get("comm_id"))[:100], content.get("data")
        if kind == "comm_close":
            if name in self._states:
                self._states[name] = {"closed": True}
            return
        state = data.get("state") if isinstance(data, dict) else None
        if not isinstance(state, dict):
            return
        if kind == "comm_open" and content.get("target_name") == TARGET:
            if not str(state.get("_model_name")).endswith(NO_TEXT):
                self._states[name] = kept(state)
                if len(self._states) > WIDGETS_MOST:
                    self._states.popitem(last=False)
        elif name in self._states:
            self._states[name].update(kept(state))

    def show(self, output: NotebookNode) -> None:
        """Keep an output up to date if it shows a widget."""
        view = output.data.get(VIEW)
        if isinstance(view, dict) and (name := str(view.get("model_id"))) in self._states:
            self._views[id(output)] = name, output
            if len(self._views) > VIEWS_MOST:
                self._views.popitem(last=False)

    def forget(self, outputs: Iterable[int]) -> None:
        """Forget outputs, by their ids: they are no longer in memory, or cleared."""
        for output in outputs:
            self._views.pop(output, None)

    def settle(self) -> list[NotebookNode]:
        """Write what widgets show into the metadata of their outputs; returns those changed."""
        changed = []
        for name, output in self._views.values():
            text = self.text(name)
            mine = output.metadata.get("rmi_agent")
            if text is not None and (not isinstance(mine, dict) or mine.get("widget") != text):
                output.metadata["rmi_agent"] = NotebookNode(widget=text)
                changed.append(output)
        return changed

    def text(self, name: str) -> str | None:
        """What a widget shows; None if that is not known, empty once it is closed."""
        if (state := self._states.get(name)) is None:
            return None
        return self._text(state, DEEPEST, [PARTS_MOST])

    def _text(
        self, state: dict[str, Any], levels: int, left: list[int], aside: bool = False
    ) -> str:
        if state.get("closed") or not levels or left[0] <= 0:
            return ""
        left[0] -= 1
        model = str(state.get("_model_name", "")).removesuffix("Model")
        children = state.get("children")
        if isinstance(children, list):
            names = [str(each).removeprefix("IPY_MODEL_") for each in children]
            in_line = model == "HBox"
            texts = [
                self._text(self._states.get(name, {}), levels - 1, left, in_line) for name in names
            ]
            return (" " if in_line else "\n").join(filter(None, texts))
        return alone(model, state, aside)


def alone(model: str, state: dict[str, Any], aside: bool) -> str:
    """A widget without children; a progress bar has no numbers if text stands beside it."""
    about, value = str(state.get("description") or ""), state.get("value")
    if model.endswith("Progress"):
        done = bar(value, state.get("min"), state.get("max"))
        return f"{about} {done}".strip() if aside else f"{about} {done} {value}".strip()
    labels, index = state.get("_options_labels"), state.get("index")
    if isinstance(labels, list) and index is not None:
        places = index if isinstance(index, list) else [index]
        chosen = [labels[at] for at in places if isinstance(at, int) and 0 <= at < len(labels)]
        value = ", ".join(map(str, chosen))
    if model in ("HTML", "HTMLMath"):
        value = html.unescape(_TAG.sub("", str(value)))
    if value is None or value == "":
        return f"[{about or model}]" if about or model else ""
    shown = " ".join(str(value).split())
    return f"{about}: {shown}" if about else shown


def bar(value: Any, low: Any, high: Any) -> str:
    """A progress bar in characters; empty if the numbers are none."""
    if not all(type(each) in (int, float) for each in (value, low, high)) or not high > low:
        return ""
    filled = int(BAR * min(1.0, max(0.0, (value - low) / (high - low))))
    return f"|{'█' * filled}{' ' * (BAR - filled)}|"


def kept(state: dict[str, Any]) -> dict[str, Any]:
    """The part of a widget's state that is shown, shortened."""
    return {name: shortened(state[name]) for name in KEPT if name in state}


def shortened(value: Any) -> Any:
    """A value with at most `TEXT_MOST` characters, or `LIST_MOST` such entries."""
    if isinstance(value, list):
        return [shortened(each) for each in value[:LIST_MOST] if not isinstance(each, list | dict)]
    if isinstance(value, bool | float) or value is None:
        return value
    if isinstance(value, int):
        return value if abs(value) < 10**15 else float("inf")
    return str(value)[:TEXT_MOST] if isinstance(value, str) else ""
