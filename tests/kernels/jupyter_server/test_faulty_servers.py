"""What is said of Jupyter Servers that do not do what they should, and how frames are read."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from jupyter_client.session import Session
from rmi_agent.kernels import JupyterServer, Kernel, KernelStartError, Launch
from rmi_agent.kernels.errors import ServerError
from rmi_agent.kernels.inside import LAST_REPLY
from rmi_agent.kernels.jupyter_server.channels import CUT, END_LOST, NOT_ARRIVED, Channels
from rmi_agent.kernels.jupyter_server.delivery import Numbering, Request
from rmi_agent.kernels.jupyter_server.rest import Api, trusted
from rmi_agent.kernels.jupyter_server.wire_format import V1, packed, unpacked
from websockets.exceptions import ConnectionClosedError

pytestmark = pytest.mark.anyio
SESSION = Session()


@asynccontextmanager
async def answering(*answers: str, secured: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server that gives these answers to its callers, and the last one to all others; its port."""
    left = list(answers)

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        answer = left.pop(0) if len(left) > 1 else left[0]
        writer.write(answer.replace("\n", "\r\n").encode())
        writer.close()

    server = await asyncio.start_server(say, "127.0.0.1", 0, ssl=secured)
    async with server:
        yield server.sockets[0].getsockname()[1]


def start(folder: Path, *urls: str, token: str = "t0ken") -> Kernel:
    servers = tuple(JupyterServer(url, token) for url in urls)
    return Kernel(Launch(cwd=folder, runtime=folder, servers=servers))


PAGE = "HTTP/1.1 200 OK\nContent-Length: 6\n\n<html>"
FOUND = "HTTP/1.1 302 Found\nLocation: /hub/login\nContent-Length: 0\n\n"
BUSY = "HTTP/1.1 503 x\nContent-Length: 0\n\n"
BROKEN = "HTTP/1.1 500 x\nContent-Length: 0\n\n"
DONE = "HTTP/1.1 204 x\nContent-Length: 0\n\n"
NONE = "HTTP/1.1 200 OK\nContent-Length: 2\n\n[]"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (PAGE, "RMI_AGENT_JUPYTER_SERVER_URL: .* is no Jupyter Server"),
        (FOUND, r"RMI_AGENT_JUPYTER_SERVER_TOKEN: .* refuses it \(302"),  # a hub's sign-in page
        (BUSY, r"RMI_AGENT_JUPYTER_SERVER_URL: the server behind .* does not run \(503"),
        (BROKEN, "RMI_AGENT_JUPYTER_SERVER_URL: .* answered 500. Its log says why"),
        ("", "RMI_AGENT_JUPYTER_SERVER_URL: .* can't be reached"),
        ("nonsense\n\n", "RMI_AGENT_JUPYTER_SERVER_URL: .* can't be reached"),
    ],
)
async def test_an_answer_that_is_none_is_one_line_that_says_what_to_do(
    tmp_path: Path, answer: str, told: str
) -> None:
    async with answering(answer) as port:
        with pytest.raises(KernelStartError, match=told) as caught:
            await start(tmp_path, f"http://127.0.0.1:{port}/user/ada").start()
    assert "\n" not in str(caught.value) and "t0ken" not in str(caught.value)


async def test_a_list_that_fails_while_a_kernel_is_added_is_asked_for_again() -> None:
    async with answering(BROKEN, BROKEN, NONE) as port:
        api = Api(JupyterServer(f"http://127.0.0.1:{port}", ""))
        assert await api.kernels() == []
        await api.close()


@pytest.mark.parametrize("passing", [BROKEN, BUSY, ""])
async def test_what_does_no_harm_twice_is_asked_again(passing: str) -> None:
    async with answering(passing, DONE, passing, DONE) as port:
        api = Api(JupyterServer(f"http://127.0.0.1:{port}", ""))
        await api.interrupt("k")
        await api.delete("k")
        await api.close()


async def test_a_kernel_whose_start_fails_is_started_once() -> None:
    async with answering(BUSY, NONE) as port:
        api = Api(JupyterServer(f"http://127.0.0.1:{port}", ""))
        with pytest.raises(ServerError, match="503"):
            await api.start("python3")
        await api.close()


async def test_when_no_server_can_be_had_each_is_told(tmp_path: Path) -> None:
    async with answering(BUSY) as port:
        with pytest.raises(KernelStartError) as caught:
            await start(tmp_path, f"http://127.0.0.1:{port}", "http://127.0.0.1:1").start()
    assert "does not run (503" in str(caught.value)
    assert "nothing answers at http://127.0.0.1:1" in str(caught.value)


async def test_a_certificate_that_nobody_has_signed_is_refused_unless_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "here")])
    now = datetime.datetime.now(datetime.UTC)
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = x509.CertificateBuilder(
        name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1)
    )
    signed = made.add_extension(here, critical=False).sign(key, hashes.SHA256())
    file = tmp_path / "own.pem"
    plain = serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    pem = serialization.Encoding.PEM
    file.write_bytes(signed.public_bytes(pem) + key.private_bytes(pem, form, plain))
    secured = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    secured.load_cert_chain(file)
    async with answering(BUSY, secured=secured) as port:
        url = f"https://127.0.0.1:{port}"
        with pytest.raises(
            KernelStartError, match="RMI_AGENT_JUPYTER_SERVER_URL: the certificate of .* is"
        ):
            await start(tmp_path, url).start()
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        trusted.cache_clear()
        with pytest.raises(KernelStartError, match=r"does not run \(503"):
            await start(tmp_path, url).start()
    trusted.cache_clear()


TEXT = st.text('aé€😀"\\\n\0', max_size=20)


@hypothesis(max_examples=30, deadline=None)
@given(st.dictionaries(TEXT, TEXT | st.integers(), max_size=3), st.sampled_from([V1, None]))
def test_a_message_comes_out_of_its_frame_as_it_went_in(content: dict, protocol: object) -> None:  # type: ignore[type-arg]
    message = SESSION.msg("comm_msg", content)
    channel, read = unpacked(SESSION, protocol, packed(SESSION, protocol, "shell", message))  # type: ignore[arg-type]
    assert (channel, read["content"], read["msg_id"]) == ("shell", content, message["msg_id"])


@hypothesis(max_examples=50, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([V1, None]))
def test_bytes_that_are_no_message_are_refused_and_nothing_worse(
    frame: bytes, protocol: object
) -> None:
    with pytest.raises((ValueError, KeyError, TypeError, IndexError)):
        unpacked(SESSION, protocol, frame)  # type: ignore[arg-type]


@pytest.mark.parametrize("protocol", [V1, None])
def test_a_reply_too_large_to_parse_still_ends_its_run(protocol: Any) -> None:
    request = SESSION.msg("execute_request")["header"]
    content = {"status": "ok", "payload": [{}] * 1_000_000, "channel": "stdin"}
    reply = SESSION.msg("execute_reply", content, request)
    channel, read = unpacked(SESSION, protocol, packed(SESSION, protocol, "shell", reply))
    assert (channel, read["content"], read["msg_type"]) == ("shell", {}, "execute_reply")
    assert read["parent_header"]["msg_id"] == request["msg_id"]
    assert read["weight"].too_much


def test_a_servers_message_with_too_large_a_header_is_refused_before_it_is_parsed() -> None:
    metadata = {"much": [[]] * 40_000}
    message = SESSION.msg("display_data", {}, metadata=metadata)
    with pytest.raises(ValueError, match="a header or metadata of more than a megabyte"):
        unpacked(SESSION, V1, packed(SESSION, V1, "iopub", message))
    message = SESSION.msg("display_data", {"data": [{}] * 1_000_000}, metadata=metadata)
    with pytest.raises(ValueError):
        unpacked(SESSION, None, packed(SESSION, None, "iopub", message))


def numbered(number: object, kind: str = "stream", **content: str) -> dict:  # type: ignore[type-arg]
    return {"msg_id": f"kernel_7_{number}", "msg_type": kind, "content": content}


def test_the_numbers_of_a_kernels_messages_show_what_is_missing() -> None:
    numbering, run = Numbering(), Request(SESSION.msg("execute_request"))

    def lacks(channel: str, number: object, state: str = "") -> bool:
        message = numbered(number, execution_state=state)
        return numbering.lacks(channel, message, run)

    assert not lacks("iopub", 5, "busy")  # nothing of the run can be before it
    assert not lacks("iopub", 6)
    assert lacks("iopub", 8)
    assert not lacks("stdin", 9) and not lacks("iopub", 10)
    assert not lacks("iopub", 12, "idle")  # 11 is the reply, which has not come yet
    assert not lacks("iopub", 20, "busy") and lacks("iopub", 23, "idle")
    assert lacks("iopub", "x") and lacks("iopub", 25)
    assert lacks("iopub", "9" * 5_000)


class Socket:
    """A websocket whose other side is played by the test, in the protocol's older form."""

    subprotocol = None

    def __init__(self) -> None:
        self.transport = self
        self.sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.come: asyncio.Queue[str | None] = asyncio.Queue()

    def get_extra_info(self, name: str) -> None:
        return None

    async def send(self, frame: str) -> None:
        self.sent.put_nowait(json.loads(frame))

    async def recv(self) -> str:
        if (frame := await self.come.get()) is None:
            raise ConnectionClosedError(None, None)
        return frame

    def say(self, channel: str, kind: str, content: dict[str, Any], asked: dict[str, Any]) -> None:
        message = SESSION.msg(kind, content, parent=asked["header"])
        self.come.put_nowait(str(packed(SESSION, None, channel, message)))


async def carried(channels: Channels, socket: Socket) -> None:
    with pytest.raises(ExceptionGroup) as broken:
        await channels.carry(socket)  # type: ignore[arg-type]
    assert broken.value.subgroup(ConnectionClosedError)


BEGUN = ("status", {"execution_state": "busy"})
OK = {"status": "ok"}
RAN = {"arrived": True, "reply": {"status": "ok", "execution_count": 7}}
NEVER = {"arrived": False, "reply": None}


@pytest.mark.parametrize(
    ("begun", "last_reply", "ename", "news"),
    [
        (True, None, "ConnectionLost", [END_LOST]),  # a kernel that has no memory of it
        (False, None, "ConnectionLost", [END_LOST]),
        (True, RAN, None, []),
        (False, RAN, None, []),
        (True, {**RAN, "reply": None}, "ConnectionLost", [END_LOST]),
        (False, {**RAN, "reply": None}, "ConnectionLost", [END_LOST]),
        (False, NEVER, "ConnectionLost", [NOT_ARRIVED]),
        (True, NEVER, "ConnectionLost", [END_LOST]),
        (False, {"arrived": [], "reply": "x"}, "ConnectionLost", [END_LOST]),
        (False, {}, "ConnectionLost", [END_LOST]),
    ],
)
async def test_a_run_whose_end_is_lost_ends_with_what_its_kernel_knows_of_it(
    begun: bool, last_reply: dict[str, Any] | None, ename: str | None, news: list[str]
) -> None:
    channels = Channels("", lambda why: None)
    client = channels.client()
    first, second = Socket(), Socket()
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        tasks.create_task(carried(channels, first))
        request = SESSION.msg("execute_request", {"code": "1"})
        client.shell_channel.send(request)
        asked = await first.sent.get()
        if begun:
            first.say("iopub", *BEGUN, asked)
            await client.get_iopub_msg()
        first.come.put_nowait(None)
        tasks.create_task(carried(channels, second))
        memory, fence = await second.sent.get(), await second.sent.get()
        assert memory["header"]["msg_type"] == LAST_REPLY
        assert memory["content"] == {"msg_id": request["header"]["msg_id"]}
        assert fence["header"]["msg_type"] == "kernel_info_request"
        if last_reply is not None:
            second.say("shell", LAST_REPLY.replace("request", "reply"), last_reply, memory)
        second.say("shell", "kernel_info_reply", OK, fence)
        second.say("iopub", "status", {"execution_state": "idle"}, fence)
        replies, texts, state = [], [], ""
        while not replies or replies[-1]["parent_header"]["msg_id"] != request["header"]["msg_id"]:
            replies.append(await client.get_shell_msg())
        while state != "idle":
            message = await client.get_iopub_msg()
            if message["parent_header"]["msg_id"] == request["header"]["msg_id"]:
                texts.append(message["content"].get("text", ""))
                state = message["content"].get("execution_state", "")
        second.come.put_nowait(None)
    assert replies[-1]["content"].get("ename") == ename
    assert channels.problems == news
    assert "".join(texts) == ("" if news == [NOT_ARRIVED] else CUT)
    while not second.sent.empty():
        assert second.sent.get_nowait()["header"]["msg_type"] != "execute_request"


async def test_a_process_that_is_not_the_one_that_was_there_is_noticed_and_not_heard() -> None:
    ends: list[str] = []
    channels = Channels("the-first", ends.append)
    socket = Socket()
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        tasks.create_task(carried(channels, socket))
        channels.send("shell", SESSION.msg("kernel_info_request", {}))
        socket.say("shell", "kernel_info_reply", {"status": "ok"}, await socket.sent.get())
        socket.come.put_nowait(None)
    assert ends == ["Its process has ended, and its server has started another."]
    with pytest.raises(Empty):
        await channels.client().get_shell_msg(timeout=0)
