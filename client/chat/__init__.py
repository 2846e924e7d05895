"""`rmi-agent chat`: lets a person talk to a language model that uses the server's tools.

Needs the `chat` extra; nothing else imports this package until it is needed.
"""

from .begin import begin
from .listing import show_chats
from .loop import Chat, converse
from .models import Keys, choose, hide_api_keys
from .store import Conversation, Store
from .toolset import ServerTools

__all__ = [
    "Chat",
    "Conversation",
    "Keys",
    "ServerTools",
    "Store",
    "begin",
    "choose",
    "converse",
    "hide_api_keys",
    "show_chats",
]
