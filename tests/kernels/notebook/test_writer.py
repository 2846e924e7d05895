"""Notebooks: valid at all times, opened by the real tools, at a constant cost."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from nbformat.sign import NotebookNotary
from nbformat.v4 import new_code_cell, new_output
from rmi_agent.kernels import Script, Session
from rmi_agent.kernels.notebook import Recorder, recover
from rmi_agent.kernels.notebook.cell_json import STREAM_CAP, cell_json
from rmi_agent.kernels.notebook.file_names import slug
from rmi_agent.kernels.notebook.layout import TAIL
from rmi_agent.kernels.notebook.recovery import pid_file

from tests.conftest import cell, stream

pytestmark = pytest.mark.anyio
METADATA = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}


def printed(text: str, source: str = "print()") -> NotebookNode:
    made = new_code_cell(source)
    made.outputs = [new_output("stream", text=text)]
    return made


def read(recorder: Recorder) -> NotebookNode:
    assert recorder.path is not None
    notebook = nbformat.read(recorder.path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def test_the_file_is_a_valid_notebook_after_every_single_write(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, METADATA)
    for number in range(5):
        made = new_code_cell(f"print({number})")
        recorder.start(made, "title")
        assert len(read(recorder).cells) == number + 1
        made.outputs = [new_output("stream", text="é✓" * number * 10)]
        recorder.finish(made, "title")
        assert read(recorder).cells[number].outputs[0].text == "é✓" * number * 10
    assert (read(recorder).nbformat, read(recorder).nbformat_minor) == (4, 5)
    recorder.close()
    assert list(tmp_path.iterdir()) == [recorder.path]


def test_no_line_within_a_recorded_cell_begins_with_a_brace() -> None:
    made = printed("{\n{\n", "{\n}")
    made.outputs.append(new_output("display_data", {"application/json": {"a": [{"b": {}}]}}))
    made.metadata["rmi_agent"] = NotebookNode(notes=["{\n"], path="}")
    text = cell_json(made)
    assert [line[:1] for line in text.splitlines()[1:-1]] == [b" "] * (text.count(b"\n") - 1)
    assert json.loads(text) == made


def test_a_finished_cell_that_is_shorter_than_the_started_one_leaves_no_rest(
    tmp_path: Path,
) -> None:
    recorder = Recorder(tmp_path, METADATA)
    made = new_code_cell("x" * 1000)
    recorder.start(made, "t")
    made.source = "x"
    recorder.finish(made, "t")
    recorder.start(new_code_cell("y"), "t")
    assert [c.source for c in read(recorder).cells] == ["x", "y"]


def test_names_sort_by_time_and_say_what_ran(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, METADATA)
    recorder.start(new_code_cell(""), "import pandas as pd\nmore")
    assert recorder.path is not None
    stamp, rest = recorder.path.name[:15], recorder.path.name[16:]
    assert stamp.replace("-", "").isdigit()
    assert rest.startswith("import-pandas-as-pd-")


@pytest.mark.parametrize(
    ("title", "words"),
    [
        ("", "cell"),
        ("\n\n!!!", "cell"),
        ("../../etc", "etc"),
        ("é = 1", "é-1"),
        ("a" * 99, "a" * 40),
    ],
)
def test_a_slug_is_always_a_harmless_name(title: str, words: str) -> None:
    assert slug(title) == words


def test_a_file_that_another_program_changed_is_left_alone(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, METADATA)
    recorder.start(printed("a"), "t")
    recorder.finish(printed("a"), "t")
    first = recorder.path
    assert first is not None
    notebook = nbformat.read(first, as_version=4)
    notebook.cells.append(new_code_cell("# by hand"))
    nbformat.write(notebook, first)
    theirs = first.read_bytes()
    recorder.start(printed("b"), "t")
    recorder.finish(printed("b"), "t")
    assert first.read_bytes() == theirs
    assert recorder.path != first
    assert [c.outputs[0].text for c in read(recorder).cells] == ["b"]


def test_a_folder_that_cannot_be_written_loses_no_cell_once_it_can(tmp_path: Path) -> None:
    folder = tmp_path / "notebooks"
    folder.write_text("in the way")
    recorder = Recorder(folder, METADATA)
    recorder.start(printed("a"), "t")
    recorder.finish(printed("a"), "t")
    assert recorder.problem
    folder.unlink()
    recorder.start(printed("b"), "t")
    recorder.finish(printed("b"), "t")
    assert recorder.problem is None
    assert [c.outputs[0].text for c in read(recorder).cells] == ["a", "b"]


def test_huge_outputs_are_cut_and_say_so(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, METADATA)
    recorder.finish(printed("a" * 3 * STREAM_CAP), "t")
    text = read(recorder).cells[0].outputs[0].text
    assert len(text) < STREAM_CAP + 100
    assert "2,000,000 characters not recorded" in text


def test_writing_a_cell_does_not_read_or_write_the_earlier_ones(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, METADATA)
    for number in range(50):
        recorder.finish(printed("x" * 10_000), "t")
        assert recorder.path is not None
        if number == 10:
            early = recorder.path.read_bytes()[:100_000]
    assert recorder.path.read_bytes()[:100_000] == early  # type: ignore[union-attr]
    assert len(read(recorder).cells) == 50


async def test_a_session_is_on_record_as_jupyter_would_have_it(
    session: Session, tmp_path: Path
) -> None:
    await cell(session, "x = 6\nprint('hi')\nx")
    path = tmp_path.resolve() / "main.py"
    path.write_text("import sys\nprint(sys.argv[1])\nsys.exit(3)")
    await session.submit_program(Script(path, path.read_bytes(), ("arg",))).task
    await cell(session, "1 / 0")
    notebook = read(session.recorder)
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.metadata.language_info.name == "python"
    typed, file, failed = notebook.cells
    assert (typed.source, typed.execution_count) == ("x = 6\nprint('hi')\nx", 1)
    assert set(typed.metadata.execution) == {
        "iopub.status.busy",
        "iopub.execute_input",
        "shell.execute_reply",
        "iopub.status.idle",
    }
    facts = file.metadata.rmi_agent
    assert (facts.path, facts.args, facts.exit_code) == (str(path), ["arg"], 3)
    assert len(facts.sha256) == 64
    assert file.source == path.read_text()
    assert failed.outputs[0].ename == "ZeroDivisionError"


async def test_a_run_is_on_disk_before_it_executes(session: Session) -> None:
    await cell(session, "print('warm')")
    path = session.recorder.path
    assert path is not None
    run = await cell(session, f"open({str(path)!r}).read().count('being-run')  # being-run")
    assert run.cell.outputs[0].data["text/plain"] == "2"


@pytest.mark.slow
async def test_nbconvert_and_nbclient_take_the_notebook(session: Session, tmp_path: Path) -> None:
    await cell(session, "x = 6\nprint('hello')")
    await cell(session, "import matplotlib.pyplot as plt\nplt.plot([1, 2]);", timeout=60)
    await cell(session, "x * 7")
    html, _ = HTMLExporter().from_notebook_node(read(session.recorder))
    assert "hello" in html
    assert "data:image/png;base64" in html
    again = read(session.recorder)
    await NotebookClient(again, timeout=60).async_execute()
    assert again.cells[2].outputs[0].data["text/plain"] == "42"


async def test_the_notebook_is_trusted_after_the_session(session: Session) -> None:
    await cell(session, "1")
    await session.close()
    with NotebookNotary() as notary:
        async with asyncio.timeout(10):
            while not notary.check_signature(read(session.recorder)):
                await asyncio.sleep(0.02)


@pytest.mark.slow
async def test_the_command_lines_of_jupyter_take_the_notebook(
    session: Session, tmp_path: Path
) -> None:
    await cell(session, "print('from the record')")
    source = tmp_path / "session.ipynb"
    source.write_bytes(session.recorder.path.read_bytes())  # type: ignore[union-attr]
    for arguments in (
        ["nbconvert", "--to", "html", "--log-level=WARN"],
        ["nbclient.cli"],  # what `jupyter execute` runs
    ):
        module, *options = arguments
        command = [sys.executable, "-m", module, *options, str(source)]
        if module == "nbclient.cli":
            command = [sys.executable, "-c", "from nbclient.cli import main; main()", str(source)]
        done = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, timeout=60, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        assert "Error" not in done.stderr
    assert "from the record" in (tmp_path / "session.html").read_text("utf-8")


async def test_late_amendments_keep_the_file_valid(session: Session) -> None:
    first = await cell(session, "handle = display('before', display_id=True)")
    await cell(session, "handle.update('after')")
    await cell(session, "print('third')")
    cells = read(session.recorder).cells
    assert cells[0].id == first.cell.id
    assert cells[0].outputs[0].data["text/plain"] == "'after'"
    assert stream(first) == ""
    assert cells[2].outputs[0].text == "third\n"
    assert json.loads(session.recorder.path.read_text("utf-8"))["cells"][2]  # type: ignore[union-attr]


async def test_an_amended_cell_that_is_longer_or_shorter_leaves_the_others_as_they_are(
    tmp_path: Path,
) -> None:
    recorder = Recorder(tmp_path, METADATA)
    cells = [printed(f"é{number}" * 50) for number in range(4)]
    for each in cells:
        recorder.finish(each, "t")
    recorder.start(begun := printed("begun"), "t")
    for text in ("longer " * 500, "short", "✓"):
        for each in cells:
            each.outputs[0].text = text
            await recorder.amend([each])
            read(recorder)
    await recorder.amend([new_code_cell("of no record")])
    recorder.finish(begun, "t")
    recorder.finish(printed("next"), "t")
    assert [c.outputs[0].text for c in read(recorder).cells] == ["✓"] * 4 + ["begun", "next"]


async def test_many_cells_are_amended_in_one_pass_outside_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(tmp_path, METADATA)
    cells = [printed(f"é{number}" * 50) for number in range(6)]
    for each in cells:
        recorder.finish(each, "t")
    recorder.start(begun := printed("begun"), "t")
    threads: list[threading.Thread] = []
    replace = Path.replace

    def seen(new: Path, old: Path) -> Path:
        threads.append(threading.current_thread())
        return replace(new, old)

    monkeypatch.setattr(Path, "replace", seen)
    wanted = ["longer " * 500, "é1" * 50, "short", "✓", "", "the last " * 99]
    for each, text in zip(cells, wanted, strict=True):
        each.outputs[0].text = text
    await recorder.amend(reversed(cells))
    (thread,) = threads
    assert thread is not threading.main_thread()
    read(recorder)
    cells[3].outputs[0].text = wanted[3] = "again"
    rewriting = asyncio.create_task(recorder.amend([cells[3]]))
    await asyncio.sleep(0)
    rewriting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await rewriting
    recorder.finish(begun, "t")
    recorder.finish(printed("next"), "t")
    assert [c.outputs[0].text for c in read(recorder).cells] == [*wanted, "begun", "next"]


async def test_a_notebook_that_never_rests_is_read_up_to_its_last_finished_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder, loop = Recorder(tmp_path, METADATA), asyncio.get_running_loop()
    recorder.finish(printed("over"), "t")
    whole = Path.read_bytes

    def torn(path: Path) -> bytes:
        assert threading.current_thread() is not threading.main_thread()
        loop.call_soon_threadsafe(recorder.start, printed("runs"), "t")  # before we are awaited
        return whole(path)

    def on_the_loop(*_: object) -> str:
        raise AssertionError

    monkeypatch.setattr(Path, "read_bytes", torn)
    monkeypatch.setattr(Path, "read_text", on_the_loop)
    text = await recorder.text()
    assert text is not None
    assert [c.outputs[0].text for c in nbformat.reads(text, as_version=4).cells] == ["over"]


async def test_a_notebook_that_is_read_meanwhile_is_whole(tmp_path: Path) -> None:
    recorder, reads = Recorder(tmp_path, METADATA), 0
    assert await recorder.text() is None
    recorder.finish(printed("x" * 900_000), "t")

    async def write() -> None:
        for number in range(100):
            recorder.start(made := printed("y" * 100 * (number % 7)), "t")
            await asyncio.sleep(0.002)
            recorder.finish(made, "t")

    writing = asyncio.create_task(write())
    while not writing.done():
        if (text := await recorder.text()) is not None:
            json.loads(text)
            reads += 1
    assert reads
    assert json.loads(await recorder.text() or "")["cells"]


@pytest.mark.slow
@pytest.mark.parametrize("before", [0, 2])
def test_a_write_that_is_cut_anywhere_loses_no_complete_cell(tmp_path: Path, before: int) -> None:
    recorder = Recorder(tmp_path, METADATA)
    for number in range(before):
        recorder.finish(printed(f"é{number}"), "t")
    made = new_code_cell("print() # é\n" * 30)
    recorder.start(made, "t")
    path = recorder.path
    assert path is not None
    started = path.read_bytes()
    made.outputs = [new_output("stream", text="✓\n{\n" * 20)]
    made.metadata["rmi_agent"] = {"status": "ok"}
    recorder.finish(made, "t")
    finished = path.read_bytes()
    complete = finished.rindex(TAIL)
    ours = pid_file(path).read_text()
    for end in range(started.rindex(b"\n{"), len(finished), 2):
        path.write_bytes(finished[:end] + started[end:])
        pid_file(path).write_text(ours.replace('"pid": ', '"pid": -'))
        assert recover(tmp_path) == [path]
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        assert [c.outputs[0].text for c in notebook.cells[:before]] == ["é0", "é1"][:before]
        assert end < complete or notebook.cells[before] == made
        assert all(cell.source == made.source for cell in notebook.cells[before:])
        assert all(cell.metadata.rmi_agent.status for cell in notebook.cells[before:])
    assert list(tmp_path.iterdir()) == [path]


def test_a_start_that_is_cut_anywhere_leaves_the_cells_before_it(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, METADATA)
    done = printed("é")
    done.metadata["rmi_agent"] = {"status": "ok"}
    recorder.finish(done, "t")
    path = recorder.path
    assert path is not None
    before = path.read_bytes()
    made = new_code_cell("print() # é")
    recorder.start(made, "t")
    started = path.read_bytes()
    ours = pid_file(path).read_text()
    for end in range(len(before) - len(TAIL), len(started) + 1):
        path.write_bytes(started[:end] + before[end:])
        pid_file(path).write_text(ours.replace('"pid": ', '"pid": -'))
        assert recover(tmp_path) == [path]
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        assert notebook.cells[0] == done
        assert [cell.source for cell in notebook.cells[1:]] in ([], [made.source])
    assert list(tmp_path.iterdir()) == [path]


def test_a_large_structure_is_recorded_in_a_line_and_stays_valid(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, METADATA)
    made = new_code_cell("")
    made.outputs = [new_output("display_data", data={"application/json": list(range(100_000))})]
    recorder.finish(made, "t")
    assert len(read(recorder).cells[0].outputs[0].data["application/json"]) == 100_000
    assert recorder.path is not None
    assert recorder.path.read_text("utf-8").count("\n") < 100


async def test_only_the_latest_cells_are_amended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rmi_agent.kernels.notebook.notebook_file.PLACES_KEPT", 2)
    recorder, cells = Recorder(tmp_path, METADATA), [printed(str(number)) for number in range(5)]
    for made in cells:
        recorder.finish(made, "title")
    for made in cells:
        made.outputs[0].text = "amended"
    await recorder.amend(cells)
    recorder.finish(printed("5"), "title")
    texts = [each.outputs[0].text for each in read(recorder).cells]
    assert texts == ["0", "1", "2", "amended", "amended", "5"]
