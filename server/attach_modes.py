"""Whether a stdio process uses the background server: RMI_AGENT_ATTACH and --attach.

A module of its own, so that a command's --help needs none of the settings.
"""

from typing import Literal

Attach = Literal["auto", "always", "never"]
