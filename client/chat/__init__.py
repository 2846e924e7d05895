"""`rmi-agent chat`: a language model that uses the server's tools, and a person who talks to it.

Needs the extra `chat`; nothing else here imports it before it is asked for.
"""

from .loop import Chat, converse
from .models import Keys, NoModelError, choose, unreadable

__all__ = [
    "Chat",
    "Keys",
    "NoModelError",
    "choose",
    "converse",
    "unreadable",
]
