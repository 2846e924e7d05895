"""Cells that display, raise and ask for what is not JSON, or can't even be printed."""

from __future__ import annotations

import ast
import itertools
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rmi_agent.kernels import Config, Session, Sessions
from rmi_agent.kernels.inside import programs
from rmi_agent.kernels.inside.any_json import DEEPEST, REST, packed, sendable
from rmi_agent.kernels.inside.messages import ENDS, limit_messages

from tests.conftest import cell, launch, stream, value

pytestmark = pytest.mark.anyio

LIMIT = 1_000_000
SURROGATE = "\ud800"


class Odd(dict):  # type: ignore[type-arg]
    """A class of a cell's own that fails wherever it is asked."""

    def fail(self, *_: Any) -> Any:
        raise RuntimeError

    items = __len__ = __iter__ = fail


class Silent:
    def __repr__(self) -> str:
        raise SystemExit(3)


def circular() -> list[Any]:
    inside: list[Any] = [1]
    inside += [inside, {"again": inside}]
    return inside


def deep() -> list[Any]:
    nested: list[Any] = []
    for _ in range(50_000):
        nested = [nested]
    return nested


DEEP = deep()
JSON = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
ANYTHING = st.recursive(
    JSON
    | st.floats()
    | st.integers(min_value=10**5000, max_value=10**5001)
    | st.text(st.characters())
    | st.text(st.sampled_from("a\ud800\udfff"))
    | st.binary()
    | st.datetimes()
    | st.dates()
    | st.complex_numbers()
    | st.decimals()
    | st.fractions()
    | st.builds(object)
    | st.builds(Silent)
    | st.builds(circular)
    | st.builds(lambda: DEEP)
    | st.builds(lambda: Odd(a=1))
    | st.builds(lambda: iter([1, SURROGATE])),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(JSON | st.binary() | st.text(st.sampled_from("a\ud800\\")), inner)
        | st.builds(lambda each: iter([each]), inner)
    ),
    max_leaves=20,
)


@pytest.mark.slow
@given(ANYTHING)
def test_anything_can_be_sent(thing: Any) -> None:
    made, complete = sendable({"data": {"application/json": thing}, "metadata": {}}, LIMIT)
    assert json.loads(packed(made)) == made
    assert complete
    assert made["metadata"] == {}


@pytest.mark.slow
@given(st.recursive(JSON, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_what_is_json_stays_as_it_is(thing: Any) -> None:
    assert sendable(thing, LIMIT) == (thing, True)


@pytest.mark.parametrize(
    ("thing", "made"),
    [
        ("a\ud800b\udc80", "a\\ud800b\\udc80"),
        ({"\ud800": 1, "\\ud800": 2}, {"\\ud800": 1, "\\ud800 (2)": 2}),
        ({1: "a", "1": "b", None: "c"}, {"1": "a", "1 (2)": "b", "null": "c"}),
        ({(1, 2): "a", b"k": "b"}, {"(1, 2)": "a", "aw==": "b"}),
        ([float("nan"), float("-inf"), 1e300, 2**70], ["nan", "-inf", 1e300, 2**70]),
        ([b"\xff", memoryview(b"\xff")], ["/w==", "/w=="]),
        (circular(), [1, "[circular]", {"again": "[circular]"}]),
        ([[1]] * 2, [[1], [1]]),  # the same twice is not circular
        (Silent(), "<object repr() failed>"),
        (Odd(a=1), {"a": 1}),
        (range(3), [0, 1, 2]),
    ],
)
def test_what_is_not_json_becomes_like_it(thing: Any, made: Any) -> None:
    assert sendable(thing, LIMIT) == (made, True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "endless",
    [
        lambda: itertools.count(),
        lambda: itertools.repeat("x" * 1000),
        lambda: itertools.repeat(DEEP),
        lambda: ("y" * n for n in itertools.count()),
        lambda: itertools.repeat({SURROGATE: SURROGATE}),
    ],
)
def test_what_has_no_end_is_cut_and_leaves_room_for_the_rest(endless: Any) -> None:
    data = {"application/json": endless(), "text/plain": "here"}
    made, complete = sendable({"data": data, "metadata": {"a": 1}}, LIMIT // 10)
    assert not complete
    assert len(packed(made)) < 8 * LIMIT // 10
    assert made["data"]["text/plain"] == "here"
    assert made["metadata"] == {"a": 1}
    assert made["data"]["application/json"][-1] == REST


def test_depth_has_a_bound() -> None:
    made, _ = sendable(DEEP, LIMIT)
    depth = 0
    while isinstance(made, list):
        made, depth = made[0], depth + 1
    assert (made, depth) == ("[nested too deeply]", DEEPEST)


def test_texts_that_are_executed_in_one_namespace_share_no_name() -> None:
    names: list[str] = []
    for text in (*programs.EVERYWHERE, "file_receiver.py", "last_reply.py"):
        for node in ast.parse(Path(programs.__file__).with_name(text).read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.append(node.name)
            elif isinstance(node, ast.Assign):
                names += [ast.unparse(target) for target in node.targets]
    assert len(names) == len(set(names))


def sent(content: dict[str, Any]) -> dict[str, Any]:
    """What a limited session sends of a message's content."""

    class Sending:
        def send(self, stream: Any, kind: str, content: Any, *_: Any) -> Any:
            return content

    session = Sending()
    limit_messages(session, LIMIT)
    return session.send(None, "display_data", content)  # type: ignore[no-any-return]


def test_what_is_only_circular_is_not_counted_as_long() -> None:
    data = {"application/json": circular(), "text/plain": "here"}
    made = sent({"data": data, "metadata": {}})
    assert made["data"] == {
        "application/json": [1, "[circular]", {"again": "[circular]"}],
        "text/plain": "here",
    }
    assert "rmi_agent_omitted" not in made


def test_what_can_not_be_measured_is_sent_all_the_same() -> None:
    made = sent({"data": {"application/json": Odd(a=1), "text/plain": "t" * 5 * LIMIT}})
    assert made["data"]["application/json"] == {"a": 1}
    assert len(json.dumps(made)) < LIMIT + ENDS
    assert made["rmi_agent_omitted"] > LIMIT


@pytest.fixture(scope="module")
async def sessions(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sessions]:
    folder = tmp_path_factory.mktemp("o")
    limited = replace(launch(folder), output_limit=10 * LIMIT)
    async with Sessions(Config(folder / "notebooks", output_limit=10 * LIMIT), limited) as opened:
        yield opened


ERRORS = {
    "text": (r"raise ValueError('\ud800')", "ValueError", r"\ud800"),
    "bytes of a path": (r"raise OSError('\udc80')", "OSError", r"\udc80"),
    "cause": (
        "try: raise ValueError('\\ud800')\nexcept ValueError as e: raise KeyError('k') from e",
        "KeyError",
        "'k'",
    ),
    "note": (r"e = ValueError('v'); e.add_note('\ud800'); raise e", "ValueError", "v"),
    "file": (r"exec(compile('1/0', 'f\ud800', 'exec'))", "ZeroDivisionError", "division by zero"),
    "await": (
        "import asyncio\nawait asyncio.sleep(0)\nraise ValueError('\\ud800')",
        "ValueError",
        r"\ud800",
    ),
    "syntax": (
        r"raise SyntaxError('\ud800', ('f\ud800', 1, 1, 'x\ud800'))",
        "SyntaxError",
        r"\ud800 (f\ud800, line 1)",
    ),
    "str raises": (
        "class E(Exception):\n    def __str__(self): raise RuntimeError\nraise E()",
        "E",
        "<exception str() failed>",
    ),
    "str exits, awaited": (
        "import asyncio\nclass E(Exception):\n    def __str__(self): raise SystemExit(3)\n"
        "await asyncio.sleep(0)\nraise E()",
        "E",
        "<exception str() failed>",
    ),
    "str gives no text": (
        "class E(Exception):\n    def __str__(self): return 5\nraise E()",
        "E",
        "<exception str() failed>",
    ),
    "text of a class of its own": (
        "class S(str):\n    def __len__(self): raise RuntimeError\n"
        "class E(Exception):\n    def __str__(self): return S('hm')\nraise E()",
        "E",
        "hm",
    ),
    "name": (
        "class Meta(type):\n    @property\n    def __name__(cls): return '\\ud800'\n"
        "class E(Exception, metaclass=Meta): pass\nraise E('x')",
        "E",
        "x",
    ),
    "name raises, awaited": (
        "import asyncio\nclass Meta(type):\n    @property\n    def __name__(cls): raise RuntimeError\n"
        "class E(Exception, metaclass=Meta): pass\nawait asyncio.sleep(0)\nraise E('x')",
        "E",
        "x",
    ),
    "attributes that raise": (
        "class E(Exception):\n    def __getattribute__(self, name): raise RuntimeError\nraise E('x')",
        "E",
        "x",
    ),
    "neither true nor false": (
        "class E(Exception):\n    def __bool__(self): raise RuntimeError\nraise E('x')",
        "E",
        "x",
    ),
    "name of its metaclass": (
        "class Meta(type):\n    @property\n    def __name__(cls): return 'Nice'\n"
        "class E(Exception, metaclass=Meta): pass\nraise E('x')",
        "Nice",
        "x",
    ),
    "endless recursion": (
        "class E(Exception):\n    def __str__(self): return str(self)\nraise E()",
        "E",
        "<exception str() failed>",
    ),
    "traceback of its own": (
        "class E(Exception):\n    def _render_traceback_(self): return ['\\ud800', 5, object()]\n"
        "raise E('x')",
        "E",
        "x",
    ),
    "no traceback": (
        "class E(Exception):\n    def _render_traceback_(self): return 5\nraise E('x')",
        "E",
        "x",
    ),
    "in a display": (
        "class R:\n    def __repr__(self): raise ValueError('\\ud800')\nR()",
        "ValueError",
        r"\ud800",
    ),
    "stream that is none": ("import sys; sys.stdout = 5; 1/0", "ZeroDivisionError", None),
    "stream that exits": (
        "import asyncio, sys\nclass S:\n    def write(self, text): pass\n"
        "    def flush(self): raise SystemExit(5)\nawait asyncio.sleep(0)\nsys.stdout = S()\n1/0",
        "ZeroDivisionError",
        "division by zero",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
async def test_every_error_is_reported_once_with_its_name_and_text(
    name: str, session: Session
) -> None:
    code, ename, evalue = ERRORS[name]
    await cell(session, "kept = 5")
    run = await cell(session, code)
    assert (run.status, run.error_name, run.state) == ("error", ename, "kept")
    errors = [output for output in run.cell.outputs if output.output_type == "error"]
    assert [error.ename for error in errors] == [ename]
    assert evalue in (None, errors[0].evalue)
    assert errors[0].traceback
    assert value(await cell(session, "kept")) == "5"


async def test_a_group_of_errors_is_reported(session: Session) -> None:
    run = await cell(session, r"raise ExceptionGroup('\ud800', [ValueError('\ud801')])")
    assert run.error_name == "ExceptionGroup"
    assert r"ValueError: \ud801" in "\n".join(run.cell.outputs[0].traceback)


DISPLAYS = {
    "text": (r"display({'text/plain': '\ud800'}, raw=True)", r"\ud800"),
    "type": (r"display({'\ud800': 'x', 'text/plain': 'here'}, raw=True)", "here"),
    "repr": ("class R:\n    def __repr__(self): return '\\ud800'\nR()", r"\ud800"),
    "mimebundle": (
        "class B:\n    def _repr_mimebundle_(self, **_):\n"
        "        return {'text/plain': 'here', 'application/json': {1: object()}}, {'m': {1}}\nB()",
        "here",
    ),
    "metadata": (
        r"display({'text/plain': 'here'}, metadata={'a': '\ud800', (1,): object()}, raw=True)",
        "here",
    ),
} | {
    json_data: (
        f"display({{'application/json': {json_data}, 'text/plain': 'here'}}, raw=True)",
        "here",
    )
    for json_data in (
        "{(1, 2): float('nan'), None: b'x'}",
        "[object()]",
        "(lambda a: [a.append(a), a])([])",
        "10 ** 5000",
        "__import__('itertools').count()",
    )
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DISPLAYS)
async def test_what_is_not_json_is_displayed(name: str, session: Session) -> None:
    code, text = DISPLAYS[name]
    run = await cell(session, code)
    assert (run.status, run.state) == ("ok", "kept")
    assert [output.data["text/plain"] for output in run.cell.outputs] == [text]


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        (r"print('\ud800 here')", "\\ud800 here\n"),
        ("print('x' + '\\ud800' * 300_000)", "x" + "\\ud800" * 300_000 + "\n"),
    ],
    ids=["short", "in pieces"],
)
async def test_what_is_not_utf8_is_printed(code: str, shown: str, session: Session) -> None:
    run = await session.submit_cell(code, 30).task
    assert run.status == "ok"
    assert stream(run) == shown


@pytest.mark.parametrize(
    "code",
    [
        "get_ipython().payload_manager.write_payload({'source': '\\ud800', 'data': object()})",
        r"get_ipython().set_next_input('\ud800')",
        "import sys; sys.stderr = object()",
    ],
)
async def test_a_reply_can_always_be_sent(code: str, session: Session) -> None:
    assert (await cell(session, code)).status == "ok"
    assert value(await cell(session, "1 + 1")) == "2"


async def test_completions_and_inspections_of_odd_names_are_answered(session: Session) -> None:
    await cell(
        session,
        "class Keys:\n    def _ipython_key_completions_(self): return ['a\\ud800', object()]\n"
        "    'doc \\ud800'\nkeys = Keys()\nKeys.__doc__ = 'doc \\ud800'",
    )
    assert session.kernel is not None
    client = session.kernel.client
    for ask in (client.complete("keys['", 6), client.inspect("keys", 4)):
        while (reply := await client.get_shell_msg(timeout=20))["parent_header"]["msg_id"] != ask:
            pass
        assert reply["content"]["status"] == "ok", sys.version


async def test_code_shows_a_traceback_itself_as_ipython_lets_it(session: Session) -> None:
    code = "import sys\nip = get_ipython()\ntry: 1/0\nexcept Exception: "
    for call in ("exc_tuple=sys.exc_info()", "sys.exc_info()", ""):
        run = await cell(session, f"{code}ip.showtraceback({call})")
        assert run.status == "ok"
        (error,) = run.cell.outputs
        assert (error.ename, error.evalue) == ("ZeroDivisionError", "division by zero")
        assert "No traceback" not in "".join(error.traceback)
    run = await cell(session, "sys.last_type = sys.last_value = None; ip.showtraceback()")
    assert run.status == "ok"


async def test_a_truth_value_of_numpy_is_one(session: Session) -> None:
    pytest.importorskip("numpy")
    code = "import numpy\ndisplay({'application/json': {'yes': numpy.bool_(True)}}, raw=True)"
    (shown,) = (await cell(session, code)).cell.outputs
    assert shown.data["application/json"] == {"yes": True}
