"""The background server's Unix socket: who reaches it, and that reaching it alone lets nobody in."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from rmi_agent.kernels import TIERS
from rmi_agent.server import load
from rmi_agent.server.commands.stdio import resident_proxy
from rmi_agent.server.errors import AttachError
from rmi_agent.server.resident import Record, lease, local_socket
from rmi_agent.server.resident.endpoint import Endpoint
from rmi_agent.server.state_dir import VERSION

from tests.server.resident.residents import User, user
from tests.server.served import TEXT

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.security,
    pytest.mark.skipif(sys.platform == "win32", reason="no background server there"),
]
ROOT = pytest.mark.skipif(
    sys.platform == "win32" or os.getuid() != 0, reason="needs a second user, whom only root can be"
)
NOBODY = 65534
INITIALIZE = (
    '{"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion":'
    ' "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}}'
)


@pytest.fixture(scope="module")
def someone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    with user(tmp_path_factory.mktemp("r")) as one:
        one.start()
        yield one


def over(someone: User, way: str, headers: dict[str, str]) -> httpx2.Client:
    """A client of a background server, over its socket or its port."""
    socket_, url = (
        (someone.record["socket"], "http://localhost")
        if way == "socket"
        else (None, someone.record["url"])
    )
    return httpx2.Client(
        base_url=url, headers=headers, transport=httpx2.HTTPTransport(uds=socket_), timeout=10
    )


PRETENDING = {
    "no token": {},
    "the socket's path as host": {"Host": "{socket}"},
    "no host": {"Host": ""},
    "forwarded for nobody": {"X-Forwarded-For": "", "X-Forwarded-Proto": "http+unix"},
    "forwarded for the socket": {"X-Forwarded-For": "{socket}", "Forwarded": "for={socket}"},
    "no real token": {"Authorization": "Bearer x"},
    "no real scheme": {"Authorization": "Socket {socket}"},
    "the local user's name": {"Authorization": "Bearer local"},
    "the socket as token": {"Authorization": "Bearer {socket}"},
}


@pytest.mark.parametrize("way", ["socket", "port"])
@pytest.mark.parametrize("headers", PRETENDING.values(), ids=PRETENDING.keys())
def test_nobody_is_let_in_without_the_key_whatever_they_say_they_are(
    someone: User, way: str, headers: dict[str, str]
) -> None:
    given = {name: text.format(**someone.record) for name, text in headers.items()}
    with over(someone, way, given) as client:
        for path in ("/resident", "/metrics", "/nothing", "/sse"):
            assert client.get(path).status_code in (401, 421), path
        answer = client.post("/mcp", content=INITIALIZE, headers=TEXT)
        assert answer.status_code in (401, 421)
        assert VERSION not in answer.text
        assert client.get("/review", follow_redirects=False).status_code in (401, 421)
        assert client.get("/healthz").text == "ok\n"


def test_the_key_of_one_start_lets_in_and_ends_with_it(tmp_path: Path) -> None:
    with user(tmp_path) as someone:
        keys = []
        for _ in range(2):
            someone.start()
            keys.append(someone.record["key"])
            for way in ("socket", "port"):
                with over(someone, way, {"Authorization": f"Bearer {keys[-1]}"}) as client:
                    assert client.get("/resident").json()["version"] == VERSION
                with over(someone, way, {"Authorization": f"Bearer {keys[0]}"}) as client:
                    assert client.get("/resident").status_code == (200 if len(keys) == 1 else 401)
            for said in ("status", "stop"):
                done = someone.run(said)
                assert keys[-1] not in done.stdout + done.stderr
        assert keys[0] not in (someone.state / "resident.log").read_text("utf-8")


CONNECT = """
import socket
found = []
with socket.socket(socket.AF_UNIX) as s:
    try:
        s.connect({path!r})
        s.sendall(b"GET /resident HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n")
        found.append(s.recv(12).decode())
    except OSError as error:
        found.append(type(error).__name__)
try: found.append(open({record!r}).read())
except OSError as error: found.append(type(error).__name__)
print(found)
"""


@pytest.mark.parametrize("tier", TIERS)
async def test_code_in_a_sandbox_is_not_let_in(tmp_path: Path, tier: str) -> None:
    """Landlock leaves socket files open where there is a network: the socket alone is no proof."""
    with user(tmp_path) as someone:
        someone.env["RMI_AGENT_SANDBOX"] = tier
        started = someone.run("start")
        if started.returncode and f"RMI_AGENT_SANDBOX: {tier} does not work here" in started.stderr:
            pytest.skip(started.stderr)
        record = someone.state / "resident.json"
        code = CONNECT.format(path=someone.record["socket"], record=str(record))
        async with someone.client("--log-level", "info") as client:
            ran = await client.call_tool_mcp("run_cell", {"code": code})
        assert someone.stderr.count("handles all requests") == 1
        reached, read = {
            "bwrap": ("FileNotFoundError", "FileNotFoundError"),
            "landlock": ("HTTP/1.1 401", "PermissionError"),
        }[tier]
        assert ran.content[0].text.startswith(f"['{reached}', '{read}']"), ran.content


@ROOT
def test_another_user_can_not_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        monkeypatch.setenv("XDG_STATE_HOME", folder)
        with lease(), local_socket() as listening:
            path = listening.getsockname()
            code = f"import socket; socket.socket(socket.AF_UNIX).connect({path!r})"
            for mode in (0o700, 0o755):  # the folder's own, and what somebody made of it
                Path(path).parent.chmod(mode)
                done = subprocess.run(
                    ["/usr/bin/python3", "-c", code], user=NOBODY, capture_output=True, text=True
                )
                assert "PermissionError" in done.stderr
            listening.setblocking(False)
            with pytest.raises(BlockingIOError):
                listening.accept()


@ROOT
@pytest.mark.parametrize("whose", ["the socket", "its folder", "both"])
async def test_a_socket_of_another_user_is_sent_nothing(whose: str, tmp_path: Path) -> None:
    path = tmp_path / "s" / "resident.sock"
    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        if whose != "its folder":
            os.chown(path, NOBODY, -1)
        if whose != "the socket":
            os.chown(path.parent, NOBODY, -1)
        record = Record(os.getpid(), 0.0, VERSION, "http://127.0.0.1:9", None, str(path), "key")
        with pytest.raises(AttachError, match="belongs to another user"):
            await Endpoint(record.url, record.key, record).facts()
        listening.setblocking(False)
        with pytest.raises(BlockingIOError):
            listening.accept()


async def test_who_listens_where_a_server_was_gets_no_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A port can be anybody's, so only a token that was set for it is sent there."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    (tmp_path / "rmi-agent").mkdir(mode=0o700)
    (tmp_path / "rmi-agent" / "token").write_text("the-token-that-servers-here-have-made")
    (tmp_path / "rmi-agent" / "token").chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as impostor:
        url = f"http://127.0.0.1:{impostor.getsockname()[1]}"
        assert await resident_proxy(load(rmi_agent_server=url)) is None
        assert f"no token is set for {url}. Set RMI_AGENT_TOKEN" in caplog.text
        impostor.setblocking(False)
        with pytest.raises(BlockingIOError):
            impostor.accept()
