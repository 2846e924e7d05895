"""What a kernel may see, write and call: bubblewrap or Landlock, and seccomp in both.

`Policy` says what is wanted, `Sandbox` makes one principal's command line of it.
"""

from .policy import TIERS, Policy, Sandbox, Tier
from .probe import keeps_devices, lets_signals_out, why_not
from .seccomp import knows_system_calls

__all__ = [
    "TIERS",
    "Policy",
    "Sandbox",
    "Tier",
    "keeps_devices",
    "knows_system_calls",
    "lets_signals_out",
    "why_not",
]
