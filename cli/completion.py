"""`rmi-agent --install-completion`: lets Tab complete in the user's shell.

The library writes the script; what is offered for files, sessions and settings is found when Tab
is pressed.
"""

from __future__ import annotations

import sys
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.completion.detect import ShellDetectionError


def install(
    *,
    shell: Annotated[
        Literal["bash", "zsh", "fish", "powershell"] | None,
        Parameter(help="Shell to set up. By default, the one that runs this command."),
    ] = None,
) -> None:
    """Let Tab complete commands, options, files and sessions in your shell."""
    from .entry import app

    try:
        path = app.install_completion(shell=shell)
    except ShellDetectionError:
        print(
            "Which shell runs this is not known. Name it:"
            " rmi-agent --install-completion --shell bash",
            file=sys.stderr,
        )
        raise SystemExit(1) from None
    except OSError as error:
        print(f"The completion can't be installed: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    print(f"Installed in {path}. It works in new terminals.")
