"""The project's files on their way to a kernel that does not see them."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from rmi_agent.kernels import RemoteOptions
from rmi_agent.kernels.inside.file_receiver import Files
from rmi_agent.kernels.remote import Shipment
from rmi_agent.kernels.remote.file_sync import PIECE

pytestmark = pytest.mark.anyio
LINKS = pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")


class There:
    """A kernel's side of it, in this process; notes what it is asked."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.asked: list[dict[str, Any]] = []
        self.also_missing: list[str] = []
        self._request: dict[str, Any] = {}
        self._answer: dict[str, Any] = {}
        payloads = types.SimpleNamespace(write_payload=self._answered)
        shell = types.SimpleNamespace(get_parent=self._parent, payload_manager=payloads)
        self.files = Files(shell, str(folder))

    def _parent(self) -> dict[str, Any]:
        return {"metadata": {"rmi_agent": self._request}}

    def _answered(self, payload: dict[str, Any]) -> None:
        self._answer = payload

    async def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        self._request = request
        self.asked.append(request)
        self.files.answer()
        return {**self._answer, "missing": [*self._answer.get("missing", ()), *self.also_missing]}

    def sent(self) -> list[str]:
        """Names of the files that were sent since the last time."""
        names = [piece[0] for request in self.asked for piece in request.get("pieces", ())]
        self.asked.clear()
        return sorted(set(names))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "here" / "sub").mkdir(parents=True)
    (tmp_path / "here" / "top.py").write_text("1")
    (tmp_path / "here" / "sub" / "main.py").write_text("22")
    (tmp_path / "here" / "sub" / "empty").write_text("")
    return (tmp_path / "here").resolve()


@pytest.fixture
def there(tmp_path: Path) -> There:
    return There(tmp_path / "there")


def copy(there: There) -> dict[str, bytes]:
    top = Path(there.files.folder)
    found = (path for path in top.rglob("*") if path.is_file())
    return {path.relative_to(top).as_posix(): path.read_bytes() for path in found}


async def test_all_is_sent_once_and_then_what_has_changed(root: Path, there: There) -> None:
    shipment = Shipment(root, RemoteOptions(files="sent"), there.ask)
    assert await shipment.send(root / "sub") == []
    assert copy(there) == {"top.py": b"1", "sub/main.py": b"22", "sub/empty": b""}
    assert shipment.path(root / "sub" / "main.py") == f"{there.files.folder}/sub/main.py"
    assert there.sent() == ["sub/empty", "sub/main.py", "top.py"]
    (root / "top.py").write_text("3")
    (root / "sub" / "empty").unlink()
    await shipment.send(root / "sub")
    assert there.sent() == ["top.py"]
    assert copy(there) == {"top.py": b"3", "sub/main.py": b"22"}


async def test_what_code_did_to_it_there_is_undone_by_the_next_sending(
    root: Path, there: There
) -> None:
    shipment = Shipment(root, RemoteOptions(files="sent"), there.ask)
    await shipment.send(root)
    Path(there.files.folder, "top.py").write_text("changed there")
    assert "top.py" in (await shipment.written())[0]
    await shipment.send(root)
    assert copy(there)["top.py"] == b"1"


async def test_large_files_go_in_pieces(root: Path, there: There) -> None:
    data = os.urandom(PIECE * 2 + 5)
    (root / "large.bin").write_bytes(data)
    await Shipment(root, RemoteOptions(files="sent"), there.ask).send(root)
    assert copy(there)["large.bin"] == data
    assert len([request for request in there.asked if request["do"] == "put"]) == 3


@LINKS
async def test_hidden_files_environments_records_and_links_stay_here(
    root: Path, there: There, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("secret")
    for name in (".env", ".git/config", "venv/pyvenv.cfg", "venv/lib.py", "notebooks/a.ipynb"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("stays")
    (root / "__pycache__").mkdir()
    (root / "__pycache__" / "x.pyc").write_text("stays")
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "folder").symlink_to(tmp_path)
    os.mkfifo(root / "pipe")
    far = RemoteOptions(files="sent", private=(root / "notebooks",))
    await Shipment(root, far, there.ask).send(root)
    assert set(copy(there)) == {"top.py", "sub/main.py", "sub/empty"}


async def test_a_kernel_that_asks_for_other_files_gets_none(
    root: Path, there: There, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("secret")
    there.also_missing = ["../secret", str(tmp_path / "secret")]
    await Shipment(root, RemoteOptions(files="sent"), there.ask).send(root)
    assert there.sent() == ["sub/empty", "sub/main.py", "top.py"]


async def test_what_is_near_goes_first_and_what_is_left_out_is_told_once(
    root: Path, there: There
) -> None:
    (root / "far.bin").write_bytes(bytes(600))
    (root / "sub" / "near.bin").write_bytes(bytes(700))
    shipment = Shipment(root, RemoteOptions(files="sent", max_bytes=1000), there.ask)
    told = await shipment.send(root / "sub")
    assert len(told) == 1 and "far.bin would exceed" in told[0]
    assert "RMI_AGENT_REMOTE_FILES_LIMIT" in told[0]
    assert "sub/near.bin" in copy(there) and "far.bin" not in copy(there)
    assert await shipment.send(root / "sub") == []


async def test_a_folder_with_the_same_files_is_taken_for_the_same(root: Path, there: There) -> None:
    shipment = Shipment(root, RemoteOptions(files="auto"), there.ask)
    await shipment.send(root)
    assert shipment.path(root / "top.py") == str(root / "top.py")
    (root / "top.py").write_text("a new one")
    await shipment.send(root)
    assert there.sent() == [] and copy(there) == {}
    assert await shipment.written() == []


@pytest.mark.parametrize("name", ["top.py", "sub/main.py"])
async def test_one_file_that_differs_there_makes_it_another(
    root: Path, there: There, tmp_path: Path, name: str
) -> None:
    # As a checkout of one's own would be, on another machine by the same path.
    class Elsewhere(There):
        async def ask(self, request: dict[str, Any]) -> dict[str, Any]:
            if request["do"] == "compare":
                request = {**request, "root": str(tmp_path / "theirs")}
            return await super().ask(request)

    for path in root.rglob("*"):
        if path.is_file():
            theirs = tmp_path / "theirs" / path.relative_to(root)
            theirs.parent.mkdir(parents=True, exist_ok=True)
            theirs.write_bytes(path.read_bytes())
    (tmp_path / "theirs" / name).write_text("older")
    elsewhere = Elsewhere(tmp_path / "copy")
    shipment = Shipment(root, RemoteOptions(files="auto"), elsewhere.ask)
    await shipment.send(root)
    assert shipment.path(root / "top.py") == f"{elsewhere.files.folder}/top.py"
    assert (tmp_path / "theirs" / name).read_text() == "older"


async def test_new_files_are_named_once(root: Path, there: There) -> None:
    shipment = Shipment(root, RemoteOptions(files="sent"), there.ask)
    assert await shipment.written() == []
    await shipment.send(root)
    assert await shipment.written() == []
    for number in range(25):
        Path(there.files.folder, f"out{number:02}.txt").write_text("x")
    told = await shipment.written()
    assert "out00.txt, out01.txt" in told[0] and "out19.txt and 5 more." in told[0]
    assert await shipment.written() == []
