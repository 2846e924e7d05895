"""`rmi-agent chat` with a scripted language model, a real server and real kernels."""

from __future__ import annotations

import base64
import io
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rmi_agent.cli import app
from rmi_agent.client.chat import Keys, choose
from rmi_agent.client.chat.models import ENV_FILES
from rmi_agent.client.chat.transcript import settled

from tests.client.chat.language_model import Call, Refuse, Request, images, language_model, results
from tests.server.conftest import fill

Chat = Callable[..., tuple[int, str, str]]
KEY = "sk-a-key-of-the-test"
CHAT_NEEDS = 'chat needs an extra: run pip install -e ".[chat]" in the checkout.\n'
BUGGY = "numbers = [1, 2, 0]\nfor n in numbers:\n    print(10 / n)\n"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder without `.env`, and an environment without keys but the test's own."""
    for name in ("OPENAI", "GOOGLE", "GEMINI", "ANTHROPIC"):
        monkeypatch.delenv(f"{name}_API_KEY", raising=False)
    for name in ("OPENAI_BASE_URL", "OLLAMA_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("RMI_AGENT_MODEL", "RMI_AGENT_CHAT_HISTORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("PYTEST_CURRENT_TEST", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("PYTHON_PROJECTS_DIR", str(fill(tmp_path)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(Keys.model_config, "env_file", (".env",))  # and not the developer's own
    yield tmp_path


@pytest.fixture
def chat(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Chat:
    """Run `rmi-agent chat` through a pipe: its exit code, stdout and stderr."""

    def run(*words: str, piped: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(piped))
        monkeypatch.setattr("rmi_agent.client.chat.hide_api_keys", lambda: None)
        with pytest.raises(SystemExit) as left:
            app(["chat", *words])
        captured = capfd.readouterr()
        return int(left.value.code or 0), captured.out, captured.err

    return run


def session(request: Request) -> str:
    """The session that the last result has named."""
    return re.findall(r"session_id: ([\w-]+)", results(request)[-1])[-1]


def looks_into_it(request: Request) -> Call:
    assert "ZeroDivisionError" in results(request)[-1]
    assert "Process exited with code 1" in results(request)[-1]
    return Call("run_cell", {"code": "n, numbers", "session_id": session(request)})


def writes_the_fix(request: Request) -> Call:
    assert "(0, [1, 2, 0])" in results(request)[-1]
    fixed = BUGGY.replace("numbers:", "filter(None, numbers):")
    return Call("write_python_file", {"file_name": "halves.py", "content": fixed})


def runs_it_again(request: Request) -> Call:
    assert "Replaced halves.py" in results(request)[-1]
    return Call("run_python", {"file_name": "halves.py"})


def plots(request: Request) -> Call:
    assert "10.0\n5.0\n[Process exited with code 0]" in results(request)[-1]
    code = "import os, matplotlib.pyplot as plt\nplt.plot([10, 5])\nprint(dict(os.environ))"
    return Call("run_cell", {"code": code})


def sees_the_plot(request: Request) -> str:
    assert "API_KEY" not in results(request)[-1]
    assert KEY not in str(request)
    [url] = images(request)
    assert base64.b64decode(url.removeprefix("data:image/png;base64,")).startswith(b"\x89PNG")
    return "It works now.\n\n**10** and *5*."


@pytest.mark.slow
def test_a_model_writes_runs_reads_the_error_fixes_and_plots(
    chat: Chat, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with language_model(
        Call("write_python_file", {"file_name": "halves.py", "content": BUGGY}, "Let me see."),
        Call("run_python", {"file_name": "halves.py"}),
        looks_into_it,
        writes_the_fix,
        runs_it_again,
        plots,
        sees_the_plot,
    ) as model:
        words = ("--model", "openai:gpt-x", "--base-url", model.url)
        code, out, err = chat("Halve some numbers", *words, piped="with a plot")
        first = model.requests[0]
    assert code == 0, err
    assert out == "It works now.\n\n**10** and *5*.\n"
    assert "Let me see." in err
    assert "> run_python(file_name='halves.py')" in err
    assert "< run_python: error" in err
    assert "ZeroDivisionError" in err
    assert re.search(r"\[picture: .*\.png\]", err)
    assert KEY not in out + err
    assert model.headers[0]["authorization"] == f"Bearer {KEY}"
    assert first["model"] == "gpt-x"
    assert first["messages"][0]["role"] == "system"
    assert "run_python runs a file" in first["messages"][0]["content"]
    assert first["messages"][-1]["content"] == "Halve some numbers\n\nwith a plot"
    tools = {tool["function"]["name"]: tool["function"] for tool in first["tools"]}
    assert {"run_python", "run_cell", "read_output", "write_python_file"} <= set(tools)
    assert tools["run_cell"]["parameters"]["required"] == ["code"]
    assert "Jupyter" in tools["run_cell"]["description"]


def refused(request: Request) -> Call:
    assert "File not found: nope.py" in results(request)[-1]
    return Call("run_cell", {"no_code": 1})


def not_understood(request: Request) -> Call:
    assert "code" in results(request)[-1]
    return Call("run_cell", "[1, 2]")


def broken(request: Request) -> Call:
    return Call("no_such_tool", "{'broken")


@pytest.mark.slow
def test_what_a_model_does_wrong_is_told_to_the_model(chat: Chat) -> None:
    with language_model(
        Call("run_python", {"file_name": "nope.py"}), refused, not_understood, broken, "I give up."
    ) as model:
        code, out, err = chat("Go", "--model", "any-name:7b", "--base-url", model.url)
    assert (code, out) == (0, "I give up.\n"), err
    assert "< run_python: refused" in err


@pytest.mark.parametrize(
    ("turn", "told"),
    [
        (Refuse(401, "invalid_api_key", f"Incorrect: {KEY}"), "refuses the key"),
        (Refuse(429, "rate_limit_exceeded"), "accepts no more requests for now"),
        (Refuse(404, "model_not_found"), "does not know gpt-x"),
        (Refuse(400, "context_length_exceeded"), "/new starts another"),
        (Refuse(500, "server_error"), "can't answer just now"),
        (Refuse(400, "invalid_request", f"too odd\nwith {KEY}"), "too odd with …"),
    ],
)
@pytest.mark.anyio
@pytest.mark.slow
async def test_a_providers_error_is_one_line_and_the_conversation_goes_on(
    turn: Refuse, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fastmcp import FastMCP
    from rmi_agent.client import RmiMcpClient
    from rmi_agent.client.chat import Chat

    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    keys = Keys()
    with language_model(turn, "Here I am.") as model:
        async with RmiMcpClient(FastMCP("empty")) as client:
            conversation = Chat(choose("openai:gpt-x", model.url, True, keys), keys)
            conversation.use(client)
            assert not await conversation.answer("first")
            error = capsys.readouterr().err
            assert await conversation.answer("second")
        said = [m["content"] for m in model.requests[-1]["messages"] if m["role"] == "user"]
    assert said == ["second"]
    assert told in error
    assert error.count("\n") == 1
    assert KEY not in error


@pytest.mark.slow
def test_no_server_is_one_line(chat: Chat) -> None:
    code, out, err = chat("Go", "--model", "ollama:x", "--base-url", "http://127.0.0.1:9")
    assert (code, out) == (1, "")
    assert err.endswith("check the network, and that the server is running\n")
    assert "http://127.0.0.1:9/v1" in err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--model", "openai:x"], "OPENAI_API_KEY is not set"),
        *(
            pytest.param(words, told, marks=pytest.mark.slow)
            for words, told in (
                (["--model", "google:x"], "GOOGLE_API_KEY (or GEMINI_API_KEY) is not set"),
                (["--model", "gemini:x"], "GOOGLE_API_KEY (or GEMINI_API_KEY) is not set"),
                (["--model", "anthropic:x"], "ANTHROPIC_API_KEY is not set"),
                (["--model", "x"], "--model x: use openai:NAME, google:NAME"),
                (["--model", "openai:"], "--model openai:: use"),
                ([], "No model is named: give --model openai:NAME"),
                (["--base-url", "http://127.0.0.1:9"], "No model is named"),
                (["--continue", "--model", "ollama:x"], "No chat is kept"),
                (["--resume", "../x"], "No chat '../x' is kept"),
                (
                    ["--model", "x", "--base-url", "127.0.0.1:9"],
                    "The base URL '127.0.0.1:9' is invalid",
                ),
                (
                    ["--model", "google:x", "--base-url", "http://far.example"],
                    "http://far.example: your key would be sent there",
                ),
            )
        ),
    ],
)
def test_what_is_missing_is_one_line(chat: Chat, words: list[str], told: str) -> None:
    code, out, err = chat("Go", *words)
    assert (code, out) == (1, "")
    assert err.startswith(told)
    assert err.count("\n") == 1


def test_keys_may_stand_in_the_env_file_of_a_checkout() -> None:
    assert Path(__file__).parents[3] / ".env" in ENV_FILES


def test_nothing_asked_is_said(chat: Chat) -> None:
    assert chat(piped=" \n") == (1, "", "There is no question: give one, or pipe one in.\n")


def test_the_extra_is_named_when_it_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("rmi_agent.client.chat")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pydantic_ai", None)
    with pytest.raises(SystemExit) as left:
        app(["chat", "Go"])
    assert left.value.code == 1
    assert capsys.readouterr().err == CHAT_NEEDS


@pytest.mark.parametrize(
    ("variables", "name", "built"),
    [
        ({"OPENAI_API_KEY": KEY}, "openai:gpt-x", ("OpenAIResponsesModel", "gpt-x")),
        ({"GEMINI_API_KEY": KEY}, "google:gem", ("GoogleModel", "gem")),
        ({"GOOGLE_API_KEY": KEY}, "gemini:gem", ("GoogleModel", "gem")),
        ({"ANTHROPIC_API_KEY": KEY}, "anthropic:cl", ("AnthropicModel", "cl")),
        ({}, "ollama:qwen4:8b", ("OllamaModel", "qwen4:8b")),
        ({"OPENAI_BASE_URL": "http://127.0.0.1:9"}, "openai:q", ("OpenAIChatModel", "q")),
        ({"ANTHROPIC_API_KEY": KEY}, None, ("AnthropicModel", "claude-sonnet-5-5")),
        ({"GEMINI_API_KEY": KEY, "RMI_AGENT_MODEL": "google:a"}, None, ("GoogleModel", "a")),
    ],
)
@pytest.mark.slow
def test_a_name_or_a_key_chooses_the_model(
    variables: dict[str, str],
    name: str | None,
    built: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    model = choose(name, None, True, Keys())
    assert (type(model).__name__, model.model_name) == built


@pytest.mark.slow
def test_a_key_is_read_from_env_and_not_sent_where_all_can_read_it(home: Path) -> None:
    (home / ".env").write_text(f"OPENAI_API_KEY={KEY}\n")
    keys = Keys()
    sent = {
        url: choose("openai:x", url, True, keys).provider.client.api_key  # type: ignore[union-attr]
        for url in ("https://a.example/v1", "http://127.0.0.1:9/v1", "http://a.example/v1")
    }
    assert list(sent.values()) == [KEY, KEY, "none"]
    assert KEY not in repr(keys)


def looks_for_the_session(request: Request) -> Call:
    assert "interrupted" in results(request)[-1].lower()
    return Call("list_sessions")


def goes_on_in_it(request: Request) -> Call:
    [found] = results(request)[-1].splitlines()
    return Call("run_cell", {"code": "x + 1", "session_id": found.split()[0]})


def has_its_variables(request: Request) -> str:
    assert results(request)[-1].startswith("42\n")
    return "It was **still** there."


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX terminals")
def test_ctrl_c_stops_the_run_and_the_conversation_goes_on(home: Path) -> None:
    from tests.client.screens import terminal

    began, late = home / "python_projects" / "began", threading.Event()
    code = f"import time; x = 41; open({str(began)!r}, 'w').close(); time.sleep(60)"
    with (
        language_model(
            Call("run_cell", {"code": code}, "Slowly."),
            looks_for_the_session,
            goes_on_in_it,
            has_its_variables,
            Call("run_cell", {"code": "name = input('Who? ')\nprint('I am', name)"}),
            lambda request: results(request)[-1].splitlines()[-2],
            "Nothing is known.",
            lambda request: str(late.wait(30)),
        ) as model,
        terminal("chat", "--model", "openai:x", "--base-url", model.url) as screen,
    ):
        screen.prompt("you>")
        screen.type("Sleep\r")
        screen.until("> run_cell()")
        ends = time.monotonic() + 60
        while not began.exists():
            assert time.monotonic() < ends, screen.lines
            screen.read(0.05)
        screen.type("\x03")
        screen.until("Stopped; running code was interrupted.")
        screen.prompt("you>")
        screen.type("go on\r")
        screen.until("It was still there.")
        assert "pydantic" not in "\n".join(screen.lines)
        assert b"\x1b[1mstill\x1b[0m" in screen.raw
        screen.prompt("you>")
        screen.type("ask me\r")
        screen.until("asks: Who?")
        screen.type("Ada\r")
        screen.until("\nI am Ada")
        screen.prompt("you>")
        screen.type("/new\r")
        screen.until("A new conversation")
        screen.prompt("you>")
        screen.type("What do you know?\r")
        screen.until("Nothing is known.")
        said = [m["content"] for m in model.requests[-1]["messages"] if m["role"] == "user"]
        assert said == ["What do you know?"]
        screen.prompt("you>")
        model.asked.clear()
        screen.type("Be slow\r")
        while not model.asked.is_set():
            screen.read(0.05)
        screen.type("\x03")
        ends = time.monotonic() + 60
        while "\n".join(screen.lines).count("Stopped; running") < 2:
            assert time.monotonic() < ends, screen.lines
            screen.read(0.05)
        late.set()
        screen.prompt("you>")
        screen.type("\x04")
        assert screen.exit_code() == 0


def users(request: Request) -> list[str]:
    """What the user has said."""
    return [m["content"] for m in request["messages"] if m["role"] == "user"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX terminals")
def test_a_chat_is_continued_where_it_ended(home: Path, chat: Chat) -> None:
    from tests.client.screens import terminal

    chats = home / "state" / "rmi-agent" / "chats"
    plot = "import matplotlib.pyplot as plt; plt.plot([1]); print(6 * 7)"
    with (
        language_model(
            Call("run_cell", {"code": plot}),
            "It is **42**.",
            lambda request: f"{len(images(request))} picture, {users(request)[0]}",
            "Yes.",
            "No.",
        ) as model,
    ):
        words = ("--model", "openai:x", "--base-url", model.url)
        with terminal("chat", *words) as screen:
            screen.prompt("you>")
            screen.type("What is 6 * 7?\r")
            screen.until("It is 42.")
            screen.prompt("you>")
            screen.type("\x04")
            assert screen.exit_code() == 0
            [kept] = chats.iterdir()
            assert f"To continue: rmi-agent chat --resume {kept.stem}" in "\n".join(screen.lines)
        assert (chats.stat().st_mode & 0o777, kept.stat().st_mode & 0o777) == (0o700, 0o600)
        with terminal("chat", "--continue") as screen:  # with the same model
            screen.until("you> What is 6 * 7?\nIt is 42.")
            screen.prompt("you>")
            screen.type("And now?\r")
            screen.until("1 picture, What is 6 * 7?")
            screen.prompt("you>")
            screen.type("/quit\r")
            assert screen.exit_code() == 0
        code, out, err = chat("Sure?", "--resume", kept.stem[:3], "--no-history")
        assert (code, out) == (0, "Yes.\n"), err
        assert users(model.requests[-1])[-2:] == ["And now?", "Sure?"]
        assert chat("Once", *words, "--no-history")[1] == "No.\n"
    assert [kept] == list(chats.iterdir())
    code, out, err = chat("--list")
    assert out.splitlines()[1].split("  ")[:2] == [kept.stem, "What is 6 * 7?"]


@pytest.mark.slow
def test_the_documented_example_runs_as_it_stands(home: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "chat.md").read_text("utf-8")
    [example] = re.findall(r"```python\n(import asyncio.*?ServerTools.*?)```", page, re.DOTALL)
    assert len([line for line in example.splitlines() if line]) <= 15
    with language_model(
        Call("write_python_file", {"file_name": "primes.py", "content": BUGGY}),
        Call("run_python", {"file_name": "primes.py"}),
        looks_into_it,
        writes_the_fix,
        lambda request: Call("run_python", {"file_name": "halves.py"}),
        "All mended.",
    ) as model:
        env = {**os.environ, "OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": model.url}
        done = subprocess.run(
            [sys.executable, "-c", example], capture_output=True, text=True, env=env, timeout=60
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "All mended.\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "variable"), [("anthropic", "ANTHROPIC_API_KEY"), ("google", "GEMINI_API_KEY")]
)
def test_anthropic_and_gemini_are_spoken_to_in_their_own_words(
    chat: Chat, monkeypatch: pytest.MonkeyPatch, kind: str, variable: str
) -> None:
    monkeypatch.setenv(variable, KEY)
    plot = "import matplotlib.pyplot as plt; plt.plot([1]); print(6 * 7)"
    with language_model(Call("run_cell", {"code": plot}, "So."), "It is 42.") as model:
        url = model.url.removesuffix("/v1")
        code, out, err = chat("Go", "--model", f"{kind}:m", "--base-url", url)
    assert (code, out) == (0, "It is 42.\n"), err
    assert KEY in str(model.headers[0])
    first, second = map(str, model.requests)
    assert "run_python runs a file" in first
    assert "Pass the session_id of an earlier result" in first
    assert "42\\n[session_id:" in second
    assert "'image/png'" in second
    assert "iVBORw0KGgo" in second
    assert KEY not in out + err


@pytest.mark.parametrize(
    ("text", "done", "rest"),
    [
        ("one\n\ntwo", "one\n\n", "two"),
        ("one", "", "one"),
        ("```\na\n\nb", "", "```\na\n\nb"),
        ("a\n\n```\nb\n\nc\n```\n\nd", "a\n\n```\nb\n\nc\n```\n\n", "d"),
    ],
)
def test_a_growing_text_is_settled_by_paragraphs(text: str, done: str, rest: str) -> None:
    assert settled(text) == (done, rest)


@pytest.mark.slow
def test_help_imports_neither_models_nor_the_editor() -> None:
    code = (
        "import sys; from rmi_agent.cli import app; app(['--help'], exit_on_error=False,"
        " result_action='return_value')\n"
        "print([m for m in ('pydantic_ai', 'prompt_toolkit', 'textual_image') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.endswith("[]\n"), done.stdout + done.stderr
