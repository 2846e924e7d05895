"""`rmi-agent chat`: lets a person talk to a language model that uses the server's tools.

Needs the `chat` extra; nothing else imports this package until it is needed.
"""

from .loop import Chat, converse
from .models import Keys, choose, hide_api_keys
from .toolset import ServerTools

__all__ = [
    "Chat",
    "Keys",
    "ServerTools",
    "choose",
    "converse",
    "hide_api_keys",
]
