"""Cells that put out more than anybody can take, and what a server is like meanwhile."""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass

from fastmcp import Client

from tests.server.served import ALICE, Served

TIMEOUT = 5.0  # seconds, of each cell
SEND = (
    "k = get_ipython().kernel; s = k.session\n"
    "def send(kind, content, **more):\n"
    "    s.send(k.iopub_socket, kind, content, parent=k.get_parent('shell'), **more)\n"
)
FRAMES = (  # past everything that the kernel itself was taught
    "k = get_ipython().kernel; s = k.session\n"
    "def send_frames(kind, content, metadata=b'{}', channel=None, idents=(b'x',)):\n"
    "    header = s.pack(s.msg(kind, {})['header'])\n"
    "    parts = [header, s.pack(k.get_parent('shell')['header']), metadata, content]\n"
    "    frames = [*idents, b'<IDS|MSG>', s.sign(parts), *parts]\n"
    "    (channel or k.iopub_socket).send_multipart(frames)\n"
)
FLOODS = {
    "backspaces": "import os; os.write(1, b'ab\\b' * 350_000 + b'\\n')",
    "returns": "import os; os.write(1, b'x' * 3_000_000 + b'\\ra' * 500_000)",
    "printed returns": "print('x' * 3_000_000 + '\\ra' * 500_000)",
    "erases": "print('y' * 90_000 + '\\x1b[Ka\\b\\b\\x1b[2Kb\\r\\x1b[1K' * 300_000)",
    "one endless line": "import os\nwhile True: os.write(1, b'x' * 65_536)",
    "progress bar": "import os\nwhile True: os.write(2, b'\\r 50% |####    |' * 1_000)",
    "colours": "while True: print('\\x1b[31mred\\x1b[0m \\x1b[1mbold\\x1b[0m' * 10_000)",
    "garbage": "import os\nwhile True: os.write(1, os.urandom(60_000))",
    "surrogates": "while True: print('\\ud800\\udfff' * 100_000)",
    "one print": "print('h' * 300_000_000)",
    "tiny messages": SEND + "while True: send('stream', {'name': 'stdout', 'text': ''})",
    "tiny prints": "import sys\nwhile True: print('.', end='', flush=True)",
    "JSON": "for _ in range(200): display({'application/json': [1] * 200_000}, raw=True)",
    "JSON of nothing": "for _ in range(50): display({'application/json': [{}] * 3_000_000}, raw=True)",
    "deep JSON": (
        "deep = []\nfor _ in range(900): deep = [deep]\n"
        "while True: display({'application/json': deep}, raw=True)"
    ),
    "odd numbers": (
        FRAMES + "digits = b'9' * 400_000\nwhile True:\n"
        '    send_frames(\'display_data\', b\'{"data": {"application/json": %s},'
        ' "metadata": {"a": 1e400, "b": NaN}}\' % digits)'
    ),
    "metadata": (
        "while True: display({'text/plain': 'x'}, metadata={'k': [1] * 200_000}, raw=True)"
    ),
    "long types": "while True: display({'t' * 1_000_000: 'x'}, raw=True)",
    "forged omissions": SEND
    + (
        "while True: send('stream',"
        " {'name': 'stdout', 'text': 'x' * 200_000, 'rmi_agent_omitted': -2_000_000})"
    ),
    "empty displays": "for _ in range(1_000_000): display({}, raw=True)",
    "updates": (
        "from IPython.display import update_display\n"
        "for _ in range(5_000): display({'text/plain': ''}, raw=True, display_id='d')\n"
        "while True: update_display({'text/plain': ''}, raw=True, display_id='d')"
    ),
    "updates of nothing": (
        "from IPython.display import update_display\nn = 0\nwhile True:\n"
        "    n += 1\n    update_display({}, raw=True, display_id=str(n) * 50_000)"
    ),
    "clears": "from IPython.display import clear_output\nwhile True: clear_output(); print('x')",
    "tracebacks": (
        "class Long(Exception):\n    def __str__(self): return 'e' * 50_000_000\n"
        "def down(n): return down(n + 1)\n"
        "try: down(0)\nexcept RecursionError: raise Long()"
    ),
    "comm messages": (
        SEND + "while True: send('comm_msg', {'comm_id': 'c', 'data': {'x': [1] * 100_000}},"
        " buffers=[bytes(10_000_000)])"
    ),
    "forged input": SEND + "while True: send('execute_input', {'code': 'c' * 20_000_000})",
    "forged status": SEND + "while True: send('status', {'execution_state': 'busy'})",
    "pages": (
        "get_ipython().payload_manager.write_payload({'source': 'page', 'start': 0,"
        " 'data': {'text/plain': 'p' * 300_000_000}})"
    ),
    "next inputs": (
        "for n in range(100):\n    get_ipython().payload_manager.write_payload("
        "{'source': n, 'text': ['t'] * 1_000_000})"
    ),
    "a prompt": "input('p' * 100_000_000)",
    "frames": FRAMES + "junk = bytes(100_000_000)\nwhile True: send_frames('stream', junk)",
    "a reply": (
        FRAMES + "send_frames('execute_reply', b'{\"payload\": [' + b'{},' * 10_000_000 + b'{}]}',"
        " channel=k.shell_stream, idents=k._parent_ident['shell'])"
    ),
    "between runs": (
        "import os, threading\ndef late():\n    while True: os.write(1, b'late ' * 10_000)\n"
        "threading.Thread(target=late, daemon=True).start()"
    ),
}


@dataclass(frozen=True)
class Flooded:
    """What a server was like under a flood.

    Attributes:
        status: how the cell ended.
        seconds: until the client had its result.
        slowest: the longest that `/healthz` took meanwhile, in seconds.
        growth: bytes of resident memory that the server had more than before, at its worst.
    """

    status: str
    seconds: float
    slowest: float
    growth: int


# Looks at the server until its stdin ends; the client that waits beside us would be in the way.
WATCH = """
import http.client, sys, threading, time
import psutil
port, pid = map(int, sys.argv[1:])
process, ended = psutil.Process(pid), threading.Event()
before = most = process.memory_info().rss
slowest = 0.0
threading.Thread(target=lambda: (sys.stdin.read(), ended.set())).start()
connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
print("watching", flush=True)
while not ended.wait(0.02):
    asked = time.monotonic()
    connection.request("GET", "/healthz")
    answer = connection.getresponse()
    assert answer.status == 200 and answer.read() == b"ok\\n"
    slowest = max(slowest, time.monotonic() - asked)
    most = max(most, process.memory_info().rss)
print(slowest, most - before)
"""


async def watch(server: Served) -> asyncio.subprocess.Process:
    """Begin to ask for `/healthz` again and again, and to look at the server's memory."""
    command = [sys.executable, "-c", WATCH, str(server.port), str(server.process.pid)]
    pipe = asyncio.subprocess.PIPE
    watching = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    assert watching.stdout is not None
    assert await watching.stdout.readline()
    return watching


async def flooded(server: Served, code: str, timeout: float = TIMEOUT) -> Flooded:
    """Run a cell in a session of its own and watch the server until a second after its end."""
    async with Client(f"{server.url}/mcp", auth=ALICE, timeout=300) as client:
        first = await client.call_tool_mcp("run_cell", {"code": "before = 'kept'"})
        assert first.structured_content is not None, first
        session = first.structured_content["session_id"]
        given = {"session_id": session, "timeout": timeout}
        watching = await watch(server)
        try:
            started = time.monotonic()
            result = await client.call_tool_mcp("run_cell", {**given, "code": code})
            seconds = time.monotonic() - started
            await asyncio.sleep(1)
            after = await client.call_tool_mcp("run_cell", {**given, "code": "20 + 1"})
        finally:
            seen, _ = await watching.communicate(b"")
        assert after.structured_content is not None, after
        assert after.structured_content["status"] in ("ok", "interrupted"), after
        await client.call_tool_mcp("close_session", {"session_id": session})
    assert result.structured_content is not None, result
    slowest, growth = seen.split()
    status = result.structured_content["status"]
    return Flooded(status, seconds, float(slowest), int(growth))
