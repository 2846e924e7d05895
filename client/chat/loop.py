"""The conversation of `rmi-agent chat`, with a model that runs Python through the server's tools.

Runs the conversation and keeps its history; other modules choose the model, call the tools and
show the transcript.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterable, Awaitable, Callable, Iterator, Sequence
from typing import Any

import pydantic_ai
from pydantic_ai import (
    Agent,
    BinaryContent,
    CancellationToken,
    RunContext,
    UsageLimits,
    capture_run_messages,
)
from pydantic_ai.exceptions import AgentRunError, RunCancelled
from pydantic_ai.messages import (
    FunctionToolCallEvent,
    FunctionToolResultEvent,
    ModelMessage,
    ModelResponse,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    UserPromptPart,
)
from pydantic_ai.models import Model

from ..client import RmiMcpClient
from ..results import Picture
from ..terminal import ask, can_edit, is_terminal
from .models import Keys, explain_error
from .store import Conversation, Store
from .toolset import ServerTools
from .transcript import Transcript

pydantic_ai.BANNER_ENABLED = False  # it would print an ad in the middle of the first answer

REQUESTS = 50  # max model requests per answer
RETRIES = 5  # max retries of a tool call with invalid arguments
COMMANDS = "/new starts a new conversation, /quit or Ctrl-D exits, Ctrl-C stops an answer."


class Chat:
    """A conversation: `use` a connected client, then call `answer` for each question.

    Args:
        model: answers.
        keys: never appear in what is shown.
        conversation: one to continue; a new one if omitted.
        store: where it is kept after each answer; nowhere if omitted.

    Attributes:
        conversation: all messages so far, as pydantic-ai has them.
        transcript: shows the conversation.
    """

    def __init__(
        self,
        model: Model,
        keys: Keys,
        conversation: Conversation | None = None,
        store: Store | None = None,
    ) -> None:
        self.conversation = conversation or Conversation(model.model_name)
        self.transcript = Transcript()
        self._store = store
        self._agent: Agent[None, str] = Agent(model, retries=RETRIES)
        self._model = model
        self._keys = keys

    def use(self, client: RmiMcpClient) -> None:
        """Give the model the tools and instructions of a connected server."""
        self._agent = Agent(
            self._model,
            instructions=client.instructions or None,
            toolsets=[ServerTools(client)],
            retries=RETRIES,
        )

    async def ask(self, question: str, secret: bool) -> str | None:
        """Put a cell's question to the person; None if stdin is a pipe."""
        self.transcript.pause()
        if not is_terminal(sys.stdin):
            return None
        if not can_edit():
            return await asyncio.to_thread(ask, question, secret)
        from ..line_editor import answer_prompt

        return await answer_prompt(question, secret)

    async def answer(self, question: str) -> bool:
        """Answer one question and show the steps; whether that succeeded. Ctrl-C stops it."""
        answered = await self._answer(question)
        if self.conversation.messages:
            self.conversation.title = self.conversation.title or question
            await self._save()
        return answered

    @property
    def keeps(self) -> bool:
        """Whether conversations are kept."""
        return self._store is not None

    @property
    def is_kept(self) -> bool:
        """Whether the conversation can be continued after this process."""
        return self.conversation.written is not None

    def start_anew(self) -> None:
        """Begin another conversation with the same model."""
        self.conversation = Conversation(self.conversation.model, self.conversation.base_url)

    async def _save(self) -> None:
        if self._store is None:
            return
        try:
            await asyncio.to_thread(self._store.save, self.conversation)
        except (OSError, ValueError) as error:  # ValueError: a message can't be written as JSON
            why = getattr(error, "strerror", None) or error
            self.transcript.say(f"The conversation is not kept: {why}.")
            self._store = None

    async def _answer(self, question: str) -> bool:
        token = CancellationToken()
        with interrupts(token.cancel), capture_run_messages() as messages:
            try:
                self.transcript.thinking()
                done = await self._agent.run(
                    question,
                    message_history=self.conversation.messages,
                    usage_limits=UsageLimits(request_limit=REQUESTS),
                    cancellation_token=token,
                    event_stream_handler=self._show,
                )
            except RunCancelled as stopped:
                self._keep(stopped.all_messages())
                self.transcript.end_of_words(last=False)
                self.transcript.say("Stopped; running code was interrupted.")
                return False
            except AgentRunError as error:
                self._keep(messages)
                self.transcript.end_of_words(last=False)
                self.transcript.say(explain_error(error, self._model, self._keys))
                return False
        self.conversation.messages = done.all_messages()
        self.transcript.end_of_words(last=True)
        return True

    def _keep(self, messages: Sequence[ModelMessage]) -> None:
        """Keep a partial answer in the history; drop a question that got no response."""
        new = messages[len(self.conversation.messages) :]
        if any(isinstance(message, ModelResponse) and message.parts for message in new):
            self.conversation.messages = list(messages)

    def show_last(self) -> None:
        """Show the last question and answer of a conversation that is continued."""
        count, question, answer = 0, "", ""
        for message in self.conversation.messages:
            for part in message.parts:
                if isinstance(part, UserPromptPart) and isinstance(part.content, str):
                    count, question, answer = count + 1, part.content, ""
                elif isinstance(part, TextPart):
                    answer = part.content
        earlier = f"{count - 1} earlier questions; the last one was:\n" if count > 1 else ""
        self.transcript.say(f"{earlier}you> {question}")
        self.transcript.words(answer)
        self.transcript.end_of_words(last=True)

    async def _show(self, _: RunContext[None], events: AsyncIterable[Any]) -> None:
        async for event in events:
            match event:
                case PartStartEvent(part=TextPart(content=text)):
                    self.transcript.words(text)
                case PartDeltaEvent(delta=TextPartDelta(content_delta=text)):
                    self.transcript.words(text)
                case FunctionToolCallEvent(part=part):
                    self.transcript.call(part.tool_name, part.args_as_dict())
                case FunctionToolResultEvent(part=part):
                    self._show_result(part)
        self.transcript.thinking()

    def _show_result(self, part: Any) -> None:
        content = part.content if isinstance(part.content, list) else [part.content]
        text = "".join(piece for piece in content if isinstance(piece, str))
        pictures = [
            Picture(piece.media_type, piece.data)
            for piece in content
            if isinstance(piece, BinaryContent)
        ]
        facts = part.metadata if isinstance(part.metadata, dict) else {}
        if part.outcome == "failed":
            facts = {"status": "refused"}
        self.transcript.result(part.tool_name, text, facts, pictures)


@contextlib.contextmanager
def interrupts(stop: Callable[[], None]) -> Iterator[None]:
    """Make Ctrl-C call `stop` once; a second Ctrl-C ends the program as usual."""
    loop = asyncio.get_running_loop()

    def handle(*_: object) -> None:
        signal.signal(signal.SIGINT, before)
        loop.call_soon_threadsafe(stop)

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def reader(*, keeps: bool) -> Callable[[str], Awaitable[str | None]]:
    """A function that reads a typed line; it returns None at the end of input.

    Args:
        keeps: whether what is typed can be recalled in later chats.
    """
    if not can_edit():
        return lambda prompt: asyncio.to_thread(ask, prompt, False)
    from ..line_editor import message_prompt  # lazy: pipes don't need prompt_toolkit

    session = message_prompt(keeps=keeps)

    async def read(prompt: str) -> str | None:
        while True:
            try:
                return await session.prompt_async(prompt)
            except KeyboardInterrupt:
                continue
            except EOFError:
                return None

    return read


async def converse(chat: Chat, question: str | None) -> int:
    """Answer questions until the end of input; returns the exit code."""
    chat.transcript.say(COMMANDS)
    if chat.conversation.messages:
        chat.show_last()
    await answer_all(chat, question)
    if chat.is_kept:
        chat.transcript.say(f"To continue: rmi-agent chat --resume {chat.conversation.id}")
    return 0


async def answer_all(chat: Chat, question: str | None) -> None:
    """Answer questions until the end of input."""
    read = reader(keeps=chat.keeps)
    while True:
        if question is None and (question := await read("you> ")) is None:
            return
        match question.strip():
            case "/quit" | "/exit":
                return
            case "/new":
                chat.start_anew()
                chat.transcript.say("A new conversation; sessions stay open.")
            case "":
                pass
            case command if command.startswith("/") and " " not in command:
                chat.transcript.say(COMMANDS)
            case asked:
                await chat.answer(asked)
        question = None
