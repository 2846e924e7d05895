"""What is said of a server that can't be used: the cause, and the next step."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator

import pytest
from rmi_agent.cli import main
from rmi_agent.client.addresses import url_of

from tests.ports import free_port


@pytest.mark.parametrize(
    ("target", "url"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000/mcp"),
        ("localhost", "http://localhost/mcp"),
        ("http://host", "http://host/mcp"),
        ("http://host/", "http://host/mcp"),
        ("https://host/mcp/", "https://host/mcp"),
        ("HTTPS://host:1/x/sse", "https://host:1/x/sse"),
        ("host:8000/", "http://host:8000/mcp"),
        ("host:443", "https://host:443/mcp"),
        ("a.example.com", "https://a.example.com/mcp"),
        ("[::1]:80", "http://[::1]:80/mcp"),
        ("server.py", None),
        ("python", None),
        ("./server", None),
        ("python -m server", None),
        ("", None),
    ],
)
def test_an_address_in_any_form_leads_to_the_endpoint(target: str, url: str | None) -> None:
    assert url_of(target) == url


class Answers(http.server.BaseHTTPRequestHandler):
    """Answers each request with the status, type and text that its path names."""

    def do_POST(self) -> None:
        status = int(self.path.split("/")[1])
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if status == 200 else "text/plain")
        self.send_header("Location", "https://elsewhere.example")
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    do_GET = do_DELETE = do_POST

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def answers() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("{}/401", "asks for a token"),
        ("{}/421", "RMI_AGENT_ALLOWED_HOSTS=127.0.0.1"),
        ("{}/404", "no MCP server at /404"),
        ("{}/200", "a web page answers"),
        ("{}/502", "no server is behind it (502)"),
        ("{}/307", "redirects to https://elsewhere.example"),
        ("{}/500", "it answers 500"),
        ("https://{}", "it does not speak TLS"),
        ("127.0.0.1:{free}", "rmi-agent serve --transport http --port"),
        ("nowhere.invalid:1", "the name nowhere.invalid is not known"),
    ],
)
def test_a_failure_names_its_cause_and_points_to_the_doctor(
    target: str, said: str, answers: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["check", "--server", target.format(answers, free=free_port())])
    out, err = capfd.readouterr()
    assert (left.value.code, out) == (1, "")
    assert said in err
    first, last = err.splitlines()
    assert first.startswith("Can't talk to http") and "rmi-agent doctor --url http" in last


def test_a_proxy_is_named_without_its_password(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://me:secret@127.0.0.1:{free_port()}")
    with pytest.raises(SystemExit):
        main(["check", "--server", "http://nowhere.invalid"])
    err = capfd.readouterr().err
    assert "the proxy http://127.0.0.1:" in err and "NO_PROXY=nowhere.invalid" in err
    assert "secret" not in err


def test_a_proxy_that_is_not_used_is_not_blamed(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "other.invalid, nowhere.invalid")
    with pytest.raises(SystemExit):
        main(["check", "--server", "http://nowhere.invalid"])
    assert "the name nowhere.invalid is not known" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("no-such-command --x", "there is no such command, script or address"),
        ("python -c 'raise SystemExit(\"it is broken\")'", "It printed: it is broken"),
        ("python -c 'print(123)'", "Can't talk to"),
    ],
)
def test_a_command_that_is_no_server_is_said_so(
    target: str, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["check", "--server", target])
    out, err = capfd.readouterr()
    assert (left.value.code, out) == (1, "")
    assert said in err and "validation error" not in err and "Traceback" not in err
    assert len(err.splitlines()) <= 2
