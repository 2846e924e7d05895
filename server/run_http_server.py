"""`python server/run_http_server.py`: serves HTTP at /mcp and /sse."""

import sys

from rmi_agent.server.cli import app

if __name__ == "__main__":
    app(["--transport", "http", *sys.argv[1:]])
