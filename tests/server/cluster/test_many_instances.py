"""Three instances of the server behind nginx, kernels on a Jupyter Server, records in Redis."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import nbformat
import pytest
from fastmcp import Client
from fastmcp.client.transports import SSETransport, StreamableHttpTransport
from fastmcp.exceptions import ToolError
from mcp import MCPError

from tests.conftest import kernel_env
from tests.kernels.jupyter_server.jupyter import Jupyter
from tests.ports import free_port

REDIS, NGINX = shutil.which("redis-server"), shutil.which("nginx") or "/usr/sbin/nginx"
TOKEN, OTHER = "alice-" + "a" * 32, "bob-" + "b" * 32
SESSIONS, RUNS, USERS = 20, 10, 10
TOKENS = {"alice": TOKEN, "bob": OTHER} | {f"u{n}": f"user-{n}-" + "u" * 32 for n in range(USERS)}
SOON = 30.0

MODES = ("auto", "legacy", "sse")
needs_nginx = pytest.mark.skipif(
    not os.access(NGINX, os.X_OK), reason="needs nginx (Debian: nginx-light)"
)

pytestmark = [
    pytest.mark.xdist_group(__name__),
    pytest.mark.anyio,
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.skipif(REDIS is None, reason="needs redis-server (Debian: redis-server)"),
]


@dataclass
class Instance:
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    settings: dict[str, str]
    url: str = ""
    log: list[str] = field(default_factory=list)
    serves: threading.Event = field(default_factory=threading.Event)

    def read(self) -> None:
        """Read its log to the end; its address is in it."""
        assert self.process.stderr is not None
        with self.process.stderr as stderr:
            for line in stderr:
                self.log.append(line)
                if found := re.search(r"MCP at (\S+)/mcp", line):
                    self.url = found[1]
                    self.serves.set()
        self.serves.set()

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def opened(self) -> int:
        """How many sessions it has opened."""
        return "".join(self.log).count("A session was opened")

    def stop(self) -> None:
        """End it in order; one that goes on tells what it waits for (PYTHONFAULTHANDLER)."""
        self.process.terminate()
        try:
            self.process.wait(SOON)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)
            self.process.wait(SOON)
            pytest.fail("It does not end:\n" + "".join(self.log[-200:]))


@dataclass
class House:
    """All that the instances have in common."""

    folder: Path
    jupyter: Jupyter
    store: str
    instances: list[Instance] = field(default_factory=list)

    def _begin(self, port: int = 0, **settings: str) -> Instance:
        env = {
            **kernel_env(),
            "PYTHON_PROJECTS_DIR": str(self.folder / "python_projects"),
            "RMI_AGENT_NOTEBOOKS_DIR": str(self.folder / "notebooks"),
            "RMI_AGENT_JUPYTER_SERVER_URL": self.jupyter.server.url,
            "RMI_AGENT_JUPYTER_SERVER_TOKEN": self.jupyter.token,
            "RMI_AGENT_SESSION_STORE": self.store,
            "RMI_AGENT_TOKENS": ",".join(f"{name}:{token}" for name, token in TOKENS.items()),
            "RMI_AGENT_KERNEL_POOL": "0",
            "RMI_AGENT_KERNEL_MAX": "100",
            "RMI_AGENT_RATE_LIMIT": "0",
            "RMI_AGENT_SANDBOX": "off",
            "PYTHONFAULTHANDLER": "1",
            **settings,
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "rmi_agent.server.cli", "--transport=http", f"--port={port}"],
            env=env,
            stderr=subprocess.PIPE,
            text=True,
        )
        instance = Instance(process, settings)
        self.instances.append(instance)
        threading.Thread(target=instance.read, daemon=True).start()
        return instance

    def start(self, number: int = 2, **settings: str) -> list[Instance]:
        """Instances that serve, with these settings."""
        instances = [self._begin(**settings) for _ in range(number)]
        for instance in instances:
            assert instance.serves.wait(SOON * 4) and instance.url, "".join(instance.log)
        return instances

    def start_again(self, before: Instance) -> Instance:
        """An instance at the address of one that has ended."""
        instance = self._begin(before.port, **before.settings)
        assert instance.serves.wait(SOON * 4) and instance.url == before.url, "".join(instance.log)
        return instance

    def notebooks(self) -> list[Path]:
        return sorted((self.folder / "notebooks").glob("*.ipynb"))


@contextlib.contextmanager
def redis(folder: Path, port: int = 0) -> Iterator[str]:
    """A Redis of the test's own, with nothing in it."""
    assert REDIS is not None
    port = port or free_port()
    command = [
        REDIS,
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--dir",
        str(folder),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert any("Ready to accept" in line for line in process.stdout)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait(SOON)
        process.stdout.close()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("h")
    (folder / "python_projects").mkdir()
    jupyter = Jupyter(folder / "jupyter")
    jupyter.start()
    try:
        with redis(folder) as store:
            made = House(folder, jupyter, store)
            try:
                yield made
            finally:
                for instance in made.instances:
                    if instance.process.poll() is None:
                        instance.process.terminate()
                for instance in made.instances:
                    instance.process.wait(SOON)
    finally:
        jupyter.stop()


NGINX_CONFIG = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
events {{ worker_connections 1024; }}
http {{
    log_format instances '$request $upstream_addr';
    access_log {folder}/access.log instances; client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u;
    scgi_temp_path {folder}/s;
    {ours}
}}
"""


def nginx_of_docs(ports: list[int], port: int) -> str:
    """What the documentation tells to put into nginx's configuration, with this test's addresses."""
    page = Path(__file__).parents[3].joinpath("docs/clustering.md").read_text("utf-8")
    block = re.findall(r"```nginx\n(.*?)```", page, re.S)[0]
    servers = "".join(f"server 127.0.0.1:{one};" for one in ports)
    block, servers_found = re.subn(r"(    server [\w.-]+:8000;\n)+", servers, block)
    block, listens = re.subn(r"listen [^;]+;", f"listen 127.0.0.1:{port};", block)
    block = re.sub(r" *(server_name|ssl_\w+) [^;]+;\n", "", block)
    assert (servers_found, listens) == (1, 1)
    return block


@contextlib.contextmanager
def nginx(folder: Path, instances: list[Instance]) -> Iterator[str]:
    """nginx before the instances, as the documentation has it."""
    port = free_port()
    ours = nginx_of_docs([instance.port for instance in instances], port)
    config = folder / "nginx.conf"
    config.write_text(NGINX_CONFIG.format(folder=folder, ours=ours))
    process = subprocess.Popen([NGINX, "-c", str(config), "-e", str(folder / "nginx.log")])
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(200):
            with contextlib.suppress(httpx2.TransportError):
                if httpx2.get(f"{url}/healthz").text == "ok\n":
                    break
        yield url
    finally:
        process.terminate()
        process.wait(SOON)


@contextlib.asynccontextmanager
async def client(
    url: str, token: str = TOKEN, mode: str = "auto", **more: Any
) -> AsyncIterator[Any]:
    """A client of one of `MODES`."""
    transport: StreamableHttpTransport | SSETransport
    if mode == "sse":
        transport, mode = SSETransport(f"{url}/sse", auth=token), "legacy"
    else:
        transport = StreamableHttpTransport(f"{url}/mcp", auth=token)
    async with Client(transport, mode=mode, **more) as one:
        yield one


async def led_to(house: House, url: str, token: str = TOKEN) -> int:
    """The port of the instance to which nginx leads a caller."""
    mark = secrets.token_hex(8)
    async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}) as asking:
        await asking.get(f"{url}/healthz?{mark}")
    async with asyncio.timeout(SOON):
        while True:
            if found := re.search(rf"{mark} .*:(\d+)\n", (house.folder / "access.log").read_text()):
                return int(found[1])
            await asyncio.sleep(0.05)


async def cell(on: Any, code: str, session_id: str | None = None) -> tuple[str, dict[str, Any]]:
    """A run's text before the notes, and its facts."""
    given = {"code": code} | ({"session_id": session_id} if session_id else {})
    result = await on.call_tool("run_cell", given)
    return result.content[0].text.partition("[")[0].strip(), result.structured_content


async def no_kernel_is_left(house: House) -> None:
    """A Jupyter Server lists a kernel until its process has ended."""
    async with asyncio.timeout(SOON):
        while house.jupyter.kernels():
            await asyncio.sleep(0.1)


@needs_nginx
async def test_no_session_is_lost_when_instances_are_killed_and_stopped(house: House) -> None:
    instances = house.start(3)
    answered: Counter[str] = Counter()
    halfway, three_quarters = asyncio.Event(), asyncio.Event()
    failures: list[str] = []

    async def use(number: int, url: str) -> None:
        """Ten runs that count; a call that breaks is looked after as its error says."""
        mode = "legacy" if number % 4 == 0 else "auto"
        count, session_id = 0, ""
        while count < RUNS:
            try:
                async with client(url, TOKENS[f"u{number % USERS}"], mode) as one:
                    if not session_id:
                        text, facts = await cell(one, f"n = {number}_000; n")
                        session_id, name = facts["session_id"], facts["notebook"]
                        assert text == f"{number}000"
                    else:  # what became of the call that broke?
                        text, facts = await cell(one, "n", session_id)
                        assert int(text) - number * 1000 in (count, count + 1)
                        assert facts["state"] == "kept"
                        count = int(text) - number * 1000
                    while count < RUNS:
                        text, facts = await cell(one, "n += 1; n", session_id)
                        assert text == str(number * 1000 + count + 1)
                        assert facts["state"] == "kept" and facts["notebook"] == name
                        count += 1
                        answered[session_id] += 1
                        if answered.total() == SESSIONS * RUNS // 2:
                            halfway.set()
                        if answered.total() == SESSIONS * RUNS * 3 // 4:
                            three_quarters.set()
            except (MCPError, ToolError, httpx2.HTTPError, RuntimeError) as error:
                failures.append(f"{number}: {type(error).__name__}: {error}")
                assert len(failures) < 100, failures

    async def kill() -> None:
        await halfway.wait()
        instances.sort(key=lambda instance: instance.opened, reverse=True)
        assert instances[1].opened, "all sessions are on one instance"
        instances[0].process.kill()
        await three_quarters.wait()
        instances[1].process.send_signal(signal.SIGTERM)

    with nginx(house.folder, instances) as url:
        async with asyncio.timeout(150):
            await asyncio.gather(kill(), *(use(number, url) for number in range(1, SESSIONS + 1)))
            assert instances[1].process.wait(SOON) in (0, -signal.SIGTERM, 128 + signal.SIGTERM)
            found = 0
            for user in range(USERS):
                async with client(url, TOKENS[f"u{user}"]) as one:
                    listed = await one.call_tool("list_sessions", {})
                    for row in listed.structured_content["sessions"]:
                        session_id = row["session_id"]
                        if session_id in answered:  # else its first answer broke
                            found += 1
                            text, facts = await cell(one, "n % 1000", session_id)
                            assert (text, facts["state"]) == (str(RUNS), "kept"), failures
                        await one.call_tool("close_session", {"session_id": session_id})
            assert found == SESSIONS
            await no_kernel_is_left(house)
    assert len(answered) == SESSIONS
    counted = 0
    for path in house.notebooks():
        cells = nbformat.read(path, as_version=4).cells
        records = [one.metadata.rmi_agent for one in cells]
        assert [one.cell for one in records] == sorted({one.cell for one in records}), path
        runs = [one.status for one, made in zip(records, cells, strict=True) if "+=" in made.source]
        if runs:  # a run may have begun on record, and its instance have been killed before it ran
            counted += 1
            assert runs.count("ok") <= RUNS <= len(runs), (path, runs)
    assert counted == SESSIONS
    assert list((house.folder / "notebooks").glob(".*.open")) == []


@needs_nginx
@pytest.mark.parametrize("mode", MODES)
async def test_nginx_leads_all_calls_of_a_caller_to_one_instance(house: House, mode: str) -> None:
    instances = house.start(3)
    printed: list[str] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        printed.append(message or "")

    async def answer(message: str, *_: Any) -> dict[str, str]:
        return {"value": "Ada"}

    async def use(url: str, token: str) -> None:
        """Each client is a connection of its own."""
        async with (
            client(url, token, mode) as first,
            client(url, token, mode, elicitation_handler=answer) as second,
        ):
            _, facts = await cell(first, "import time; x = 1")
            session_id = facts["session_id"]
            slow = "print('one', flush=True); time.sleep(0.7); x"
            given = {"code": slow, "session_id": session_id}
            await second.call_tool("run_cell", given, progress_handler=note)
            assert (await cell(second, "input('who? ')", session_id))[0].endswith("'Ada'")
            book = await second.read_resource(f"notebook://{session_id}")
            assert json.loads(book[0].text)["cells"][0]["source"]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await cell(second, "time.sleep(60)", session_id)
            waited = {"session_id": session_id, "wait": 20}
            stopped = await first.call_tool("read_output", waited)
            assert stopped.structured_content["status"] == "interrupted"
            await first.call_tool("close_session", {"session_id": session_id})

    with nginx(house.folder, instances) as url:
        callers = {await led_to(house, url, token): token for token in TOKENS.values()}
        assert len(callers) > 1, "all callers are led to one instance"
        async with asyncio.timeout(120):
            await asyncio.gather(*(use(url, token) for token in callers.values()))
    assert printed.count("one\n") >= len(callers)
    assert {instance.port for instance in instances if instance.opened} == callers.keys()
    for instance in instances:
        instance.stop()


@needs_nginx
def test_nginx_leads_a_viewer_of_the_review_pages_to_one_instance(house: House) -> None:
    instances = house.start(3)
    log = house.folder / "access.log"
    log.unlink(missing_ok=True)
    with nginx(house.folder, instances) as url:
        for user in range(USERS):
            origin = {"Origin": "http://127.0.0.1"}  # as with a port that needs no mention
            with httpx2.Client(base_url=url, follow_redirects=True) as browser:
                token = {"token": TOKENS[f"u{user}"]}
                page = browser.post("/review/sign-in", data=token, headers=origin)
                assert page.status_code == 200 and "token" not in page.url.path, page.text
                for number in range(5):
                    assert browser.get(f"/?user={user}&n={number}").status_code == 200
    served: dict[str, set[str]] = {}
    for user, instance in re.findall(r"/\?user=(\d+)&n=\d \S+ (\S+)", log.read_text()):
        served.setdefault(user, set()).add(instance)
    assert len(served) == USERS and all(len(one) == 1 for one in served.values()), served
    assert len(set.union(*served.values())) > 1
    for instance in instances:
        instance.stop()


@pytest.mark.parametrize("mode", MODES)
async def test_a_call_that_comes_to_another_instance_is_refused_with_the_cause(
    house: House, mode: str
) -> None:
    home, other = house.start()
    (house.folder / "python_projects" / "x.py").write_text("x")
    async with (
        client(home.url, mode=mode) as here,
        client(other.url, mode=mode) as there,
        client(other.url, OTHER, mode=mode) as stranger,
    ):
        _, facts = await cell(here, "import time; x = 1")
        session_id = facts["session_id"]
        going_on = asyncio.create_task(cell(here, "time.sleep(600)", session_id))
        cause = rf":{home.port}\), which keeps it: cell 2 is running\. Nothing was done.*Authorization.*docs/clustering\.md"
        for tool, more in (
            ("run_cell", {"code": "x"}),
            ("run_python", {"file_name": "x.py"}),
            ("read_output", {}),
            ("interrupt_session", {}),
            ("restart_session", {}),
            ("fork_session", {}),
            ("restore_session", {"cell": 1}),
            ("close_session", {}),
        ):
            with pytest.raises(ToolError, match=cause):
                await there.call_tool(tool, {"session_id": session_id, **more})
            with pytest.raises(ToolError, match="There is no session"):
                await stranger.call_tool(tool, {"session_id": session_id, **more})
        with pytest.raises(ToolError, match=cause):
            await there.call_tool("resume_session", {"notebook": session_id})
        for uri in (f"notebook://{session_id}", f"variable://{session_id}/x"):
            with pytest.raises(MCPError, match=cause):
                await there.read_resource(uri)
        listed = await there.call_tool("list_sessions", {})
        assert [row["session_id"] for row in listed.structured_content["sessions"]] == [session_id]
        listed = await stranger.call_tool("list_sessions", {})
        assert listed.structured_content["sessions"] == []
        await here.call_tool("interrupt_session", {"session_id": session_id})
        assert (await going_on)[1]["status"] == "interrupted"
        assert (await cell(here, "x", session_id))[0] == "1"
        await here.call_tool("close_session", {"session_id": session_id})
        for one in (here, there):
            with pytest.raises(ToolError, match="has ended"):
                await cell(one, "x", session_id)
    for instance in (home, other):
        instance.stop()


@needs_nginx
async def test_a_session_comes_back_to_an_instance_that_was_started_again(house: House) -> None:
    instances = house.start(3)
    with nginx(house.folder, instances) as url:
        async with client(url) as one:
            _, facts = await cell(one, "x = 41")
        session_id = facts["session_id"]
        port = await led_to(house, url)
        [first] = [instance for instance in instances if instance.port == port]
        first.process.kill()
        first.process.wait()
        async with client(url) as one:
            assert (await cell(one, "x", session_id))[0] == "41"
        again = house.start_again(first)
        instances.remove(first)
        async with asyncio.timeout(SOON * 2):
            while await led_to(house, url) != port:  # nginx has not tried it again yet
                await asyncio.sleep(0.5)
        async with client(url) as one, asyncio.timeout(SOON):
            text, facts = "", {}
            while not text:
                with contextlib.suppress(ToolError):  # it was used a moment ago where it was
                    text, facts = await cell(one, "x + 1", session_id)
            assert (text, facts["state"]) == ("42", "kept")
            await one.call_tool("close_session", {"session_id": session_id})
    for instance in (*instances, again):
        instance.stop()
    await no_kernel_is_left(house)


@needs_nginx
async def test_an_older_client_goes_on_when_the_instance_that_it_was_connected_with_dies(
    house: House,
) -> None:
    instances = house.start(2)
    with nginx(house.folder, instances) as url:
        async with client(url, mode="legacy") as one:
            _, facts = await cell(one, "x = 41")
            port = await led_to(house, url)
            [home] = [instance for instance in instances if instance.port == port]
            home.process.kill()
            home.process.wait()
            assert (await cell(one, "x + 1", facts["session_id"]))[0] == "42"
            await one.call_tool("close_session", {"session_id": facts["session_id"]})
    instances.remove(home)
    instances[0].stop()
    await no_kernel_is_left(house)


async def test_a_run_outlives_the_instance_that_began_it(house: House) -> None:
    home, other = house.start()
    async with client(home.url) as here, client(other.url) as there:
        _, facts = await cell(here, "import time; x = 1")
        session_id = facts["session_id"]
        code = "print('begun', flush=True)\ntime.sleep(3)\nx = 2"
        begun = asyncio.Event()

        async def tell(*_: Any) -> None:
            begun.set()

        call = {"code": code, "session_id": session_id}
        run = asyncio.create_task(here.call_tool("run_cell", call, progress_handler=tell))
        await asyncio.wait_for(begun.wait(), SOON)
        home.process.kill()
        with pytest.raises((MCPError, httpx2.HTTPError, RuntimeError, ToolError)):
            await run
        waited = {"session_id": session_id, "cell": 2, "wait": 20}
        left = await there.call_tool("read_output", waited)
        assert left.structured_content["state"] == "kept"
        assert "has stopped. The kernel went on" in left.content[0].text
        text, facts = await cell(there, "x", session_id)
        assert (text, facts["cell"]) == ("2", 3)
        await there.call_tool("close_session", {"session_id": session_id})
    other.stop()


async def test_while_the_store_is_silent_calls_are_refused_and_nothing_is_lost(
    house: House,
) -> None:
    port = free_port()
    with redis(house.folder, port) as store:
        [instance] = house.start(1, RMI_AGENT_SESSION_STORE=store)
        async with client(instance.url) as one:
            _, facts = await cell(one, "x = 1")
    async with client(instance.url) as one:
        with pytest.raises(ToolError, match=r"RMI_AGENT_SESSION_STORE.*Nothing was done"):
            await cell(one, "2")
        with redis(house.folder, port):  # it is back, and has forgotten all
            assert (await cell(one, "x", facts["session_id"]))[0] == "1"
            await one.call_tool("close_session", {"session_id": facts["session_id"]})
            instance.stop()
    await no_kernel_is_left(house)


async def test_a_server_that_is_started_again_has_its_sessions_again(house: House) -> None:
    store = str(house.folder / "records")
    [before] = house.start(1, RMI_AGENT_SESSION_STORE=store)
    async with client(before.url) as one:
        _, facts = await cell(one, "x = 41")
    before.stop()
    [after] = house.start(1, RMI_AGENT_SESSION_STORE=store)
    async with client(after.url) as one:
        text, again = await cell(one, "x + 1", facts["session_id"])
        assert (text, again["cell"], again["state"]) == ("42", 2, "kept")
        assert again["notebook"] == facts["notebook"]
        await one.call_tool("close_session", {"session_id": facts["session_id"]})
    after.stop()
