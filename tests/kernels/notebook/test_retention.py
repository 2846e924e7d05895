"""Old records: deleted by what they themselves say, and nothing that may be somebody's own."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import nbformat
import pytest
from rmi_agent.kernels import Config
from rmi_agent.kernels.notebook import delete_notebook, outdated_notebooks, prune, recover
from rmi_agent.kernels.notebook.layout import SEPARATOR, TAIL, head_json
from rmi_agent.kernels.notebook.recovery import pid_file, unfinished, write_pid_file
from rmi_agent.kernels.session import prune as pruning

DAY = 86_400.0
NAME = "{:%Y%m%d-%H%M%S}-x-py-abc123.ipynb"


def ago(days: float) -> datetime:
    return datetime.now(UTC) - timedelta(days=days)


def ran(days: float, **record: Any) -> dict[str, Any]:
    """A code cell that ran some days ago."""
    return {
        "cell_type": "code",
        "id": f"c{days}".replace(".", "-"),
        "source": "x",
        "outputs": [],
        "execution_count": 1,
        "metadata": {
            "rmi_agent": {"status": "ok", **record},
            "execution": {"shell.execute_reply": ago(days).isoformat()},
        },
    }


def record(folder: Path, *cells: Any, name: str = "", **metadata: Any) -> Path:
    """A notebook of a session that began 100 days ago, as a recorder lays it out."""
    path = folder / (name or NAME.format(ago(100)))
    own = {"rmi_agent": {"session": "abc", "principal": "alice"}, **metadata}
    head = head_json({"metadata": own, "nbformat": 4, "nbformat_minor": 5})
    texts = ["{\n " + json.dumps(cell)[1:-1] + "\n}" for cell in cells]
    path.write_bytes(head + SEPARATOR.join(text.encode() for text in texts) + TAIL)
    return path


def saved(path: Path) -> Path:
    """The same after Jupyter has saved it."""
    nbformat.write(nbformat.read(path, as_version=4), path)
    return path


def test_a_record_goes_when_its_last_cell_is_old_whatever_the_files_times_say(
    tmp_path: Path,
) -> None:
    old = record(tmp_path, ran(95), ran(91))
    nbformat.validate(nbformat.read(old, as_version=4))
    used = record(tmp_path, ran(95), ran(3), name=NAME.format(ago(98)))
    os.utime(used, (0, 0))
    assert list(outdated_notebooks(tmp_path, 90 * DAY)) == [old]
    assert prune(tmp_path, 90 * DAY) == [old]
    assert list(tmp_path.iterdir()) == [used]
    assert prune(tmp_path, 90 * DAY) == []


def test_a_record_that_was_repaired_after_a_crash_goes_like_any_other(tmp_path: Path) -> None:
    running = {**ran(91), "metadata": {"execution": {"iopub.execute_input": ago(91).isoformat()}}}
    path = record(tmp_path, ran(95), MARKDOWN, running)
    pid_file(path).write_text('{"pid": 4194303, "started": 1}')
    assert prune(tmp_path, 90 * DAY) == []
    assert recover(tmp_path) == [path]
    repaired = nbformat.read(path, as_version=4)
    nbformat.validate(repaired)
    assert repaired.cells[2].metadata.rmi_agent.status == "interrupted"
    assert prune(tmp_path, 90 * DAY) == [path]


MARKDOWN = {"cell_type": "markdown", "id": "m", "source": "# by hand", "metadata": {}}
BY_HAND = {**ran(95), "id": "hand", "metadata": {}}


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: record(folder, ran(95), name="renamed.ipynb"),
        lambda folder: record(folder, ran(95), rmi_agent={}),
        lambda folder: record(folder, ran(95), rmi_agent={"title": "mine"}),
        lambda folder: record(folder, ran(95), rmi_agent=None),
        lambda folder: record(folder, ran(95), BY_HAND),
        lambda folder: record(folder, BY_HAND, ran(95)),
        lambda folder: saved(record(folder, ran(95))),
        lambda folder: record(folder),
        lambda folder: record(folder, MARKDOWN),
        lambda folder: record(folder, {**ran(95), "metadata": {"rmi_agent": {}}}),
        lambda folder: record(folder, ran(-1)),
        lambda folder: record(folder, ran(95), name=NAME.format(ago(1))),
        lambda folder: record(folder, "no cell"),
        lambda folder: record(folder, {"metadata": []}),
    ],
    ids=[
        *("renamed", "no session", "only a title", "null", "another cell", "another cell first"),
        *(
            "saved by Jupyter",
            "empty",
            "only text",
            "no time",
            "in the future",
            "new by its name",
            "text",
            "object",
        ),
    ],
)
def test_what_is_not_certainly_an_old_record_stays(tmp_path: Path, make: Any) -> None:
    made = make(tmp_path)
    assert prune(tmp_path, 90 * DAY) == []
    assert made.exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"[" * 100_000, b"\xff\n{\n{}", b"null"])
def test_broken_files_stay(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NAME.format(ago(100))).write_bytes(content)
    assert prune(tmp_path, 90 * DAY) == []


def test_open_sessions_and_what_a_crash_left_to_repair_stay(tmp_path: Path) -> None:
    path = record(tmp_path, ran(95))
    write_pid_file(path)
    assert prune(tmp_path, 90 * DAY) == []
    pid_file(path).write_text('{"pid": 4194303, "started": 1, "copy": "on another machine"}')
    assert prune(tmp_path, 90 * DAY) == [] and path.exists()


def test_links_folders_and_a_missing_folder_are_no_records(tmp_path: Path) -> None:
    real = record(tmp_path, ran(95), name="mine.ipynb")
    (tmp_path / NAME.format(ago(99))).symlink_to(real)
    (tmp_path / NAME.format(ago(98))).mkdir()
    assert prune(tmp_path, 90 * DAY) == [] == prune(tmp_path / "none", DAY)
    assert real.exists()


def test_several_processes_prune_one_folder(tmp_path: Path) -> None:
    for number in range(20):
        record(tmp_path, ran(95), name=NAME.format(ago(100)).replace("abc123", f"{number:06x}"))
    with_others = [threading.Thread(target=prune, args=(tmp_path, 90 * DAY)) for _ in range(4)]
    for each in with_others:
        each.start()
    for each in with_others:
        each.join()
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_ends_stops_the_search(tmp_path: Path) -> None:
    record(tmp_path, ran(95))
    stop = threading.Event()
    stop.set()
    assert prune(tmp_path, 90 * DAY, stop) == []


def test_deleting_takes_what_a_crash_left_beside_it_but_nothing_open(tmp_path: Path) -> None:
    path = record(tmp_path, ran(1))
    write_pid_file(path)
    assert not delete_notebook(path) and path.exists()
    pid_file(path).write_text("{}")
    unfinished(path).write_text("half")
    assert delete_notebook(path)
    path = record(tmp_path, ran(1))
    pid_file(path).write_text('{"pid": 4194303, "started": 1, "copy": "on another machine"}')
    assert not delete_notebook(path)
    for each in (path, pid_file(path)):
        each.unlink()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.anyio
async def test_a_running_server_deletes_old_records_if_it_is_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pruning, "FIRST", 0.0)
    caplog.set_level("INFO")
    path = record(tmp_path, ran(95))
    await pruning.prune_notebooks(Config(tmp_path))
    assert path.exists()
    task = asyncio.create_task(pruning.prune_notebooks(Config(tmp_path, keep=90 * DAY)))
    async with asyncio.timeout(10):
        while not caplog.records:
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait({task})
    assert not path.exists() and "Deleted 1 notebook of" in caplog.text
