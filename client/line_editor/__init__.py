"""The line that a person types at, with history and completion (prompt_toolkit).

A folder of its own, since a pipe does not need it and it takes a while to import.
"""

from .prompt import answer_prompt, code_prompt, message_prompt

__all__ = [
    "answer_prompt",
    "code_prompt",
    "message_prompt",
]
