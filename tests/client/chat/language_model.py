"""A server on this machine that speaks the providers' protocols, and follows a script."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Request = dict[str, Any]


@dataclass(frozen=True)
class Call:
    """The model calls a tool."""

    tool: str
    arguments: dict[str, Any] | str = field(default_factory=dict)
    words: str = ""  # said before it


@dataclass(frozen=True)
class Refuse:
    """The provider refuses the request."""

    status: int
    code: str
    message: str = "no"


Turn = str | Call | Refuse | Callable[[Request], "str | Call | Refuse"]


@dataclass
class LanguageModel:
    """Answers each request by the next turn of its script.

    Attributes:
        requests: all that it was asked, as it came.
        failure: what a turn of the script has not found as it should be.
    """

    turns: list[Turn]
    url: str = ""
    requests: list[Request] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    failure: BaseException | None = None
    asked: threading.Event = field(default_factory=threading.Event)

    def answer(self, request: Request, headers: dict[str, str]) -> str | Call | Refuse:
        self.requests.append(request)
        self.headers.append(headers)
        self.asked.set()
        try:
            turn = self.turns.pop(0)
            return turn(request) if callable(turn) else turn
        except BaseException as error:
            self.failure = self.failure or error
            return Refuse(400, "script", f"the script failed: {error!r}")


def results(request: Request) -> list[str]:
    """What the tools have answered so far."""
    return [text_of(m["content"]) for m in request["messages"] if m["role"] == "tool"]


def text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


def images(request: Request) -> list[str]:
    """The pictures that the model was given, as data URLs."""
    return [
        part["image_url"]["url"]
        for message in request["messages"]
        if isinstance(message.get("content"), list)
        for part in message["content"]
        if part["type"] == "image_url"
    ]


def deltas(turn: str | Call) -> Iterator[dict[str, Any]]:
    """A turn in the pieces of a stream."""
    words = turn if isinstance(turn, str) else turn.words
    for start in range(0, len(words), 7):
        yield {"content": words[start : start + 7]}
    if isinstance(turn, Call):
        given = turn.arguments
        text = given if isinstance(given, str) else json.dumps(given)
        function: dict[str, str] = {"name": turn.tool, "arguments": ""}
        call = {"index": 0, "id": f"call_{id(turn)}", "type": "function"}
        yield {"tool_calls": [{**call, "function": function}]}
        for start in range(0, len(text), 40):
            piece = {"arguments": text[start : start + 40]}
            yield {"tool_calls": [{"index": 0, "function": piece}]}


def anthropic(turn: str | Call) -> list[dict[str, Any]]:
    """A turn as the events of Anthropic's messages."""
    words = turn if isinstance(turn, str) else turn.words
    text = {"type": "text_delta", "text": words}
    blocks = [({"type": "text", "text": ""}, text)]
    if isinstance(turn, Call):
        given = {"type": "input_json_delta", "partial_json": json.dumps(turn.arguments)}
        blocks.append(({"type": "tool_use", "id": "tool_1", "name": turn.tool, "input": {}}, given))
    usage = {"input_tokens": 1, "output_tokens": 1}
    message = {
        "id": "m1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }
    events: list[dict[str, Any]] = [{"type": "message_start", "message": message}]
    for index, (block, delta) in enumerate(blocks):
        events += [
            {"type": "content_block_start", "index": index, "content_block": block},
            {"type": "content_block_delta", "index": index, "delta": delta},
            {"type": "content_block_stop", "index": index},
        ]
    ends = "tool_use" if isinstance(turn, Call) else "end_turn"
    end = {"stop_reason": ends, "stop_sequence": None}
    return [
        *events,
        {"type": "message_delta", "delta": end, "usage": usage},
        {"type": "message_stop"},
    ]


def gemini(turn: str | Call) -> list[dict[str, Any]]:
    """A turn as a stream of Gemini's content."""
    parts: list[dict[str, Any]] = [{"text": turn if isinstance(turn, str) else turn.words}]
    if isinstance(turn, Call):
        parts.append({"functionCall": {"name": turn.tool, "args": turn.arguments}})
    content = {"role": "model", "parts": parts}
    return [{"candidates": [{"content": content, "finishReason": "STOP", "index": 0}]}]


@contextlib.contextmanager
def language_model(*turns: Turn) -> Iterator[LanguageModel]:
    """A server that follows a script; all of it has to be followed."""
    model = LanguageModel(list(turns))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            turn = model.answer(json.loads(body), headers)
            with contextlib.suppress(ConnectionError):
                if isinstance(turn, Refuse):
                    self.refuse(turn)
                elif self.path.endswith("/messages?beta=true") or self.path.endswith("/messages"):
                    self.events(anthropic(turn))
                elif ":streamGenerateContent" in self.path:
                    self.events(gemini(turn))
                else:
                    self.stream(turn, bool(json.loads(body).get("stream")))

        def refuse(self, turn: Refuse) -> None:
            error = {"message": turn.message, "type": turn.code, "code": turn.code}
            self.send(turn.status, "application/json", json.dumps({"error": error}))

        def stream(self, turn: str | Call, streamed: bool) -> None:
            head = {"id": "c1", "created": 1, "model": "scripted"}
            ends = "tool_calls" if isinstance(turn, Call) else "stop"
            if not streamed:
                message: dict[str, Any] = {"role": "assistant", "content": turn}
                if isinstance(turn, Call):
                    function = {"name": turn.tool, "arguments": json.dumps(turn.arguments)}
                    calls = [{"id": f"call_{id(turn)}", "type": "function", "function": function}]
                    message |= {"content": None, "tool_calls": calls}
                choice = {"index": 0, "message": message, "finish_reason": ends}
                whole = {**head, "object": "chat.completion", "choices": [choice]}
                self.send(200, "application/json", json.dumps(whole))
                return
            pieces = [{"role": "assistant"}, *deltas(turn)]
            lines = [
                {**head, "object": "chat.completion.chunk", "choices": [choice]}
                for choice in [
                    *({"index": 0, "delta": delta, "finish_reason": None} for delta in pieces),
                    {"index": 0, "delta": {}, "finish_reason": ends},
                ]
            ]
            text = "".join(f"data: {json.dumps(line)}\n\n" for line in lines)
            self.send(200, "text/event-stream", text + "data: [DONE]\n\n")

        def events(self, events: list[dict[str, Any]]) -> None:
            lines = [f"data: {json.dumps(event)}\n\n" for event in events]
            named = [f"event: {event['type']}\n" if "type" in event else "" for event in events]
            text = "".join(name + line for name, line in zip(named, lines, strict=True))
            self.send(200, "text/event-stream", text)

        def send(self, status: int, kind: str, text: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(text.encode())))
            self.send_header("x-should-retry", "false")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        model.url = f"http://127.0.0.1:{server.server_port}/v1"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield model
        finally:
            server.shutdown()
            thread.join()
    if model.failure is not None:
        raise model.failure
    assert not model.turns, f"not asked for: {model.turns}"
