"""`rmi-agent repl` and `rmi-agent chat`: a person at a terminal, and a session on a server.

The prompt itself is in `repl.py`, the conversation in `client/chat/`, which needs an extra.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from .. import quick_imports
from ..terminal import Questions, is_terminal, show_starting
from .options import NoSandbox, ProjectsDir, Quiet, Server, Timeout

if TYPE_CHECKING:
    from ..client import RmiMcpClient


def repl(
    *,
    projects_dir: ProjectsDir = None,
    no_sandbox: NoSandbox = False,
    server: Server = None,
    timeout: Timeout = None,
    quiet: Quiet = False,
) -> None:
    """Open a prompt whose cells run in one session.

    Tab completes, Ctrl-C interrupts the cell, Ctrl-D exits.
    """
    show_starting()
    from anyio.from_thread import start_blocking_portal

    from ..attendance import Attendance
    from ..errors import failures  # lazy: takes long, and --help does not need it
    from .connect import Connection, fail, silent
    from .repl import Repl
    from .settings import use_settings

    if why := use_settings(server, projects_dir, no_sandbox):
        sys.exit(fail(why))
    quick_imports.import_jsonschema()
    connection = Connection(server, lasting=True)
    with silent(), start_blocking_portal() as portal:
        try:
            questions = Questions()
            client = connection.client(questions.ask)
            client.attended = Attendance()
            with portal.wrap_async_context_manager(client):
                quick_imports.resume_gc()
                code = Repl(portal, client, timeout, questions, quiet=quiet).run()
        except failures() as error:
            code = fail(connection.why_not(error))
        except KeyboardInterrupt:
            code = 130
        finally:
            connection.close()
    sys.exit(code)


def chat(
    question: Annotated[
        str | None, Parameter(help="The first question. By default, asks for it.")
    ] = None,
    /,
    *,
    model: Annotated[
        str | None,
        Parameter(
            help="openai:NAME, google:NAME, anthropic:NAME or ollama:NAME. By default,"
            " RMI_AGENT_MODEL or the first provider that has an API key."
        ),
    ] = None,
    base_url: Annotated[
        str | None,
        Parameter(
            help="URL of a server that speaks the provider's protocol (…/v1). By default, the"
            " provider's own."
        ),
    ] = None,
    server: Server = None,
    once: Annotated[bool, Parameter(help="Answer the question and exit.", negative="")] = False,
    pictures: Annotated[bool, Parameter(help="Show the model the code's pictures.")] = True,
    continue_: Annotated[
        bool, Parameter(name=["--continue", "-c"], help="Continue the last chat.", negative=())
    ] = False,
    resume: Annotated[
        str | None, Parameter(help="Continue the chat with this id, or the beginning of one.")
    ] = None,
    list_: Annotated[
        bool, Parameter(name="--list", help="List the chats that can be continued.", negative=())
    ] = False,
    history: Annotated[
        bool | None,
        Parameter(help="Keep this chat, so that it can be continued (RMI_AGENT_CHAT_HISTORY=on)."),
    ] = None,
) -> None:
    """Chat with a language model that runs Python here; with a pipe as stdin, answer once."""
    show_starting()
    from ..errors import NoConversationError, NoModelError  # lazy: --help does not need them
    from .connect import call, fail

    try:
        from ..chat import Store, begin, converse, hide_api_keys, show_chats
    except ImportError as error:
        if not (error.name or "").startswith("pydantic_ai"):
            raise
        sys.exit(fail('chat needs an extra: run pip install -e ".[chat]" in the checkout.'))
    if list_:
        show_chats(Store())
        return
    piped = "" if sys.stdin is None or is_terminal(sys.stdin) else sys.stdin.read().strip()
    asked = "\n\n".join(part for part in (question, piped) if part)
    if (once or not is_terminal(sys.stdin)) and not asked:
        sys.exit(fail("There is no question: give one, or pipe one in."))
    hide_api_keys()
    continues = "" if continue_ else resume
    try:
        talk = begin(model, base_url, pictures=pictures, continues=continues, keeps=history)
    except (NoConversationError, NoModelError) as error:
        sys.exit(fail(str(error)))

    async def work(client: RmiMcpClient) -> int:
        talk.use(client)
        if once or not is_terminal(sys.stdin):
            return 0 if await talk.answer(asked) else 1
        return await converse(talk, question)

    call(server, work, talk.ask, lasting=True)
