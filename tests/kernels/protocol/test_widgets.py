"""What ipywidgets show, from their messages, which are as ipywidgets 8 sends them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell
from rmi_agent.kernels.protocol import Displays, Outputs
from rmi_agent.kernels.protocol.widgets import VIEW, VIEWS_MOST, WIDGETS_MOST, Widgets


def fold(outputs: Outputs, kind: str, **content: Any) -> None:
    outputs.fold({"header": {"msg_type": kind}, "content": content})


def opened(outputs: Outputs, name: str, model: str, **state: Any) -> None:
    data = {"state": {"_model_name": f"{model}Model", "layout": "IPY_MODEL_l", **state}}
    fold(outputs, "comm_open", comm_id=name, target_name="jupyter.widget", data=data)


def update(outputs: Outputs, name: str, **state: Any) -> None:
    fold(outputs, "comm_msg", comm_id=name, data={"method": "update", "state": state})


def show(outputs: Outputs, name: str) -> None:
    fold(outputs, "display_data", data={VIEW: {"model_id": name}, "text/plain": "at first"})


def shown(outputs: Outputs, place: int = -1) -> str | None:
    mine = outputs.settle().outputs[place].metadata.get("rmi_agent")
    return mine.widget if mine else None


def progress(outputs: Outputs) -> None:
    opened(outputs, "bar", "FloatProgress", value=0.0, min=0.0, max=5.0, bar_style="")
    opened(outputs, "left", "HTML", value="")
    opened(outputs, "right", "HTML", value="")
    opened(outputs, "box", "HBox", children=["IPY_MODEL_left", "IPY_MODEL_bar", "IPY_MODEL_right"])
    show(outputs, "box")
    update(outputs, "left", value="load:\u2007\u2007\u20070%")


def test_a_progress_bar_ends_at_its_end() -> None:
    outputs = Outputs(new_code_cell())
    progress(outputs)
    for done in range(6):
        update(outputs, "bar", value=float(done))
    update(outputs, "left", value="load:\u2007100%")
    update(outputs, "right", value="\u20075/5\u2007[00:00&lt;00:00,\u2007\u20076.61it/s]")
    assert shown(outputs) == "load: 100% |██████████| 5/5 [00:00<00:00, 6.61it/s]"
    assert outputs.cell.outputs[0].data["text/plain"] == "at first"


def test_a_bar_that_is_closed_shows_nothing() -> None:
    outputs = Outputs(new_code_cell())
    progress(outputs)
    fold(outputs, "comm_close", comm_id="box", data={})
    assert shown(outputs) == ""


@pytest.mark.parametrize(
    ("model", "state", "text"),
    [
        ("IntSlider", {"value": 3, "description": "n", "min": 0, "max": 9}, "n: 3"),
        ("IntProgress", {"value": 5, "description": "p", "min": 0, "max": 10}, "p |█████     | 5"),
        ("Button", {"description": "Go"}, "[Go]"),
        ("Text", {"value": ""}, "[Text]"),
        ("HTML", {"value": "<b>a</b> &amp; b"}, "a & b"),
        ("Dropdown", {"_options_labels": ["a", "b"], "index": 1, "description": "d"}, "d: b"),
        ("SelectMultiple", {"_options_labels": ["a", "b", "c"], "index": [0, 2]}, "a, c"),
        ("Checkbox", {"value": True, "description": "ok"}, "ok: True"),
        ("FloatProgress", {"value": "x", "min": None, "max": 1}, "x"),
        ("Dropdown", {"_options_labels": ["a"], "index": 10**30}, "[Dropdown]"),
    ],
)
def test_a_widget_shows_its_value(model: str, state: dict[str, Any], text: str) -> None:
    outputs = Outputs(new_code_cell())
    opened(outputs, "w", model, **state)
    show(outputs, "w")
    assert shown(outputs) == text


def test_a_later_cell_changes_what_an_earlier_one_shows() -> None:
    displays = Displays()
    first, second = Outputs(new_code_cell(), displays), Outputs(new_code_cell(), displays)
    opened(first, "w", "IntSlider", value=1)
    show(first, "w")
    assert shown(first) == "1"
    update(second, "w", value=2)
    second.settle()
    assert first.cell.outputs[0].metadata.rmi_agent.widget == "2"
    assert second.elsewhere == first.cell.outputs


def test_boxes_within_themselves_and_thousands_of_widgets_are_bounded() -> None:
    outputs = Outputs(new_code_cell())
    opened(outputs, "loop", "VBox", children=["IPY_MODEL_loop"] * 50)
    show(outputs, "loop")
    assert shown(outputs) == ""
    for number in range(WIDGETS_MOST + 10):
        opened(outputs, f"w{number}", "Text", value="x" * 1_000, children=None)
    widgets = outputs._displays.widgets
    assert len(widgets._states) == WIDGETS_MOST
    for _ in range(VIEWS_MOST + 10):
        show(outputs, f"w{WIDGETS_MOST}")
    assert len(widgets._views) == VIEWS_MOST and shown(outputs) == "x" * 300
    fold(outputs, "clear_output")
    assert not widgets._views


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "state",
                    "value",
                    "_model_name",
                    "children",
                    "index",
                    "min",
                    "max",
                    "_options_labels",
                    "comm_id",
                    "data",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None, database=None)
@given(st.lists(st.tuples(st.sampled_from(["comm_open", "comm_msg", "comm_close"]), ANYTHING)))
def test_no_message_is_too_strange(messages: list[tuple[str, Any]]) -> None:
    widgets = Widgets()
    for kind, state in messages:
        content = state if isinstance(state, dict) else {"data": {"state": state}}
        widgets.fold(kind, {"target_name": "jupyter.widget", **content})
        widgets.fold(
            kind, {"target_name": "jupyter.widget", "comm_id": "w", "data": {"state": state}}
        )
    widgets.text("w")
