"""What a kernel may see, write and call: bubblewrap or Landlock, with seccomp in both cases.

`Policy` says what is wanted; `Sandbox` turns it into the command line for one principal.
"""

from .policy import TIERS, Policy, Sandbox, Tier
from .probe import keeps_devices, lets_signals_out, why_not
from .seccomp import knows_system_calls
from .unprivileged import without_rights

__all__ = [
    "TIERS",
    "Policy",
    "Sandbox",
    "Tier",
    "keeps_devices",
    "knows_system_calls",
    "lets_signals_out",
    "why_not",
    "without_rights",
]
