"""The console script, also `python -m rmi_agent.server.cli`; its commands are in `commands/`."""

from .commands import app, main

__all__ = ["app", "main"]

if __name__ == "__main__":
    main()
