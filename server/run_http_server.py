"""`python server/run_http_server.py`: serves HTTP at /mcp and /sse."""

import sys

from rmi_agent.server.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["--transport", "http"]
    main()
