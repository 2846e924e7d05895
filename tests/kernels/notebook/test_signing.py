"""Signatures: those that Jupyter computes, made by one thread that nobody waits for."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.sign import NotebookNotary
from nbformat.v4 import new_code_cell, new_output
from rmi_agent.kernels.notebook import Recorder, Signer, signature_store
from rmi_agent.kernels.notebook.signature_store import Store

pytestmark = pytest.mark.anyio
METADATA = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
RICH = {
    "text/plain": ["a list\n", "of é✓ lines"],
    "application/json": {"b": [1, 2.5, 1e300, None, True, {"π": []}], "a": float("nan")},
    "image/png": "iVBORw0KGgo=",
}


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "jupyter"
    folder.mkdir()
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(folder))
    return folder


@pytest.fixture
async def signer() -> AsyncIterator[Signer]:
    async with Signer() as opened:
        yield opened


def finished(number: int, **more: Any) -> NotebookNode:
    made = new_code_cell(f"print({number})\n# é✓")
    made.outputs = [new_output("stream", text="é✓\n" * number), new_output("display_data", RICH)]
    made.metadata["rmi_agent"] = NotebookNode(elapsed=0.125, notes=["n"], **more)
    made.execution_count = number
    return made


def is_trusted(recorder: Recorder) -> bool:
    """Whether Jupyter, which starts anew, trusts the notebook."""
    assert recorder.path is not None
    with NotebookNotary() as notary:
        return notary.check_signature(nbformat.read(recorder.path, as_version=4))


async def until_trusted(recorder: Recorder) -> None:
    async with asyncio.timeout(10):
        while not is_trusted(recorder):
            await asyncio.sleep(0.02)


async def test_the_signature_is_the_one_that_jupyter_computes(
    signer: Signer, tmp_path: Path
) -> None:
    recorder = Recorder(tmp_path, METADATA)
    for number in range(4):
        made = finished(number)
        recorder.start(new_code_cell(made.source, id=made.id), "title")
        recorder.sign(signer)
        await until_trusted(recorder)
        recorder.finish(made, "title")
        assert not is_trusted(recorder)
        recorder.sign(signer)
        await until_trusted(recorder)


async def test_a_notebook_is_read_on_from_where_it_was_signed(
    signer: Signer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder, starts = Recorder(tmp_path, METADATA), []
    cells_in = signature_store.cells_in

    def noted(path: Path, start: int) -> Any:
        starts.append(start)
        return cells_in(path, start)

    monkeypatch.setattr(signature_store, "cells_in", noted)
    for number in range(3):
        recorder.finish(finished(number), "title")
        recorder.sign(signer)
        await until_trusted(recorder)
    assert starts[0] == 0
    assert 0 < starts[1] < starts[2]


async def test_a_notebook_with_an_amended_cell_is_signed_anew(
    signer: Signer, tmp_path: Path
) -> None:
    recorder, cells = Recorder(tmp_path, METADATA), [finished(number) for number in range(3)]
    for made in cells:
        recorder.finish(made, "title")
    recorder.sign(signer)
    await until_trusted(recorder)
    cells[0].outputs[0].text = "amended"
    await recorder.amend(cells[:1])
    assert not is_trusted(recorder)
    recorder.sign(signer)
    await until_trusted(recorder)


async def test_what_is_pending_is_signed_at_the_end(tmp_path: Path) -> None:
    recorders = [Recorder(tmp_path, METADATA) for _ in range(20)]
    async with Signer() as signer:
        for number, recorder in enumerate(recorders):
            recorder.finish(finished(number), "title")
            recorder.sign(signer)
            recorder.close()
    assert all(map(is_trusted, recorders))
    assert "signing" not in " ".join(thread.name for thread in threading.enumerate())


async def test_a_notebook_that_another_program_has_changed_is_not_signed(tmp_path: Path) -> None:
    changed, removed = Recorder(tmp_path, METADATA), Recorder(tmp_path, METADATA)
    async with Signer() as signer:
        for recorder in (changed, removed):
            recorder.finish(finished(1), "title")
            recorder.sign(signer)
        assert changed.path is not None
        assert removed.path is not None
        changed.path.write_text(changed.path.read_text("utf-8").replace("print", "open"), "utf-8")
        removed.path.unlink()
    assert not is_trusted(changed)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["locked", "no folder", "no key"])
async def test_a_store_that_fails_costs_one_line_of_log(
    fault: str,
    tmp_path: Path,
    own_store: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(signature_store, "BUSY_TIMEOUT", 0.05)
    other = None
    if fault == "locked":
        Store().notary.close()
        other = sqlite3.connect(own_store / "nbsignatures.db", isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
    elif fault == "no folder":
        monkeypatch.setenv("JUPYTER_DATA_DIR", str(own_store / "file" / "x"))
        (own_store / "file").write_text("no folder")
    else:
        (own_store / "notebook_secret").mkdir()
    recorders = [Recorder(tmp_path, METADATA) for _ in range(3)]
    async with Signer() as signer:
        for number, recorder in enumerate(recorders):
            recorder.finish(finished(number), "title")
            recorder.sign(signer)
            await asyncio.sleep(0.2)
    about = [one for one in caplog.messages if "not marked as trusted" in one]
    assert len(about) <= 1, about
    if other is not None:
        other.close()


async def test_a_store_that_was_replaced_is_opened_again(
    signer: Signer, tmp_path: Path, own_store: Path
) -> None:
    recorder = Recorder(tmp_path, METADATA)
    recorder.finish(finished(1), "title")
    recorder.sign(signer)
    await until_trusted(recorder)
    for path in own_store.iterdir():
        path.rename(tmp_path / f"old-{path.name}")
    recorder.finish(finished(2), "title")
    recorder.sign(signer)
    await until_trusted(recorder)
