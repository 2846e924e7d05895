"""A recorded notebook as a terminal transcript."""

from __future__ import annotations

import base64
import io
import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rmi_agent.client.terminal import notebook, parse_notebook, show_recorded

PNG = b"\x89PNG\r\n\x1a\n and so on"


def code(source: str, *outputs: dict[str, Any], **record: Any) -> dict[str, Any]:
    return {
        "cell_type": "code",
        "metadata": {"rmi_agent": {"status": "ok", "elapsed": 0.25, **record}},
        "source": source.splitlines(keepends=True),
        "outputs": list(outputs),
    }


def stream(text: str, name: str = "stdout") -> dict[str, Any]:
    return {"output_type": "stream", "name": name, "text": text}


def data(**bundle: str) -> dict[str, Any]:
    named = {name.replace("_", "/"): value for name, value in bundle.items()}
    return {"output_type": "display_data", "data": named}


def transcript(*cells: dict[str, Any], **options: Any) -> str:
    text = json.dumps({"nbformat": 4, "metadata": {}, "cells": cells})
    before, sys.stdout = sys.stdout, io.StringIO()
    try:
        show_recorded(parse_notebook(text), **options)
        return sys.stdout.getvalue()
    finally:
        sys.stdout = before


def test_cells_are_shown_as_they_were_typed_with_what_they_wrote() -> None:
    text = transcript(
        code("x = 1\nfor i in [x]:\n    print(i)", stream("1\n"), stream("warned", "stderr")),
        {"cell_type": "markdown", "metadata": {}, "source": "# Title"},
        code(
            "plot()",
            data(text_plain="<Figure>", image_png=base64.b64encode(PNG).decode()),
            data(text_plain="42", text_html="<b>42</b>"),
            data(**{"application_vnd.plotly": "{}"}),
        ),
        code(""),
        code("bar()", stream("10%\r20%\r100%\r\nend\n")),
    )
    assert (
        text
        == f"""\
[1] 250 ms
>>> x = 1
... for i in [x]:
...     print(i)
1
warned

[2]
# Title

[3] 250 ms
>>> plot()
[picture: image/png, {len(PNG)} bytes]
42
[application/vnd.plotly: shown in a browser or Jupyter]

[5] 250 ms
>>> bar()
100%
end
"""
    )


def test_programs_are_shown_as_their_command_lines() -> None:
    cells = [
        code("import sys\nsys.exit(3)", path="/p/a b.py", args=["-x", "1 2"], exit_code=3),
        code("", module="pytest", args=["-q"], notes=["It was\nstopped."]),
        code("", path="C:\\p\\serve.py", background=True, status="timeout", elapsed=61),
        code("", path="x.py", status="interrupted", exit_code=-2),
    ]
    assert (
        transcript(*cells)
        == """\
[1] 250 ms
$ python 'a b.py' -x '1 2'
[exited with code 3]

[2] 250 ms
$ python -m pytest -q
[It was stopped.]

[3] timed out, 1 min
$ python serve.py &

[4] interrupted, 250 ms
$ python x.py
[exited with code 130]
"""
    )
    assert "\n    import sys\n    sys.exit(3)\n" in transcript(cells[0], code=True)


def test_nothing_in_a_notebook_is_obeyed_by_the_terminal() -> None:
    hostile = "\x1b]2;title\x07\x1b[2Ja\u202eb"
    cells = [
        code(hostile, stream(hostile), data(text_plain=hostile), status=hostile),
        code("", path=hostile, args=[hostile], notes=[hostile]),
        {"cell_type": "markdown", "source": hostile},
        code("", {"output_type": "error", "ename": hostile, "traceback": [hostile]}),
        code("", data(**{hostile: "x"})),
    ]
    text = transcript(*cells, code=True)
    assert not {"\x1b", "\x07", "\u202e"} & set(text)
    assert text.count("ab") >= 9


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"nbformat": 4}', '{"nbformat": 2}', "[" * 100_000, "\0"]
)
def test_what_is_no_notebook_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_notebook(text)


def test_an_old_notebook_is_converted() -> None:
    old = {
        "nbformat": 3,
        "nbformat_minor": 0,
        "metadata": {"name": ""},
        "worksheets": [
            {"cells": [{"cell_type": "code", "input": "1", "outputs": [], "language": "python"}]}
        ],
    }
    assert parse_notebook(json.dumps(old))["cells"][0]["source"] == "1"


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=4,
)
RECORD = ("status", "elapsed", "path", "module", "args", "notes", "exit_code", "background")


@pytest.mark.slow
@given(
    st.fixed_dictionaries(
        {
            "cell_type": st.sampled_from(["code", "markdown", None]),
            "source": JSON,
            "metadata": JSON
            | st.fixed_dictionaries(
                {"rmi_agent": st.dictionaries(st.sampled_from(RECORD), JSON), "execution": JSON}
            ),
            "outputs": JSON
            | st.lists(
                st.fixed_dictionaries(
                    {
                        "output_type": st.sampled_from(["stream", "error", "display_data"]),
                        "text": JSON,
                        "traceback": JSON,
                        "data": JSON | st.fixed_dictionaries({"image/png": JSON}),
                    }
                ),
                max_size=2,
            ),
        }
    )
)
def test_a_notebook_of_any_shape_is_shown(cell: dict[str, Any]) -> None:
    transcript(cell)


def test_a_picture_is_drawn_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(notebook, "is_terminal", lambda _: True)
    monkeypatch.setattr(notebook, "show_picture", drawn.append)
    show_recorded(parse_notebook(json.dumps(one_picture())))
    assert [picture.data for picture in drawn] == [PNG]


def one_picture() -> dict[str, Any]:
    output = data(image_png=base64.b64encode(PNG).decode())
    return {"nbformat": 4, "metadata": {}, "cells": [code("plot()", output)]}
