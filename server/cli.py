"""`python -m rmi_agent.server.cli` is `rmi-agent-mcp-server`; its commands are in `commands/`."""

from .commands import app, main

__all__ = ["app", "main"]

if __name__ == "__main__":
    main()
