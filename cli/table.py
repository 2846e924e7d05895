"""The commands of `rmi-agent`: where each is, what it does, and examples of its use."""

from __future__ import annotations

from dataclasses import dataclass

CLIENT, SERVER = "rmi_agent.client.commands.", "rmi_agent.server.commands."
RUNNING, SESSIONS, BACKGROUND, SETUP = (
    "Running code",
    "Sessions",
    "Servers",
    "Setup",
)


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        path: of its function, or of its app if it has commands of its own, which has its examples.
        group: the heading that it is listed under.
        does: what it does, in a sentence; more may follow after an empty line.
        examples: lines to copy.
        usage: its arguments, where the parser can't tell.
    """

    path: str
    group: str
    does: str
    examples: tuple[str, ...] = ()
    usage: str | None = None

    @property
    def is_app(self) -> bool:
        """Whether it has commands of its own."""
        return self.path.endswith(":app")


COMMANDS = {
    "run": Command(
        f"{CLIENT}run:run",
        RUNNING,
        "Run a Python file, notebook or module like `python`, and exit with its exit code."
        "\n\nFILE is looked for in the current folder, then in the projects folder. Whatever"
        " follows FILE or -m MODULE is passed to the program; this command's options come before.",
        (
            "rmi-agent run hello_world.py",
            "rmi-agent run ./report.py 2026 < data.csv",
            "rmi-agent run -t 60 -m pytest -q",
            "rmi-agent run analysis.ipynb alpha=0.1",
        ),
        "[OPTIONS] FILE [ARGS...], or [OPTIONS] -m MODULE [ARGS...]",
    ),
    "cell": Command(
        f"{CLIENT}run:cell",
        RUNNING,
        "Run a snippet of Python; its input() asks at this terminal.",
        (
            "rmi-agent cell '6 * 7'",
            "rmi-agent cell -s SESSION 'df.head()'",
            "rmi-agent cell - < snippet.py",
        ),
    ),
    "repl": Command(
        f"{CLIENT}interactive:repl",
        RUNNING,
        "Open a prompt whose cells run in one session.\n\n"
        "Tab completes, Ctrl-C interrupts the cell, Ctrl-D exits.",
        ("rmi-agent repl", "rmi-agent repl --server 127.0.0.1:8000"),
    ),
    "chat": Command(
        f"{CLIENT}interactive:chat",
        RUNNING,
        "Chat with a language model that runs Python here; with a pipe as stdin, answer once.",
        (
            "rmi-agent chat",
            'rmi-agent chat --model ollama:qwen3 "plot sin(x)"',
            'cat data.csv | rmi-agent chat "which column has gaps?"',
            "rmi-agent chat --continue",
        ),
        "[OPTIONS] [QUESTION]",
    ),
    "sessions": Command(
        f"{CLIENT}sessions:sessions",
        SESSIONS,
        "List the sessions: those open in the background server, then those recorded here.\n\n"
        "With --server, lists the sessions that are open there.",
        (
            "rmi-agent sessions",
            "rmi-agent sessions --server https://example.com",
            "rmi-agent sessions --prune 30d",
        ),
    ),
    "show": Command(
        f"{CLIENT}show:show",
        SESSIONS,
        "Print a session as a terminal transcript: code, output, tracebacks and pictures.\n\n"
        "Without --server, any session recorded on this machine; with it, an open one there.",
        ("rmi-agent show", "rmi-agent show BIonMN", "rmi-agent show ~/analysis.ipynb | less"),
        "[OPTIONS] [SESSION]",
    ),
    "open": Command(
        f"{CLIENT}show:open_",
        SESSIONS,
        "Open a recorded session in Jupyter if it is installed, otherwise as a page in the"
        " browser.\n\nKeeps running until you press Ctrl-C.",
        ("rmi-agent open", "rmi-agent open --browser BIonMN"),
        "[OPTIONS] [SESSION]",
    ),
    "attach": Command(
        f"{CLIENT}sessions:attach",
        SESSIONS,
        "Join a session with Jupyter's console, sharing its variables with the assistant.",
        (
            "rmi-agent attach SESSION",
            "rmi-agent attach --print SESSION",
            "rmi-agent attach --allow kernel-4711.json",
        ),
    ),
    "replay": Command(
        f"{CLIENT}sessions:replay",
        SESSIONS,
        "Rerun a recorded notebook; exits with 1 if a result differs from the record.",
        ("rmi-agent replay notebooks/2026-11-27.ipynb", "rmi-agent replay --until 3 x.ipynb"),
    ),
    "review": Command(
        f"{SERVER}serve:review",
        SESSIONS,
        "Show recorded sessions in a browser, on this machine only, without a running server.",
        ("rmi-agent review", "rmi-agent review --no-browser --port 8080"),
    ),
    "serve": Command(
        f"{SERVER}serve:serve",
        BACKGROUND,
        "Serve MCP clients in the foreground, on stdio or over HTTP.",
        (
            "rmi-agent serve --transport http",
            "rmi-agent serve --transport http --port 9000 --projects-dir ~/code",
        ),
    ),
    "start": Command(
        f"{SERVER}resident:start",
        BACKGROUND,
        "Start a background server, whose sessions outlive their clients. Clients find it on their"
        " own.",
        ("rmi-agent start", "rmi-agent start --projects-dir ~/code"),
    ),
    "stop": Command(
        f"{SERVER}resident:stop",
        BACKGROUND,
        "Shut down the background server.",
        ("rmi-agent stop",),
    ),
    "status": Command(
        f"{SERVER}resident:status",
        BACKGROUND,
        "Show the background server; exits with 0 if it is running, 3 if not, 4 if unclear.",
        ("rmi-agent status",),
    ),
    "tokens": Command(
        f"{SERVER}tokens:app",
        BACKGROUND,
        "List and revoke clients' sign-ins (RMI_AGENT_AUTH=token+oauth).",
    ),
    "install": Command(
        f"{SERVER}install:install",
        SETUP,
        "Add the server to the config of a host, such as Claude Desktop or VS Code.",
        (
            "rmi-agent install claude-desktop",
            "rmi-agent install vscode --projects-dir ~/code --dry-run",
        ),
        "[OPTIONS] [HOST]",
    ),
    "connect": Command(
        f"{SERVER}install:connect",
        SETUP,
        "Connect a host to a server that runs elsewhere.",
        ("RMI_AGENT_TOKEN=… rmi-agent connect cursor https://example.com/mcp",),
    ),
    "uninstall": Command(
        f"{SERVER}install:uninstall",
        SETUP,
        "Remove an entry of the server from a host's config.",
        ("rmi-agent uninstall claude-desktop",),
    ),
    "doctor": Command(
        f"{SERVER}doctor:doctor",
        SETUP,
        "Check what a server needs on this machine; exits with 1 if a check fails.",
        ("rmi-agent doctor", "rmi-agent doctor --url https://example.com"),
    ),
    "check": Command(
        f"{CLIENT}sessions:check",
        SETUP,
        "Test the communication with a server in seven steps and report each.",
        ("rmi-agent check", "rmi-agent check --server https://example.com"),
    ),
}
EXAMPLES = (
    "rmi-agent run hello_world.py",
    "rmi-agent repl",
    "rmi-agent install claude-desktop",
    "rmi-agent COMMAND --help    (options and examples of a command)",
)


def epilogue(examples: tuple[str, ...]) -> str:
    """What stands at the end of a command's help."""
    return "\n".join(["Examples:", *(f"  {line}" for line in examples)])
