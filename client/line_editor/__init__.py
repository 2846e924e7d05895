"""The interactive prompt, with history and completion (prompt_toolkit).

A separate package, since pipes don't need it and it is slow to import.
"""

from .prompt import answer_prompt, code_prompt, message_prompt

__all__ = [
    "answer_prompt",
    "code_prompt",
    "message_prompt",
]
