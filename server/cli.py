"""`python -m rmi_agent.server.cli` is `rmi-agent-mcp-server`; its commands are in `commands/`."""

from .commands import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
