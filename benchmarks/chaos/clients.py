"""The side of the chaos run that uses the server: clients that call tools at random.

Each remembers what it was told, and holds later answers against that. Knows MCP; nothing of
processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx2
from fastmcp import Client

from ..harness import Acknowledged
from .cells import CELLS, COUNT, ENDS, FILES, FLOODS, TIMEOUTS
from .monkey import Report, Target

LONGEST = 60.0  # seconds that a call may take while the server is up
LAST_WORDS = 2.0  # seconds that calls get to fail by themselves when the server has ended
LIMIT = 3.0  # seconds that most runs may take
NO_WORDS = re.compile(r"Error calling tool|\bincident [0-9a-f]{8}\b|Traceback")
SESSIONS = 3  # that a client keeps at most


class ServerEnded(Exception):
    """The server was ended while a call went on."""


@dataclass
class Record:
    """What the clients did, and what they were told."""

    calls: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)  # calls without an answer, by exception
    seconds: list[tuple[float, str]] = field(default_factory=list)  # of calls, outages left out
    runs: list[Acknowledged] = field(default_factory=list)
    counted: int = 0  # counters whose value was known before
    notebooks: dict[str, list[str]] = field(default_factory=dict)  # by principal


class User:
    """One client, doing one thing after the other.

    Args:
        number: its own, which decides its transport and era.
        name: its principal.
        token: the principal's.
        target: the server.
        chance: where its choices come from.
        record: all clients' common one.
        report: takes what was wrong, with the rule's name.
        actions: the names of what it does, as often as it is to do it.
    """

    def __init__(
        self,
        number: int,
        name: str,
        token: str,
        target: Target,
        chance: random.Random,
        record: Record,
        report: Report,
        actions: list[str],
    ) -> None:
        self.number, self.name, self.token = number, name, token
        self.target, self.chance, self.record, self.report = target, chance, record, report
        self.counters: dict[str, int | None] = {}  # by session: the counter there, if known
        self.last: dict[str, Any] = {}
        self.doing = ""
        self._actions = actions
        self._serial = itertools.count()

    async def live(self, ends: float) -> None:
        while time.monotonic() < ends:
            self.server_ended = await self.target.up()
            self.counters.clear()
            began = time.monotonic()
            try:
                async with self.connect(self.target.url) as self.client:
                    while time.monotonic() < ends and not self.server_ended.is_set():
                        self.doing = self.chance.choice(self._actions)
                        await getattr(self, self.doing)()
            except ServerEnded:
                pass
            except Exception as error:
                self.record.broken[f"connection: {first_of(error)}"] += 1
                if not self.disturbed(began):
                    self.report("no answer", f"a connection failed: {first_of(error)}")
                await asyncio.sleep(0.2)

    def connect(self, url: str) -> Client[Any]:
        """A client of one of three sorts."""
        path, mode = [("mcp", "auto"), ("mcp", "legacy"), ("sse", "legacy")][self.number % 3]
        return Client(f"{url}/{path}", auth=self.token, mode=mode)

    def disturbed(self, since: float) -> bool:
        """Whether the server was stopped or down since then, or has been ended."""
        return self.server_ended.is_set() or self.target.outages.within(since, time.monotonic()) > 0

    # -- calls

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """The facts of the answer; empty if it was an error, `{"text": …}` besides the facts.

        Raises:
            ServerEnded: meanwhile.
        """
        self.record.calls[tool] += 1
        given = {name: value for name, value in arguments.items() if value is not None}
        began = time.monotonic()
        calling = asyncio.create_task(self.client.call_tool_mcp(tool, given))
        try:
            await self._wait(calling, began, f"{tool}({str(given)[:300]})")
        finally:
            calling.cancel()
        try:
            result = calling.result()
        except (Exception, asyncio.CancelledError) as error:
            self.record.broken[f"{tool}: {first_of(error)}"] += 1
            if self.server_ended.is_set():
                raise ServerEnded from None
            if not self.disturbed(began):
                self.report("no answer", f"{tool}({str(given)[:300]}): {error!r}")
            self._doubt(given)
            return {}
        text = "".join(block.text for block in result.content if block.type == "text")
        if result.is_error:
            self._take_error(tool, given, text)
            return {}
        return {**(result.structured_content or {}), "text": text}

    async def _wait(self, calling: asyncio.Task[Any], began: float, what: str) -> None:
        """Until the answer, the server's end, or the time that a call may take."""
        ended = asyncio.create_task(self.server_ended.wait())
        try:
            while not calling.done():
                await asyncio.wait({calling, ended}, timeout=1, return_when="FIRST_COMPLETED")
                now = time.monotonic()
                seconds = now - began - self.target.outages.within(began, now)
                if ended.done():
                    await asyncio.wait({calling}, timeout=LAST_WORDS)
                    break
                if seconds > LONGEST:
                    self.report("hang", f"no answer within {LONGEST:g} s: {what}")
                    break
            now = time.monotonic()
            self.record.seconds.append(
                (now - began - self.target.outages.within(began, now), f"{self.doing}: {what}")
            )
        finally:
            ended.cancel()
            if not calling.done():
                calling.cancel()
                await asyncio.wait({calling}, timeout=5)

    def _take_error(self, tool: str, given: dict[str, Any], text: str) -> None:
        self.record.errors[re.sub(r"(Session|session|Cell) \S+", r"\1 …", text)[:90]] += 1
        if NO_WORDS.search(text) or not re.search(r"\w\w+ \w\w+", text):
            self.report("no words", f"{tool}({str(given)[:300]}): {text!r}")
        self._doubt(given)
        if "has ended" in text or "no session" in text:
            self.counters.pop(given.get("session_id", ""), None)

    def _doubt(self, given: dict[str, Any]) -> None:
        """Nobody knows what became of a run: its session's counter may be anything."""
        if given.get("session_id") in self.counters:
            self.counters[given["session_id"]] = None

    async def run(
        self, tool: str, source: str, output: str = "", **arguments: Any
    ) -> dict[str, Any]:
        """Run something, and remember what was acknowledged; empty if nothing was."""
        facts = await self.call(tool, **arguments)
        if "status" in facts:
            self._take(facts, source, output)
        return facts

    def _take(self, facts: dict[str, Any], source: str | None, output: str = "") -> None:
        self.record.statuses[facts["status"]] += 1
        session = facts["session_id"]
        self.last = {"session_id": session, "cell": facts["cell"], "source": source}
        if facts["status"] == "running":
            self.counters[session] = None
            return
        if facts["notebook"] is None or "was not recorded" in facts["text"]:
            self.report("notebook", f"acknowledged without a record: {facts}")
            return
        self._acknowledge(facts, source, output if facts["status"] == "ok" else "")
        self.record.notebooks.setdefault(self.name, []).append(facts["notebook"])
        if session not in self.counters or facts["state"] == "lost":
            self.counters[session] = 0

    def _acknowledge(self, facts: dict[str, Any], source: str | None, output: str = "") -> None:
        self.record.runs.append(
            Acknowledged(facts["notebook"], facts["cell"], facts["status"], source, output)
        )

    def session(self, fresh: float = 0.25) -> str | None:
        """One of its own, or None for a fresh one."""
        if not self.counters or (len(self.counters) < SESSIONS and self.chance.random() < fresh):
            return None
        return self.chance.choice(list(self.counters))

    def marked(self, code: str) -> str:
        """Code that no other cell has."""
        return f"{code}\n# {self.name} {self.number} {next(self._serial)}"

    # -- what it does

    async def count(self) -> None:
        """A counter in a session goes on from where it was, unless a result says `lost`."""
        session = self.session()
        code = self.marked(COUNT)
        before = self.counters.get(session, None if session else 0)  # type: ignore[arg-type]
        facts = await self.run("run_cell", code, code=code, session_id=session, timeout=LIMIT)
        if facts.get("status") in (None, "running"):
            return
        session = facts["session_id"]
        found = re.search(r"^counter=(\d+)$", facts["text"], re.MULTILINE)
        if facts["status"] != "ok" or found is None:
            self.counters[session] = 0 if facts["state"] == "lost" else None
            if facts["status"] == "ok":
                self.report("output", f"a counter printed nothing: {facts}")
            return
        value = int(found[1])
        expected = 1 if facts["state"] == "lost" else None if before is None else before + 1
        if expected is not None:
            self.record.counted += 1
        if expected not in (None, value):
            self.report("state", f"the counter is {value} instead of {expected}: {facts}")
        self.counters[session] = value
        self._acknowledge(facts, code, found[0])

    async def burst(self) -> None:
        """Several cells at once in one session, and several sessions at once."""
        session = self.session(0)
        codes = [self.marked("print('burst')") for _ in range(self.chance.randrange(2, 8))]
        await gathered(
            self.run("run_cell", code, "burst", code=code, session_id=session, timeout=LIMIT)
            for code in codes
        )

    async def cell(self) -> None:
        await self._cell_of(CELLS)

    async def end(self) -> None:
        await self._cell_of(ENDS)

    async def timeout(self) -> None:
        await self._cell_of(TIMEOUTS, self.chance.uniform(0.2, 2.5))

    async def flood(self) -> None:
        await self._cell_of(FLOODS)

    async def _cell_of(self, cells: dict[str, str], limit: float = LIMIT) -> None:
        name = self.chance.choice(list(cells))
        self.doing += f" {name}"
        code = self.marked(cells[name])
        await self.run("run_cell", code, code=code, session_id=self.session(), timeout=limit)

    async def file(self) -> None:
        name = self.chance.choice(list(FILES))
        path, source = f"{self.name}{self.number}/{name}", FILES[name]
        if not await self.call("write_python_file", file_name=path, content=source):
            return
        number = self.chance.randrange(1, 100)
        args, stdin = [str(number), "ä b"], f"line {number}\n"
        session = self.session(0.6)
        facts = await self.run(
            "run_python",
            source,
            file_name=path,
            args=args,
            stdin=stdin,
            session_id=session,
            timeout=LIMIT,
        )
        self._doubt(facts)
        status = facts.get("status")
        if name == "echo.py" and status == "ok" and f"{args} {stdin!r}" not in facts["text"]:
            self.report("output", f"a file was not given its arguments or stdin: {facts}")
        if name == "exits.py" and status == "error" and facts["exit_code"] != number:
            self.report("output", f"a file's exit code is not {number}: {facts}")

    async def look(self) -> None:
        await self.call(self.chance.choice(["list_sessions", "list_python_files"]))

    async def read(self) -> None:
        """The last run again, which may still go on; its output in pages."""
        if not self.last:
            return
        key, source = dict(self.last), self.last["source"]
        key.pop("source")
        offset = self.chance.choice([0, 0, 10, 100_000])
        facts = await self.call(
            "read_output", **key, wait=self.chance.choice([0, 3]), offset=offset
        )
        if facts.get("status") not in (None, "running") and facts["notebook"]:
            self._acknowledge(facts, source)

    async def button(self) -> None:
        if not self.counters:
            return
        session = self.session(0)
        tool = self.chance.choice(["interrupt_session", "restart_session", "close_session"])
        assert session is not None
        done = await self.call(tool, session_id=session)
        if tool == "close_session":
            self.counters.pop(session, None)
        elif tool == "restart_session":
            self.counters[session] = 0 if done else None

    async def meddle(self) -> None:
        """A button for a session of another client with the same token, or of another user."""
        facts = await self.call("list_sessions")
        if rows := facts.get("sessions"):
            session = self.chance.choice(rows)["session_id"]
            await self.call("interrupt_session", session_id=session)

    async def resume(self) -> None:
        if notebooks := self.record.notebooks.get(self.name):
            notebook = self.chance.choice(notebooks[-40:])
            facts = await self.call(
                "resume_session", notebook=notebook, until=3, skip_failed=True, timeout=8
            )
            if "session_id" in facts:
                self.counters[facts["session_id"]] = None

    async def cancel(self) -> None:
        """Cancel a call after a moment, as clients do that lose patience."""
        floods = FLOODS.values() if "flood" in self._actions else ()
        code = self.marked(self.chance.choice([*TIMEOUTS.values(), COUNT, *floods]))
        session = self.session()
        self.record.calls["(cancelled)"] += 1
        calling = asyncio.create_task(
            self.client.call_tool_mcp(
                "run_cell",
                {"code": code, "timeout": 20} | ({"session_id": session} if session else {}),
            )
        )
        await asyncio.wait({calling}, timeout=self.chance.random() ** 2)
        calling.cancel()
        await asyncio.wait({calling}, timeout=10)
        if calling.done() and not calling.cancelled():
            calling.exception()
        self._doubt({"session_id": session})

    async def drop(self) -> None:
        """Drop a connection in the middle of a call."""
        head = {
            "Accept": "application/json, text/event-stream",
            "Authorization": f"Bearer {self.token}",
        }
        hello = {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "chaos", "version": "1"},
        }
        self.record.calls["(dropped)"] += 1
        with contextlib.suppress(httpx2.HTTPError, KeyError):
            async with httpx2.AsyncClient(base_url=self.target.url, headers=head) as http:
                first = await http.post("/mcp", json=message("initialize", 0, **hello), timeout=10)
                head["Mcp-Session-Id"] = first.headers["Mcp-Session-Id"]
                ready = message("notifications/initialized", None)
                await http.post("/mcp", headers=head, json=ready, timeout=10)
                code = self.marked(self.chance.choice([*TIMEOUTS.values(), COUNT]))
                call = message("tools/call", 1, name="run_cell", arguments={"code": code})
                seconds = self.chance.uniform(0.05, 1.5)
                await http.post("/mcp", headers=head, json=call, timeout=seconds)


# What it does, and how often.
ACTIONS = {
    "count": 22,
    "cell": 12,
    "file": 8,
    "flood": 5,
    "timeout": 5,
    "end": 6,
    "burst": 3,
    "read": 6,
    "look": 4,
    "button": 5,
    "meddle": 2,
    "resume": 2,
    "cancel": 4,
    "drop": 2,
}


def message(method: str, number: int | None, **params: Any) -> dict[str, Any]:
    identity = {} if number is None else {"id": number}
    return {"jsonrpc": "2.0", **identity, "method": method, "params": params}


async def gathered(calls: Any) -> None:
    """All of them to their end; then the first exception."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


def first_of(error: BaseException) -> str:
    """An exception in a line; of a group, the first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"[:100]
