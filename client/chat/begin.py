"""Begins a chat: chooses its model, and what it continues, from options and settings."""

from __future__ import annotations

from pydantic import ValidationError

from ..errors import NoModelError
from .loop import Chat
from .models import Keys, choose, full_name
from .store import Conversation, Store


def begin(
    model: str | None,
    base_url: str | None,
    *,
    pictures: bool,
    continues: str | None,
    keeps: bool | None,
) -> Chat:
    """Begin a chat.

    Args:
        model: its name; by default, that of the conversation that is continued, or the setting.
        base_url: the API's URL, for servers that are not the provider's own.
        pictures: whether the model is given pictures.
        continues: the beginning of a kept conversation's id; empty for the last one, None for none.
        keeps: whether the conversation is kept; None for the setting.

    Raises:
        NoModelError: the model, its key or a setting is missing or invalid.
        NoConversationError: there is no such conversation.
    """
    try:
        keys = Keys()
    except ValidationError:  # of the only setting that is not just text
        raise NoModelError("RMI_AGENT_CHAT_HISTORY is invalid; use on or off.") from None
    store = Store()
    conversation = Conversation("") if continues is None else store.load(continues)
    if continues is not None and model is None and base_url is None:
        model, base_url = conversation.model, conversation.base_url
    chosen = choose(model, base_url, pictures, keys)
    conversation.model, conversation.base_url = full_name(model, base_url, keys), base_url
    keeps = keys.rmi_agent_chat_history if keeps is None else keeps
    return Chat(chosen, keys, conversation, store if keeps else None)
