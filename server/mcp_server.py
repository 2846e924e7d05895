"""`python server/mcp_server.py`: serves stdio, as Claude Desktop starts it."""

from rmi_agent.server.cli import main

if __name__ == "__main__":
    main()
